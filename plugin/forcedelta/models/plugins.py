"""Tests in separate processes whether models of other packages can be imported.

An import may run anything: it may end the process, print, or never return. None of that may affect
the list of models.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint

from md_hooks.text import one_line

PATIENCE = 20.0
"""Timeout (s) of an import; torch alone may take five."""

_LONGEST = 300  # characters of an error of another package

_PROGRAM = """
import json, os, sys
from importlib.metadata import EntryPoint
answer, path, value = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.path[:] = json.loads(path)
try:
    EntryPoint("", value, "").load()
    answer_text = "."
except BaseException as error:
    answer_text = "!" + type(error).__name__ + ": " + str(error)
os.write(answer, answer_text.encode(errors="replace")[:4096])
os._exit(0)
"""


@dataclass
class _Import:
    process: subprocess.Popen[bytes]
    answer: int  # file descriptor


def problems(points: Mapping[str, EntryPoint], patience: float | None = None) -> dict[str, str]:
    """Errors of importing entry points, by name; those that work have no entry.

    Each is imported in a separate process, all at the same time.

    Args:
        points: entry points by name.
        patience: timeout of an import, s; by default `PATIENCE`.
    """
    patience = PATIENCE if patience is None else patience
    imports = {name: _start(point) for name, point in points.items()}
    found: dict[str, str] = {}
    with selectors.DefaultSelector() as selector:
        for name, one in imports.items():
            selector.register(one.answer, selectors.EVENT_READ, name)
        until = time.monotonic() + patience
        while selector.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                selector.unregister(key.fd)
                problem = _read(imports[key.data])
                if problem:
                    found[key.data] = problem
        for key in list(selector.get_map().values()):
            found[key.data] = f"cannot be imported (not finished after {patience:g} s)"
    for one in imports.values():
        _end(one)
    return {name: found[name] for name in points if name in found}


def describe_error(error: BaseException) -> str:
    """A foreign error in one printable line."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ may fail
        text = type(error).__name__
    return _short(text)


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _start(point: EntryPoint) -> _Import:
    receive, send = os.pipe()
    command = [sys.executable, "-c", _PROGRAM, str(send), json.dumps(sys.path), point.value]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[send],
        start_new_session=True,  # to end it together with its children
    )
    os.close(send)
    return _Import(process, receive)


def _read(one: _Import) -> str:
    answer_text = os.read(one.answer, 4096).decode(errors="replace")
    if answer_text.startswith("."):
        return ""
    if answer_text:
        return f"cannot be imported ({_short(answer_text[1:])})"
    status = one.process.wait()
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return f"cannot be imported (its import ends the process with {how})"


def _end(one: _Import) -> None:
    os.close(one.answer)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(one.process.pid, signal.SIGKILL)
    one.process.wait()
