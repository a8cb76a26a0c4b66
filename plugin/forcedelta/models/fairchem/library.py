"""Imports fairchem-core and silences its output during import and loading."""

import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from forcedelta.errors import ForceDeltaError


def import_library() -> None:
    """Import the modules that the loader needs, without output on the terminal.

    The first call takes about ten seconds of processor time.

    Raises:
        ForceDeltaError: the library cannot be imported here.
    """
    try:
        with warnings.catch_warnings():
            # e3nn and EScAIP script functions during their import, which torch deprecates
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            _start_warp()
            for module in (
                "units.mlip_unit.utils",
                "models.allscaip.AllScAIP",
                "models.escaip.EScAIP",
            ):
                importlib.import_module(f"fairchem.core.{module}")
    except ImportError as error:
        raise ForceDeltaError(
            f"fairchem-core is installed, but cannot be imported ({error}); fairchem-core 1 and 2 "
            "share the name fairchem.core: install each in a separate environment"
        ) from error


def _start_warp() -> None:
    """Start warp, whose kernels build fairchem's graphs, without its greeting.

    Without a driver it also writes to the file descriptor of stderr, from C.
    """
    warp: Any = importlib.import_module("warp")
    level, warp.config.log_level = warp.config.log_level, warp.LOG_ERROR
    terminal = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        warp.init()
    finally:
        os.dup2(terminal, 2)
        os.close(nowhere)
        os.close(terminal)
        warp.config.log_level = level


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence the library's logs about its configuration, and keep the user's logging unchanged.

    It logs to the root logger (renamed settings), which would install a default handler, and makes
    torch log each recompilation in the whole process.
    """
    root = logging.getLogger()
    nowhere = logging.NullHandler()
    torch_logs: Any = getattr(torch, "_logging")  # noqa: B009  (private, untyped)
    set_logs: Callable[..., None] = torch_logs.set_logs
    root.addHandler(nowhere)
    root.addFilter(_nothing)
    torch_logs.set_logs = lambda **settings: None
    try:
        yield
    finally:
        torch_logs.set_logs = set_logs
        root.removeFilter(_nothing)
        root.removeHandler(nowhere)


def _nothing(record: logging.LogRecord) -> bool:
    return False
