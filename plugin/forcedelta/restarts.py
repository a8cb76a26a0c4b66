"""Paths in the file of a continued run, and which of them a restart trusts.

A recorded file may come from somebody else. Its numbers are used, but a restart neither writes to
nor loads code from a path that only the file names.
"""

from __future__ import annotations

import logging
from pathlib import Path

from md_hooks import FlagStore, Trajectory
from md_hooks.text import one_line

from .errors import ForceDeltaError

_log = logging.getLogger(__name__)

_ENDINGS = (".xyz", ".extxyz")


def check_stored_model(model: str, architecture: str | None, out: str) -> None:
    """Check that a model named only by the file of a run or audit is safe to load.

    Registered names are, and files in our own format, which hold only numbers and are compared with
    the recorded hash of the weights.

    Raises:
        ForceDeltaError: it is any other file.
    """
    from .models.registry import is_name
    from .models.tuned import is_tuned

    if is_name(model):
        return
    ours = architecture is None and Path(model).suffix == ".safetensors"
    if ours and not is_tuned(Path(model)):  # a tuned model names another file
        return
    model = one_line(model)
    raise ForceDeltaError(
        f"{out} names the model file {model}, which may run code when it is loaded: pass --model "
        f"{model} to use it"
    )


def continued_flags(given: str | None, stored: object, begun: Trajectory) -> str | None:
    """The flag store of a continued run or audit.

    Without ``--flags`` it is the store named in the file, provided that it belongs to the run: it
    holds frames of this run, or will be created beside the file. Otherwise a warning is logged that
    flagged frames are no longer collected.

    Args:
        given: store passed in this call.
        stored: store named in the file.
        begun: the file of the run.

    Returns:
        the store, or None.
    """
    if given is not None or not isinstance(stored, str):
        return given
    if stored.isprintable() and _belongs_to(Path(stored), begun):
        return stored
    name = one_line(stored)
    _log.warning(
        "%s collected flagged frames in %s, which holds none of this run: pass --flags %s to continue "
        "it; without this flag they are stored only in %s",
        begun.path, name, name, begun.path,
    )  # fmt: skip
    return None


def _belongs_to(path: Path, begun: Trajectory) -> bool:
    try:
        if FlagStore(path).holds(begun.run_id):
            return True
        if path.suffix not in _ENDINGS or path.is_symlink() or not path.parent.is_dir():
            return False
        empty = not path.exists() or (path.is_file() and path.stat().st_size == 0)
        return empty and path.parent.samefile(begun.path.parent)
    except OSError:  # an invalid file name
        return False
