"""What mkdocs is told beyond mkdocs.yml: links from docs/ to other files of the repository, which the site doesn't hold, and the marks of commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NPU = "<!-- needs: npu -->"
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link to a file beside docs/ becomes its path in the repository, a mark a remark; FileNotFoundError if there is no such file."""

    def path_only(found: re.Match) -> str:
        text, path = found[1].strip("`"), found[2]
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"docs/{page.file.src_path}: links to {path}, which isn't in the repository")
        return f"`{path}`" if text == path else f"{text} (`{path}`)"

    return OUTSIDE.sub(path_only, markdown).replace(NPU, "*Needs NPUs:*\n")
