"""Imports fairchem-core, which prints, warns and logs while it is imported and while it loads."""

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
    """Imports what the loader needs, without a word on the terminal.

    Takes about ten seconds of processor time the first time.

    Raises:
        ForceDeltaError: it cannot be imported here.
    """
    try:
        with warnings.catch_warnings():
            # e3nn and EScAIP script functions while they are imported; torch calls that outdated
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
            "share the name fairchem.core: install each into an environment of its own"
        ) from error


def _start_warp() -> None:
    """Starts the kernels that fairchem builds graphs with; it would greet the user otherwise.

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
    """Keeps what the library says about its own configuration from the user, and logging as it is.

    It logs to the root logger (settings with a newer spelling), which would install a handler where
    the user has none, and makes torch log each recompilation in the whole process.
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
