"""Docstrings of the reference: each names its parameters with shapes and units, and what it raises.

The names are those that the pages in docs/reference show, and those that the packages export.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import importlib
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
EXPORTING = ("forcedelta", "forcedelta.conformance", "forcedelta.models", "md_hooks")
OURS = ("forcedelta", "md_hooks")
ERRORS = re.compile(
    r"(ForceDelta|Hook|NoFrames|PropertyUnavailable|RunStopped|Type|Value|Index)Error"
)
MISSING = object()
NO_DOCSTRING = "no docstring"
SECTION = re.compile(r"\s*(Args|Attributes|Raises|Returns|Yields):")
UNIT = re.compile(
    r"eV|Å|\b(fs|ps|s|seconds|K|amu|GPa|e|kJ|Hartree|electrons)\b"  # what has a dimension
    r"|multiple|factor|ratio|relative|fraction|share|probability|number|steps|frames|scale|tolerance"
    r"|correlation|AUROC|spearman|AdamW|learning rate|coverage|logarithm|weight|[Ss]ee `|\bas `|%"
)
ARRAY = re.compile(r"NDArray|Tensor|FloatArray|ndarray")


def _resolve(name: str) -> Any:
    """The object of a dotted name; skips where its module needs a library that is missing."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] in OURS:
                continue
            pytest.skip(f"{error.name} is not installed")
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} does not exist")


def _shown() -> Iterator[str]:
    """The names of the pages."""
    for page in sorted(REFERENCE.glob("*.md")):
        module = ""
        text = page.read_text(encoding="utf-8")
        for kind, name, options in re.findall(
            r"^\.\. (\w+):: ([\w.]+)(?:\(.*\))?\n((?: {3}:.*\n)*)", text, re.MULTILINE
        ):
            if kind == "currentmodule":
                module = f"{name}."
            elif kind == "automodule":
                if ":members:" in options:
                    yield from (f"{name}.{one}" for one in _resolve(name).__all__)
            elif kind.startswith("auto"):
                yield name if name.split(".")[0] in OURS else module + name


def _names() -> list[str]:
    exported = (f"{home}.{name}" for home in EXPORTING for name in _resolve(home).__all__)
    return sorted({*_shown(), *exported})


def _sections(doc: str) -> dict[str, list[str]]:
    """The lines of each section of a docstring in Google's style."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in doc.splitlines():
        title = SECTION.fullmatch(line)
        if title:
            lines = found.setdefault(title[1], [])
        else:
            lines.append(line)
    return found


def _entries(lines: list[str]) -> dict[str, str]:
    """Names and texts of a section; several names may share a text."""
    blocks: list[str] = []
    depth = None
    for line in filter(str.strip, lines):
        indent = len(line) - len(line.lstrip())
        depth = indent if depth is None else depth
        if indent < depth:
            break
        if indent == depth:
            blocks.append(line.strip())
        else:
            blocks[-1] += " " + line.strip()
    split = (block.partition(": ") for block in blocks)
    return {name.strip(" *"): text for names, _, text in split for name in names.split(",")}


def _parameters(function: Callable[..., Any]) -> dict[str, str]:
    """Names of the parameters, with their annotations as text."""
    return {
        name: parameter.annotation
        if isinstance(parameter.annotation, str)
        else str(parameter.annotation)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "cls") and not name.startswith("_")
    }


def _raised(function: Callable[..., Any]) -> set[str]:
    """Names of the errors that the body of a function raises itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    found = set()
    todo = list(ast.iter_child_nodes(tree))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func))
        todo += ast.iter_child_nodes(node)
    return {name for name in found if ERRORS.fullmatch(name)}


def _of_entries(entries: dict[str, str], annotations: dict[str, str]) -> Iterator[str]:
    for name, text in entries.items():
        kind = annotations.get(name, "")
        if re.search(r"\bfloat\b", kind) and not UNIT.search(text):
            yield f"{name} has no unit: {text}"
        if ARRAY.search(kind) and not re.search(r"\[.+\]|\(\d+,.*\)|[Ss]ee `|\bas ", text):
            yield f"{name} has no shape: {text}"


def _of_function(function: Callable[..., Any], inherited: str = "") -> Iterator[str]:
    """What a docstring lacks; ``inherited`` are those of the class, and of the method that it overrides."""
    doc = inspect.cleandoc(function.__doc__ or "")
    if not doc:
        yield NO_DOCSTRING
    told = f"{doc}\n{inherited}"
    parameters = _parameters(function)
    for name in parameters:
        if not re.search(rf"\b{name}\b", told):
            yield f"{name} is not described"
    sections = _sections(doc)
    yield from _of_entries(_entries(sections.get("Args", [])), parameters)
    wrong = _raised(function)
    if wrong and not ("Raises:" in doc or "Raises" in doc.split(".")[0] or "Raises:" in inherited):
        yield f"raises {', '.join(sorted(wrong))}"


