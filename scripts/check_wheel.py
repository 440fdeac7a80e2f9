"""Say what a wheel lacks or has too much: python scripts/check_wheel.py FILE.whl (exit code 1 if anything).

A wheel holds every file of mindvit/, and configs/ as mindvit/configs.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOT_SHIPPED = {"__pycache__", ".DS_Store"}


def wanted() -> set[str]:
    """The files that a wheel must hold, by their names in it."""
    files = {
        path.relative_to(ROOT): path
        for folder in ("mindvit", "configs")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    return {
        ("mindvit" / name if name.parts[0] == "configs" else name).as_posix()
        for name in files
        if not NOT_SHIPPED & set(name.parts)
    }


def main(path: str) -> int:
    """Print the differences; the exit code."""
    with zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if not name.endswith("/")]
    held = {name for name in names if name.startswith("mindvit/")}
    told = [f"missing from the wheel: {name} (package-data in pyproject.toml)" for name in sorted(wanted() - held)]
    told += [
        f"in the wheel, but not in the repository: {name} (an old build/ folder?)" for name in sorted(held - wanted())
    ]
    told += [f"beside the package: {name}" for name in names if name not in held and ".dist-info/" not in name]
    told += [
        f"missing from the wheel: {name}"
        for name in ("entry_points.txt", "licenses/LICENSE")
        if not any(item.endswith(name) for item in names)
    ]
    print("\n".join(told) or f"{Path(path).name}: {len(held)} files, as in the repository")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
