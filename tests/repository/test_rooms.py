"""The package's rooms: which modules may import which, and that none imports itself by way of others."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).parents[2]
# from the ground up: a module may import those of its own room and of the rooms before it
ROOMS = (
    ("environment", "version", "runtime.files", "runtime.interrupts", "errors"),
    ("kernels",),
    ("hub",),
    ("recipe",),
    ("runtime",),
    ("layers",),
    (
        "weights.pickles",
        "weights.pickle_rules",
        "weights.torch_files",
        "weights.prefixes",
        "weights.foreign",
        "weights.sets",
        "weights.names",
        "weights.readers",
    ),
    ("weights", "models"),  # a registry that loads, and loading that knows the registry's networks
    ("optim", "data"),
    ("tasks",),
    ("engine",),
    ("inference",),
    ("visualization",),
    ("serve",),
    ("benchmark",),
    ("cli",),
    ("tools", "__main__"),
)


def modules() -> dict[str, Path]:
    """Every module of the package by its name without `mindvit.`; the package itself is ''."""
    found = {}
    for path in sorted((ROOT / "mindvit").rglob("*.py")):
        parts = path.relative_to(ROOT / "mindvit").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path], inside_functions: bool) -> Iterator[str]:
    """What a module imports of the package; type-checking imports are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if typing_only or (not inside_functions and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            skipped.update(child for child in ast.walk(node) if child is not node)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mindvit":
            home = ".".join(str(node.module).split(".")[1:])
            for alias in node.names:
                full = f"{home}.{alias.name}".strip(".")
                yield full if full in known else home
        elif isinstance(node, ast.Import):
            yield from (
                ".".join(alias.name.split(".")[1:]) for alias in node.names if alias.name.startswith("mindvit.")
            )


def floor(module: str) -> int:
    """The room of a module; the most particular name decides."""
    names = [".".join(module.split(".")[:count]) for count in range(len(module.split(".")), 0, -1)]
    return next(number for name in names for number, room in enumerate(ROOMS) if name in room)


def test_imports_run_downward() -> None:
    known = modules()
    upward = [
        f"{module} imports {other}"
        for module, path in known.items()
        for other in imports(path, known, inside_functions=True)
        if module and other and floor(other) > floor(module)
    ]
    assert not upward, "\n".join(upward)


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {module: set(imports(path, known, inside_functions=False)) - {module, ""} for module, path in known.items()}

    def circle(module: str, way: tuple[str, ...]) -> tuple[str, ...]:
        if module in way:
            return (*way[way.index(module) :], module)
        if module not in done:
            for other in sorted(graph[module]):
                found = circle(other, (*way, module))
                if found:
                    return found
            done.add(module)
        return ()

    done: set[str] = set()
    for module in known:
        assert not circle(module, ()), " -> ".join(circle(module, ()))


def test_every_module_has_a_room() -> None:
    for module in modules():
        assert not module or floor(module) >= 0