def _of_result(function: Callable[..., Any]) -> Iterator[str]:
    doc = function.__doc__ or ""
    kind = str(function.__annotations__.get("return", ""))
    if re.fullmatch(
        r"(float|NDArray\[np.floating\]|FloatArray)( \| None)?", kind
    ) and not UNIT.search(doc):
        yield f"its result has no unit: {doc}"
    if ARRAY.search(kind) and not re.search(r"\[.+\]|\(\d+,.*\)|[Ss]ee `", doc):
        yield f"its result has no shape: {doc}"


def _base_docs(cls: type, name: str) -> str:
    """Docstrings of the methods that a method overrides."""
    bases = (vars(base).get(name) for base in cls.__mro__[1:])
    return "\n".join(inspect.getdoc(base) or "" for base in bases if base is not None)


def _of_class(cls: type) -> Iterator[str]:
    doc = inspect.cleandoc(cls.__doc__ or "")
    if not doc:
        yield NO_DOCSTRING
    declared = (
        dataclasses.is_dataclass(cls)
        or getattr(cls, "_is_protocol", False)
        or hasattr(cls, "_fields")
    )
    fields = {
        name: kind if isinstance(kind, str) else str(kind)
        for name, kind in vars(cls).get("__annotations__", {}).items()
        if declared and not name.startswith("_") and "ClassVar" not in str(kind)
    }
    for name in fields:
        if not re.search(rf"\b{name}\b", doc):
            yield f"{name} is not described"
    sections = _sections(doc)
    entries = _entries(sections.get("Args", [])) | _entries(sections.get("Attributes", []))
    yield from _of_entries(entries, fields)
    for name, function in _documented(cls):
        if name in fields:
            continue
        if name == "__init__" and not declared:
            yield from _of_entries(entries, _parameters(function))
            lacks = (lack for lack in _of_function(function, doc) if lack != NO_DOCSTRING)
        elif name.startswith("test_") and function.__doc__:  # its parameters are fixtures
            continue
        elif name != "__init__":
            lacks = itertools.chain(
                _of_function(function, _base_docs(cls, name)), _of_result(function)
            )
        else:
            continue
        yield from (f"{name}: {lack}" for lack in lacks)


def _documented(cls: type) -> Iterator[tuple[str, Any]]:
    """Names and functions of the public methods and properties of a class."""
    for name, member in vars(cls).items():
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        function = getattr(function, "func", function)  # of a cached property
        if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
            yield name, function


def _member(found: Any, name: str) -> Any:
    """An attribute of an object, or a field that a class declares."""
    return getattr(found, name, getattr(found, "__annotations__", {}).get(name, MISSING))


def _means_something(reference: str, scopes: list[Any]) -> bool:
    """Whether a reference is an object in one of the scopes, or an importable one."""
    parts = reference.split(".")
    with contextlib.suppress(ImportError):
        scopes = [*scopes, SimpleNamespace(**{parts[0]: importlib.import_module(parts[0])})]
        for length in range(2, len(parts) + 1):  # so that they become attributes
            importlib.import_module(".".join(parts[:length]))
    return any(functools.reduce(_member, parts, scope) is not MISSING for scope in scopes)


@pytest.mark.parametrize("name", _names())
def test_references_lead_somewhere(name: str) -> None:
    """What stands in single backticks is the name of an object: a link on the page."""
    found = _resolve(name)
    members = [member for _, member in _documented(found)] if inspect.isclass(found) else []
    for one in [found, *members]:
        module = sys.modules.get(getattr(one, "__module__", ""))
        text = re.sub(r"``.*?``", "", one.__doc__ or "", flags=re.DOTALL)
        if module is None or module.__name__.split(".")[0] not in OURS:
            continue  # a number, or of another library
        for reference in re.findall(r"`([^`]+)`(?!_)", text):
            assert _means_something(reference, [module, found]), f"{one}: {reference}"


@pytest.mark.parametrize("name", _names())
def test_docstring(name: str) -> None:
    found = _resolve(name)
    if inspect.ismodule(found):
        lacks = [] if found.__doc__ else [NO_DOCSTRING]
    elif inspect.isclass(found):
        lacks = list(_of_class(found))
    else:
        lacks = [*_of_function(found), *_of_result(found)] if callable(found) else []
    assert not lacks, f"{name}\n" + "\n".join(lacks)
