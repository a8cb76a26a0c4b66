"""TorchScript from untrusted files: only code that computes is loaded and run.

A TorchScript file is a program. Most of its operators compute, but some read and write any file
(``aten::save``, ``aten::from_file``) or call into other libraries, and its classes may have a
``__setstate__``, which runs while the file is loaded. So the code is examined twice, unless the user
trusts the file:

- its text, before torch reads it: it must not contain the name of such an operator, nor an object of
  a C++ class other than those known to hold only numbers;
- its compiled graphs, before any of them runs: each operator must be on the lists below.

Infinite loops and unbounded memory are not detected.
"""

from __future__ import annotations

import ast
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from forcedelta.errors import ForceDeltaError

TRUST = "if you know its source, pass --trust (trust=True)"

_ZIP, _FLATBUFFER = b"PK\x03\x04", b"PTMF"

_FILES = frozenset({
    "save", "from_file", "_print", "print", "Print", "load", "load_block", "load_labels", "load_system",
    "load_model_extensions", "read_model_metadata", "check_atomistic_model", "rpc_async", "rpc_sync",
    "rpc_remote",
})  # fmt: skip
"""Names of operators and methods of torch, metatensor and metatomic that use files, libraries, the
terminal or other computers."""

_NAMESPACES = frozenset({"aten", "prim", "metatensor", "metatomic", "profiler"})
_CLASSES = frozenset({"metatensor", "metatomic", "profiler"})
"""Namespaces of C++ classes; ``profiler`` labels sections of code."""

_PRIMITIVE = frozenset({
    "AutogradZero", "BroadcastSizes", "CallFunction", "CallMethod", "ChunkSizes", "Constant",
    "ConstantChunk", "CreateObject", "DictConstruct", "DictIndex", "Enter", "EnumName",
    "EnumValue", "Exit", "GetAttr", "If", "IfThenElse", "ImplicitTensorToNum", "ListConstruct",
    "ListUnpack", "Loop", "ModuleContainerIndex", "NumToTensor", "RaiseException",
    "ReductionSizes", "SetAttr", "StringIndex", "TupleConstruct", "TupleIndex", "TupleSlice",
    "TupleUnpack", "Uninitialized", "VarConcat", "VarStack", "abs", "awaitable_nowait",
    "awaitable_wait", "data", "device", "dtype", "fork", "grad", "hasattr", "id", "index",
    "isinstance", "itemsize", "layout", "max", "min", "name", "nbytes", "rangelist",
    "requires_grad", "shape", "tolist", "type", "unchecked_cast", "unchecked_unwrap_optional",
})  # fmt: skip
"""Operators of TorchScript itself, besides those that test a tensor (``prim::is_cuda``)."""

_LEXER = re.compile(
    r'''"""(?:\\.|.)*?"""|\'\'\'(?:\\.|.)*?\'\'\'|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\#[^\n]*'''
    r"""|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*|["']""",
    re.DOTALL | re.ASCII,
)
"""Strings, comments and dotted names, as torch's own lexer finds them."""


def load_script(
    path: Path,
    device: torch.device,
    trust: bool,
    extra_files: dict[str, Any] | None = None,
) -> torch.jit.RecursiveScriptModule:
    """``torch.jit.load`` for code that only computes, or for any code with ``trust``.

    Args:
        path: of a file of ``torch.jit.save``.
        device: where its tensors go.
        trust: skip the examination of the code.
        extra_files: see ``torch.jit.load``.

    Raises:
        ForceDeltaError: the code does more than compute (the message names the operator), or the
            file is not a complete file of ``torch.jit.save``.
    """
    try:
        _check_sums(path)
        if not trust:
            _check_text(path)
        with warnings.catch_warnings():
            # deprecations of TorchScript itself, which users cannot act on
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            unit = torch._C.CompilationUnit()
            read: Callable[..., Any] = torch._C.import_ir_module
            module = read(
                unit, str(path), device, {} if extra_files is None else extra_files, False
            )
            if not trust:
                _check_graphs(unit, path)
            return torch.jit._recursive.wrap_cpp_module(module)
    except (RuntimeError, ValueError, SyntaxError, OSError, LookupError, TypeError) as error:
        raise ForceDeltaError(
            f"{path} is not a complete TorchScript file, or needs a library that is not loaded "
            f"({reason(error)})"
        ) from error


def records(path: Path) -> tuple[Any, list[str]]:
    """The reader with which torch loads an archive, and the names in the archive.

    Raises:
        RuntimeError: not an archive, or a damaged one.
        UnicodeDecodeError: a damaged archive whose names are not text.
    """
    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith(_ZIP) or start[4:] == _FLATBUFFER:
        raise RuntimeError("not an archive of torch")
    reader = torch._C.PyTorchFileReader(str(path))
    return reader, list(reader.get_all_records())


