"""Description of a run at its start and its outcome at its end, as hooks receive them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _no_policies() -> list[dict[str, Any]]:
    return []


def _no_states() -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class RunInfo:
    """Description of a run that hooks receive before its first frame.

    Attributes:
        model: the model, JSON-able: name, weights_hash, library, ...
        command: the command line or script that started the run.
        seed: seed of the random numbers.
        settings: any further JSON-able settings (ensemble, temperature in K, timestep in fs, ...).
        versions: library name -> version.
        planned_steps: planned number of steps of this run.
        planned_frames: planned number of frames of a replay, in total.
        frames_before: number of frames that a continued replay has already shown.
        restart_step: step of the checkpoint from which the run continues; None for a new run.
            Hooks drop what they stored after it and expect the next frame at a later step.
        restart_time: time of that checkpoint, fs.
        leg: number of the leg, from 1. A further leg has hooks that were used before (`md_hooks.legs`);
            its ``restart_step`` is the last step of the leg before.
        seamless: this leg goes on from the last frame without any change: configuration, velocities and
            conserved energy are those of that frame.
        after_stop: go on although a hook stopped the leg before.
        new_run: begin a new run also with hooks that were used before.
        run_id: distinguishes the frames of this run from those of others (`md_hooks.run_id`). A new
            run draws one; a run that continues in a file keeps the file's.
        begins_anew: the run replaces one that was killed before its file held a frame, and has its
            id. Hooks drop the data that they stored for that one.
        numbers: [N] atomic numbers of the system, which expose a wrong file early.
        constraints: constraints of ASE on the structure, for the frames; None: those of the engine's
            atoms.
        run_file: the file in which the trajectory is recorded.
        checkpoint: returns the engine's state after the current frame as a dict of JSON
            values and arrays, or None without a consistent state.
        policies: returns the thresholds of the judging hooks, as requested and as resolved so far.
        hook_states: returns the states of the hooks for a restart.

    `md_hooks.HookChain` fills in the last two.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    planned_steps: int | None = None
    planned_frames: int | None = None
    frames_before: int = 0
    restart_step: int | None = None
    restart_time: float = 0.0
    leg: int = 1
    seamless: bool = False
    after_stop: bool = False
    new_run: bool = False
    run_id: str = ""
    begins_anew: bool = False
    numbers: NDArray[np.integer] | None = None
    constraints: Sequence[Any] | None = None
    run_file: str | None = None
    checkpoint: Callable[[], Mapping[str, Any] | None] | None = None
    policies: Callable[[], list[dict[str, Any]]] = _no_policies
    hook_states: Callable[[], dict[str, Any]] = _no_states

    def summary(self) -> dict[str, Any]:
        """The JSON-able part, which a recorder stores in its file."""
        return {
            "model": dict(self.model),
            "command": self.command,
            "seed": self.seed,
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "planned_steps": self.planned_steps,
            "restart_step": self.restart_step,
            "leg": self.leg,
            "seamless": self.seamless,
            "run_id": self.run_id,
        }


COMPLETED = ("finished", "converged", "out of steps")
"""Reasons of runs that nobody ended early."""


@dataclass(frozen=True)
class RunResult:
    """How a run, or a leg of it, ended.

    Attributes:
        reason: "finished" (all steps were made); of an optimiser instead "converged", or "out of steps"
            before it had converged; "stopped" (by a hook), "interrupted" (Ctrl-C, SIGTERM) or "error":
            an exception, or a run that ended before "auto" had chosen its threshold.
        step: step of the last frame; -1 without frames.
        time: its time, fs.
        force_delta: the last U that was computed, eV/Å.
        worst_atom: index of the atom with the largest u_i in that frame.
        message: one readable line; for "stopped" the reason of the verdict.
        evaluations: model evaluations during the run, if the calculator counts them.
        monitoring: counts of adaptive monitoring, including those before a restart: "evaluations",
            "exact_evaluations", "firings" and "false_firings"; None without it.
    """

    reason: str
    step: int
    time: float
    force_delta: float | None = None
    worst_atom: int | None = None
    message: str = ""
    evaluations: int | None = None
    monitoring: dict[str, int] | None = None

    @property
    def completed(self) -> bool:
        """Whether nobody ended the run early: it is "finished", "converged" or "out of steps"."""
        return self.reason in COMPLETED
