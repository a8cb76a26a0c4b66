"""Frames for tuning that the model makes itself: runs driven by its direct forces."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms

from md_hooks import Action, Frame, Verdict
from md_hooks.atoms import bare_atoms
from md_hooks.extxyz import frame_text
from md_hooks.replacing import replacing

from ..errors import ForceDeltaError
from ..models.loaded import LoadedModel
from ..simulation.guarded import guarded_run

SPACING = 20
"""Steps between two frames: 10 fs, about the period of an X-H vibration."""

TEMPERATURES = (300.0, 450.0, 600.0, 900.0)
"""K; the temperatures of own runs by default. Of acetylacetone hot frames help most: benchmarks/tuning.py."""

TRIES = 20
"""Runs at one temperature, at most: those with direct forces blow up, at 900 K often within 0.5 ps."""

FEWEST = 10
"""Frames of a temperature, at least."""

LOST = 10
"""Frames before the end of a run that blew up are not used."""

_SPREAD = 8.0  # standard deviations of the kinetic temperature from which a run has blown up
_log = logging.getLogger(__name__)
_log_of_runs = logging.getLogger(guarded_run.__module__)


@dataclass(frozen=True)
class OwnRuns:
    """What the model runs before it is tuned.

    Attributes:
        frames: per structure and temperature.
        temperatures: of Langevin runs, K.
    """

    frames: int
    temperatures: tuple[float, ...] = TEMPERATURES


class _Collect:
    """A hook that keeps every `SPACING`-th frame, and ends a run that has blown up."""

    def __init__(self, temperature: float) -> None:
        self.frames: list[Frame] = []
        self._temperature = temperature

    def __call__(self, frame: Frame) -> Verdict | None:
        freedom = max(1, 3 * len(frame.numbers) - 3)
        hottest = self._temperature * (1.0 + _SPREAD * np.sqrt(2.0 / freedom))
        temperature = frame.temperature
        if temperature is None or not np.isfinite(temperature) or temperature > hottest:
            return Verdict(Action.STOP, f"the run has blown up: {temperature:.0f} K")
        if frame.step % SPACING == 0:
            self.frames.append(frame)
        return None


def own_frames(
    model: LoadedModel,
    structures: Sequence[Atoms],
    runs: OwnRuns,
    out: Path,
    settings: Mapping[str, Any],
    *,
    reuse: bool,
) -> list[Path]:
    """Frames of runs of the model itself, one file of extended XYZ for each structure and temperature.

    Langevin dynamics with the direct forces, 0.5 fs, every `SPACING`-th step. A run that blows up is
    repeated with another seed, up to `TRIES` times, until there are enough frames. A temperature that
    gives less than `FEWEST` is left out with a warning, unless it is the lowest one.

    Args:
        model: as loaded.
        structures: where the runs start.
        runs: how many frames, at which temperatures.
        out: file of the tuned model; the files are beside it, see `files_of`.
        settings: seed, charge, spin, device, dtype and threads, see `forcedelta.guarded_run`.
        reuse: use files that exist instead of making them again.

    Raises:
        ForceDeltaError: the direct forces do not hold for `FEWEST` frames at the lowest temperature.
    """
    made: list[Path] = []
    files = files_of(out, len(structures), runs)
    for number, file in enumerate(files):
        if reuse and file.exists():
            made.append(file)
            continue
        atoms = structures[number // len(runs.temperatures)]
        temperature = runs.temperatures[number % len(runs.temperatures)]
        found, message = _run(model, atoms, temperature, runs.frames, settings)
        held = f"the direct forces hold for {len(found)} frames at {temperature:g} K ({message})"
        if len(found) < FEWEST:
            if temperature == min(runs.temperatures):
                raise ForceDeltaError(
                    f"{held}: pass a lower --temperature, or frames of another run"
                )
            _log.warning("%s, which are left out", held)
            continue
        if len(found) < runs.frames:
            _log.warning("%s, not %d", held, runs.frames)
        with replacing(file, error=ForceDeltaError) as opened:
            for one in found:
                opened.write(frame_text(one))
        made.append(file)
        _log.info("%d frames of the model's own run at %g K: %s", len(found), temperature, file)
    return made


@contextmanager
def _without_headline(again: bool) -> Iterator[None]:
    """Without the headline of a run, which names a file that will not be kept, and warnings told before."""
    level = _log_of_runs.level
    _log_of_runs.setLevel(logging.ERROR if again else logging.WARNING)
    try:
        yield
    finally:
        _log_of_runs.setLevel(level)


def files_of(out: Path, structures: int, runs: OwnRuns) -> list[Path]:
    """The files of own frames: OUT-300K.xyz, or OUT-2-300K.xyz of the second of several structures."""
    names = [""] if structures == 1 else [f"-{number}" for number in range(1, structures + 1)]
    return [
        out.with_name(f"{out.stem}{name}-{temperature:g}K.xyz")
        for name in names
        for temperature in runs.temperatures
    ]


def _run(
    model: LoadedModel,
    atoms: Atoms,
    temperature: float,
    count: int,
    settings: Mapping[str, Any],
) -> tuple[list[Atoms], str]:
    """That many frames at one temperature, or as many as the direct forces allow, and how the last run ended."""
    found: list[Atoms] = []
    message = ""
    for attempt in range(TRIES):
        collect = _Collect(temperature)
        steps = SPACING * (count - len(found))
        with TemporaryDirectory() as folder, _without_headline(again=attempt > 0):
            result = guarded_run(
                atoms, model, steps, out=Path(folder) / "own.h5", temperature=temperature, every=steps,
                record_every=steps, hooks=[collect], **{**settings, "seed": (settings["seed"] + attempt) % 2**64},
            )  # fmt: skip
        kept = collect.frames[1:]  # all runs share the first one
        if result.reason == "interrupted":
            raise KeyboardInterrupt
        if result.reason != "finished":
            kept, message = kept[:-LOST], result.run.message
        found += [bare_atoms(frame) for frame in kept]
        if len(found) >= count:
            break
    return found[:count], message
