"""Which part of the package may import which: the map in CONTRIBUTING.md, read and checked.

Imports are read from the source, also those inside of functions; those for type checkers alone do
not count. Nothing is imported here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"forcedelta": ROOT / "plugin" / "forcedelta", "md_hooks": ROOT / "md_hooks"}
ENTRY_POINTS = {
    "forcedelta",
    "forcedelta.__main__",
    "forcedelta.training.__main__",
}  # they lead to everything, and nothing to them
ENGINES_AND_MODELS = {"torch", "openmm", "openmmml", "openmmtorch", "forcedelta"}


@dataclass(frozen=True)
class Import:
    """One imported module, as it stands in one line of another."""

    module: str
    """the module that imports, "forcedelta.audit.replay" """
    target: str
    """what it imports, down to the module that the name comes from"""
    place: str
    """file and line"""
    at_import: bool
    """whether it happens when the module is imported, and not when a function is called"""


def _modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = _modules()


def _statements(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Import statements below a node, and whether they stand in a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _statements(other, inside)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _statements(child, inside or function)


def _targets(statement: ast.AST, module: str) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    assert isinstance(statement, ast.ImportFrom)
    start = statement.module or ""
    if statement.level:
        package = module.split(".")
        if MODULES[module].name != "__init__.py":
            package = package[:-1]
        package = package[: len(package) - statement.level + 1]
        start = ".".join([*package, *filter(None, [statement.module])])
    names = (f"{start}.{alias.name}" for alias in statement.names)
    return [name if name in MODULES else start for name in names]


def _imports() -> list[Import]:
    return [
        Import(module, target, f"{path.relative_to(ROOT)}:{statement.lineno}", not inside)
        for module, path in sorted(MODULES.items())
        for statement, inside in _statements(ast.parse(path.read_text(encoding="utf-8")))
        for target in dict.fromkeys(_targets(statement, module))
    ]


IMPORTS = _imports()
INNER = [found for found in IMPORTS if found.target in MODULES]


def _layers() -> dict[str, int]:
    """The row of each room in the map, counted from the top."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("<!-- map of imports -->")[1].split("\n\n")[1]
    rows = [line.split("|")[2] for line in table.strip().splitlines()[2:]]
    return {room: row for row, rooms in enumerate(rows) for room in re.findall("`(.+?)`", rooms)}


LAYERS = _layers()


def room(module: str) -> str:
    """The folder or module of the map that a module belongs to."""
    package, *rest = module.split(".")
    return package if package == "md_hooks" else rest[0] if rest else "package root"


def _report(found: list[Import]) -> str:
    return "\n".join(f"{one.place}: {one.module} imports {one.target}" for one in found)


def test_every_module_has_its_place_on_the_map() -> None:
    rooms = {room(module) for module in MODULES if module not in ENTRY_POINTS}
    assert rooms == set(LAYERS)


def test_the_command_line_is_imported_by_nothing_else() -> None:
    wrong = [
        found
        for found in INNER
        if room(found.target) == "cli"
        and room(found.module) != "cli"
        and not (found.module in ENTRY_POINTS and found.module.endswith("__main__"))
    ]
    assert not wrong, _report(wrong)


def test_hooks_import_neither_models_nor_engines() -> None:
    wrong = [
        found
        for found in IMPORTS
        if room(found.module) == "md_hooks" and found.target.split(".")[0] in ENGINES_AND_MODELS
    ]
    assert not wrong, _report(wrong)


def test_nothing_imports_the_root_of_its_own_package() -> None:
    wrong = [
        found
        for found in INNER
        if found.target in ENTRY_POINTS
        or (found.target == "md_hooks" and room(found.module) == "md_hooks")
    ]
    assert not wrong, _report(wrong)


def test_imports_point_down_the_map() -> None:
    wrong = []
    for found in INNER:
        if {found.module, found.target} & ENTRY_POINTS:
            continue
        above, below = room(found.module), room(found.target)
        if above != below and LAYERS[above] >= LAYERS[below]:
            wrong.append(found)
    assert not wrong, _report(wrong)


def test_no_circle_of_modules() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in INNER:
        if found.at_import and found.module != found.target:
            graph[found.module].add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))
