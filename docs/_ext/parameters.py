"""Descriptions of parameters that docstrings share: on a page, each parameter has its own.

In a docstring several parameters may share a line, and a line may refer to another docstring::

    charge, spin: see `forcedelta.guarded_run`.

On the page there is an entry for each, with the description that it has there. A property may have a colon in its
first line, which napoleon would take for the end of a type.
"""

import importlib
import inspect
import re
import sys
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"\s*(Args|Attributes):")
GROUP = re.compile(r"(\*{0,2}\w+(?:, ?\*{0,2}\w+)*): (.*)")
OPEN = re.compile(r"\s*\*{0,2}\w+, ?(\*{0,2}\w+, ?)*(\*{0,2}\w+: |\*{0,2}\w*,?$)")
ELSEWHERE = re.compile(r"see `([\w.]+)`\.?")


def separate(lines: list[str], module: str) -> list[str]:
    """The lines of a docstring of a module, for napoleon."""
    found: list[str] = []
    title, depth = 0, -1  # of a section, and of its entries
    for line in _joined(lines):
        indent = len(line) - len(line.lstrip())
        if SECTION.fullmatch(line):
            title, depth = indent, sys.maxsize
        elif line.strip() and depth >= 0:
            depth = -1 if indent <= title else min(indent, depth)
        group = GROUP.fullmatch(line.strip()) if indent == depth else None
        if group is None:
            found.append(line)
            continue
        for name in re.split(", ?", group[1]):
            found.append(f"{' ' * indent}{name}: {_described(name, group[2], module)}")
    return found


def _joined(lines: list[str]) -> list[str]:
    """With each group of names and its text on one line, as the text is repeated."""
    found: list[str] = []
    group = -1  # indent of the group that the last line belongs to
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if 0 <= group < indent and line.strip():
            found[-1] += " " + line.strip()
            continue
        group = indent if OPEN.match(line) else -1
        found.append(line)
    return found


def _described(name: str, text: str, module: str) -> str:
    """The description of a parameter, also where another docstring has it."""
    there = ELSEWHERE.fullmatch(text)
    other = _object(there[1], module) if there else None
    if other is None:
        return text
    docs = [other.__doc__ or "", getattr(other, "__init__", other).__doc__ or ""]
    home = getattr(other, "__module__", module)
    for lines in (separate(inspect.cleandoc(doc).splitlines(), home) for doc in docs):
        for place, line in enumerate(lines):
            entry = GROUP.fullmatch(line.strip())
            if entry and entry[1] == name and line[0] == " ":
                return " ".join([entry[2], *_continued(lines, place)])
    return text


def _continued(lines: list[str], place: int) -> list[str]:
    """The lines of an entry after its first one."""
    indent = len(lines[place]) - len(lines[place].lstrip())
    found = []
    for line in lines[place + 1 :]:
        if not line.strip() or len(line) - len(line.lstrip()) <= indent:
            break
        found.append(line.strip())
    return found


def _object(name: str, module: str) -> Any:
    """What a name means in a module."""
    parts = name.split(".")
    home, rest = sys.modules[module], parts
    if not hasattr(home, parts[0]):
        for length in range(len(parts) - 1, 0, -1):
            try:
                home, rest = importlib.import_module(".".join(parts[:length])), parts[length:]
                break
            except ModuleNotFoundError:
                continue
    found: Any = home
    for part in rest:
        found = getattr(found, part, None)
    return found


def process(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    module = getattr(found, "__module__", None)
    if module in sys.modules:
        lines[:] = separate(lines, module)
    if what == "property":
        lines[:0] = ["..", ""]  # a comment without text


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", process, priority=400)  # napoleon has 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
