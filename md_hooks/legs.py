"""Legs of a run: what a further run with the same hooks continues.

An annealing schedule, or equilibration and production, is a loop of runs with the same hooks. They
are legs of one run: one file, one count of steps, one time axis, one state of each hook. A hook that
was in a run knows where that run ended (`Hook.ended`), and a chain with used hooks continues there:

- with a recorder, if the recorder was used. A new recorder begins a new run, in which the other hooks
  keep what they know, such as the thresholds of a guard;
- without a recorder, if any hook was used that is not `Hook.shared`. A store of flagged frames, a queue
  of calculations and a progress display are shared: they serve runs of any systems.

Hooks that an engine adds (`HookChain.add_first`), functions, and replays take no part.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from .errors import HookError, RunStoppedError
from .frame import FloatArray, Frame
from .run_info import RunInfo, RunResult

if TYPE_CHECKING:
    from .hook import Hook

Value = TypeVar("Value")


@dataclass(frozen=True)
class LegEnd:
    """Where a leg ended.

    Attributes:
        run_id: the run, see `md_hooks.run_id`.
        leg: number of the leg, from 1.
        frame: the last frame of the run.
        result: how the leg ended.
        model: the model, as in `RunInfo.model`.
    """

    run_id: str
    leg: int
    frame: Frame
    result: RunResult
    model: Mapping[str, Any]

    def continued(self, info: RunInfo) -> RunInfo:
        """What hooks are told of the next leg, which has been described by ``info``.

        Raises:
            RunStoppedError: a hook stopped this one, and `RunInfo.after_stop` is not set.
            HookError: the next one has another system or model.
        """
        if self.result.reason == "stopped" and not info.after_stop:
            raise RunStoppedError(
                f"these hooks stopped the run ({self.result.message}): pass new hooks for a new run, or "
                "after_stop=True to go on after the stop",
                self.result,
            )
        self._check(info)
        return replace(
            info,
            run_id=self.run_id,
            leg=self.leg + 1,
            restart_step=self.frame.step,
            restart_time=self.frame.time,
        )

    def _check(self, info: RunInfo) -> None:
        last = f"step {self.frame.step} of a run"
        known = self.frame.numbers
        if info.numbers is not None and not np.array_equal(known, info.numbers):
            raise HookError(
                f"these hooks were used up to {last} of another system ({len(known)} atoms, now "
                f"{len(info.numbers)}; or other elements): pass new hooks for a new run"
            )
        for key in ("name", "weights_hash"):
            old, new = self.model.get(key), info.model.get(key)
            if None not in (old, new) and old != new:
                raise HookError(
                    f"these hooks were used up to {last} with another model ({key} {old}, now {new}): pass "
                    "new hooks for a new run"
                )


class Marks(Generic[Value]):
    """A value for each hook, kept outside of it: its own attributes are its own.

    By identity, since hooks may be equal or not hashable; gone with the hook.
    """

    def __init__(self) -> None:
        self._values: dict[int, tuple[weakref.ref[Any], Value]] = {}

    def put(self, hook: Any, value: Value) -> None:
        """Set the value of a hook."""
        key, values = id(hook), self._values
        values[key] = (weakref.ref(hook, lambda _: values.pop(key, None)), value)

    def get(self, hook: Any) -> Value | None:
        """The value of a hook; None without one."""
        found = self._values.get(id(hook))
        return None if found is None or found[0]() is not hook else found[1]

    def drop(self, hook: Any) -> None:
        """Forget the value of a hook."""
        self._values.pop(id(hook), None)


ENDS: Marks[LegEnd] = Marks()
"""Where the last run of each hook ended."""


def is_at(frame: Frame, positions: FloatArray, cell: FloatArray) -> bool:
    """Whether a frame is of a configuration.

    Args:
        frame: the frame.
        positions: [N, 3] Å.
        cell: [3, 3] Å.
    """
    return np.array_equal(frame.positions, positions) and np.array_equal(frame.cell, cell)


def leg_before(hooks: Sequence[Hook], info: RunInfo) -> LegEnd | None:
    """The leg that a run with these hooks continues; None for a new run, a restart and a replay.

    Args:
        hooks: as the user gave them.
        info: about the run that begins.

    Raises:
        HookError: the hooks were used in different runs, of which none is the one to continue.
    """
    if info.new_run or info.restart_step is not None or info.planned_frames is not None:
        return None
    used = [hook for hook in hooks if hook.ended is not None]
    records = any(hook.run_file is not None for hook in hooks)
    leading = [hook for hook in used if (hook.run_file is not None if records else not hook.shared)]
    runs = {hook.ended.run_id for hook in leading if hook.ended is not None}
    if len(runs) > 1:
        raise HookError(
            "these hooks were used in different runs, and cannot continue them all: pass those of one "
            "run, or new ones"
        )
    ends = [hook.ended for hook in used if hook.ended is not None]
    same = [end for end in ends if end.run_id in runs]
    return max(same, key=lambda end: (end.frame.step, end.leg), default=None)
