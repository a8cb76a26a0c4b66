"""What a restart takes from the file that it continues, and what it does not.

A recorded file may come from somebody else. Its numbers describe the run; its paths are another
matter: nothing is written to, and no code is loaded from, a path that only the file names.
"""

from __future__ import annotations

import logging
from pathlib import Path

from md_hooks import FlagStore, Trajectory
from md_hooks.text import one_line

from .errors import ForceDeltaError

_log = logging.getLogger("forcedelta")

_ENDINGS = (".xyz", ".extxyz")


def check_stored_model(model: str, architecture: str | None, out: str) -> None:
    """Whether a model may be loaded because the file of a run or audit names it.

    Names may, and files of our own format, which hold numbers only and are compared with the
    recorded hash of the weights.

    Raises:
        ForceDeltaError: it is another file.
    """
    from .models.registry import is_name

    if is_name(model) or (architecture is None and Path(model).suffix == ".safetensors"):
        return
    model = one_line(model)
    raise ForceDeltaError(
        f"{out} names the model file {model}, which may run code when it is loaded: pass --model "
        f"{model} to use it"
    )


def continued_flags(given: str | None, stored: object, begun: Trajectory) -> str | None:
    """The flag store of a continued run or audit.

    Without ``--flags`` it is the store that the file names, provided that it is the run's own: it
    holds frames of this run, or will be made beside the file. Otherwise a warning is logged that
    flagged frames are no longer collected.

    Args:
        given: by the user in this call.
        stored: what the file names.
        begun: the file.

    Returns:
        the store, or None.
    """
    if given is not None or not isinstance(stored, str):
        return given
    if stored.isprintable() and _is_its_own(Path(stored), begun):
        return stored
    name = one_line(stored)
    _log.warning(
        "%s collected flagged frames in %s, where none of this run are found: pass --flags %s to "
        "continue it; without that flag they are in %s only",
        begun.path, name, name, begun.path,
    )  # fmt: skip
    return None


def _is_its_own(path: Path, begun: Trajectory) -> bool:
    try:
        if FlagStore(path).holds(begun.run_id):
            return True
        if path.suffix not in _ENDINGS or path.is_symlink() or not path.parent.is_dir():
            return False
        empty = not path.exists() or (path.is_file() and path.stat().st_size == 0)
        return empty and path.parent.samefile(begun.path.parent)
    except OSError:  # a name that no file can have
        return False
