"""The command of a new run that begins where another one ended, with other settings."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from md_hooks import Trajectory

from ..limits import flag
from .settings import CONTINUED, DEFINING, RunSettings

_OF_THE_STRUCTURE = ("type_map", "no_pbc", "charge", "spin")
"""Settings that the frames of a recorded run carry themselves."""
_OWN = (*_OF_THE_STRUCTURE, "seed", "calibration")
"""Those that a new run does not take from the old one: it draws its own seed, and a calibration is a
file."""


def new_run(settings: RunSettings, given: Collection[str], begun: Trajectory) -> str:
    """How to start a new run from the last frame of a recorded one, in words, with the command.

    After a stop it is the frame before the one that stopped the run. The frame's velocities go on.

    Args:
        settings: settings of this call.
        given: names of the settings passed in this call.
        begun: the file of the recorded run.
    """
    stopped = begun.outcome.get("reason") == "stopped" and len(begun) > 1
    start = f"{begun.path}@-2" if stopped else str(begun.path)
    values = _values(settings, given, begun.metadata.get("settings", {}))
    words = ["forcedelta", "run", start, "--out", str(_free_name(begun.path))]
    for name, value in values.items():
        words += [flag(name)] if value is True else [flag(name), str(value)]
    frame = "the frame before its stop" if stopped else "its last frame"
    return f"start a new run from {frame} with '{shlex.join(words)}'"


def _values(
    settings: RunSettings, given: Collection[str], stored: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of the new run that are no defaults, as the command line takes them."""
    names = [name for name in (*DEFINING, *CONTINUED) if name not in _OWN or name in given]
    wanted, defaults = settings.stored(), RunSettings().stored()
    values = {name: wanted[name] if name in given else stored.get(name) for name in names}
    if "calibration" in given:
        values.pop("calibration")  # in memory by now
    return {
        name: value
        for name, value in values.items()
        if value is not None and value is not False and value != defaults.get(name)
    }


def _free_name(path: Path) -> Path:
    """A name beside a file that is not taken, as ``run-2.h5``."""
    number = 2
    while (free := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return free