def reason(error: BaseException) -> str:
    """The line of torch's long message that names the cause."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    interpreted = lines[0].startswith("The following operation failed")
    return lines[-1 if interpreted else 0][:200]


def _check_sums(path: Path) -> None:
    """Compares the checksums of the archive, which torch writes but does not verify.

    Raises:
        RuntimeError: the contents differ from the checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, ValueError, zlib.error, EOFError, struct.error) as error:
        raise RuntimeError(str(error)) from error
    if damaged is not None:
        raise RuntimeError(f"the checksum of {damaged} differs")


def _check_text(path: Path) -> None:
    """Examines all text that may run while the file is loaded."""
    reader, names = records(path)
    old = sorted({"model.json", "attributes.pkl"} & set(names))
    if old:
        raise _refused(
            path, f"it is in the format of torch 1.1 ({old[0]}), which cannot be examined"
        )
    for name in names:
        if name.endswith(".pkl"):
            for found in _classes_in(reader.get_record(name)):
                if found.partition(".")[0] not in _CLASSES:
                    raise _refused(path, f"it holds an object of the class {found}")
        elif name.startswith("code/") and name.endswith(".py"):
            for what in _foreign_names(reader.get_record(name).decode()):
                raise _refused(path, f"its code uses {what}")


def _classes_in(pickled: bytes) -> Iterator[str]:
    """C++ classes named in a pickle of TorchScript, which writes module and name in full."""
    for module, name in re.findall(rb"__torch__\.torch\.classes\.?([\w.]*)\n(\w+)", pickled):
        yield f"{module.decode()}.{name.decode()}".lstrip(".")


def _foreign_names(code: str) -> Iterator[str]:
    """Names in the text other than those of operators that compute, and strings with such names."""
    end, after_string = 0, False
    for match in _LEXER.finditer(code):
        token, gap = match[0], code[end : match.start()].strip()
        end = match.end()
        if token[0] == "#":
            continue
        string = token[0] in "\"'"
        if string and (len(token) == 1 or (after_string and not gap)):
            # torch writes one string at a time; getattr could put a name together from several
            raise ValueError("its code was not written by torch")
        after_string = string
        if string:
            text = ast.literal_eval(token) if "\\" in token else token[1:-1]
            if text in _FILES:
                yield repr(text)
        elif not _computes(token.split(".")):
            yield token


def _computes(parts: list[str]) -> bool:
    """Whether a dotted name is allowed in the code of a model."""
    if not _FILES.isdisjoint(parts):
        return False
    if parts[:3] == ["__torch__", "torch", "classes"]:
        return parts[3:4] != [] and parts[3] in _CLASSES
    operators = parts[1:] if parts[:2] == ["torch", "ops"] else parts
    return operators[0] != "ops" or (len(operators) > 2 and operators[1] in _NAMESPACES)


def _check_graphs(unit: Any, path: Path) -> None:
    """Check every function and method of the file, called or not."""
    for function in unit.get_functions():
        for node in _nodes(function.graph):
            what = _foreign_operator(node)
            if what:
                raise _refused(path, f"its code uses {what}, in {function.name}")


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)
        for name in node.attributeNames():
            kind = node.kindOf(name)
            inner_graphs: Iterable[Any] = (
                (node.g(name),) if kind == "g" else node.gs(name) if kind == "gs" else ()
            )
            for graph in inner_graphs:
                yield from _nodes(graph)


def _foreign_operator(node: Any) -> str | None:
    kind = str(node.kind())
    namespace, _, name = kind.partition("::")
    if namespace not in _NAMESPACES or name in _FILES:
        return kind
    if kind in ("prim::CallMethod", "prim::CallFunction"):
        target = str(node.inputsAt(0).type().annotation_str)
        _, known, rest = target.partition("__torch__.torch.classes.")
        if not known:
            return None
        called = node.s("name") if kind == "prim::CallMethod" else rest.rpartition(".")[2]
        if rest.partition(".")[0] not in _CLASSES or called in _FILES:
            return f"{rest}, {called}"
        return None
    if namespace == "prim":
        return None if name in _PRIMITIVE or name.startswith("is_") else kind
    if namespace == "aten" and any(argument.name == "filename" for argument in _arguments(kind)):
        return kind
    return None


def _arguments(kind: str) -> Iterator[Any]:
    for schema in torch._C._jit_get_schemas_for_operator(kind):
        yield from schema.arguments


def _refused(path: Path, what: str) -> ForceDeltaError:
    return ForceDeltaError(
        f"{path}: {what}, which no model needs and which may read or write files; {TRUST}"
    )
