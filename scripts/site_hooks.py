"""What mkdocs is told beyond mkdocs.yml: links from docs/ to files that the site doesn't hold, and the marks of
commands.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NPU = "<!-- needs: npu -->"
UPWARDS = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link to a file beside docs/ becomes its path in the repository, a mark a remark.

    FileNotFoundError if there is no such file.
    """
    folder = (ROOT / "docs" / page.file.src_path).parent

    def path_only(found: re.Match) -> str:
        target = Path(os.path.normpath(folder / found[2]))
        if ROOT / "docs" in target.parents:  # another page
            return found[0]
        if not target.exists():
            raise FileNotFoundError(f"docs/{page.file.src_path}: links to {found[2]}, which isn't in the repository")
        text, path = found[1].strip("`"), target.relative_to(ROOT).as_posix()
        return f"`{path}`" if text == path else f"{text} (`{path}`)"

    return UPWARDS.sub(path_only, markdown).replace(NPU, "*Needs NPUs:*\n")
