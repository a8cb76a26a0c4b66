"""Hook: the interface between a run and its observers and judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .frame import FloatArray, Frame
from .legs import ENDS, LegEnd
from .run_info import RunInfo, RunResult
from .verdict import Action, Verdict


class Hook:
    """Base class of hooks: every method does nothing, and a subclass overrides those it needs.

    In a run the methods are called in this order: `check_files` and `open` once; for each step
    `annotate` and `annotate_atoms`, ``hook(frame)``, whose answer may flag or stop, and `observe` with
    the strongest answer of all hooks; `flush` now and then; `unresolved` and `close` once at the end. Another run
    with the same hook calls them again, from `check_files` on: it is the next leg of the run, and
    ``info.leg`` and ``info.restart_step`` of `open` say where it goes on.

    >>> class Hottest(Hook):
    ...     temperature = 0.0
    ...     def observe(self, frame, verdict):
    ...         self.temperature = max(self.temperature, frame.temperature)
    >>> hottest = Hottest()  # for hooks=[hottest] of a run

    Attributes:
        run_file: the file of a hook that records the trajectory. Such a hook is opened first, to
            refuse the run before other hooks touch files, and observes each frame last, since its
            checkpoint states that everything up to its step is stored.
        run_id: the id of the run in that file, once open.
        begins_anew: whether the run in that file replaces a killed one without frames.
        leg: number of the leg in that file, once open; 0 of hooks that do not record.
        shared: whether runs of any systems may use the hook one after the other, as a store of frames. It
            then does not tell which run to continue.
        state_name: under which checkpoints keep the state of the hook; by default, its class's name.
    """

    run_file: str | None = None
    run_id: str = ""
    begins_anew: bool = False
    leg: int = 0
    shared: bool = False
    state_name: str = ""

    @property
    def ended(self) -> LegEnd | None:
        """Where the last run of this hook ended; a further run with it is a leg that continues there.

        See `md_hooks.legs`; None for a new hook.
        """
        return ENDS.get(self)

    def check_files(self) -> None:
        """Refuse files that the hook cannot use, before any hook is opened."""

    def open(self, info: RunInfo) -> None:
        """The run or its leg ``info.leg`` begins, or continues after ``info.restart_step``."""

    def annotate(self, frame: Frame) -> Mapping[str, float]:
        """Further scalars of the step of a ``frame``, for the `Frame.extra` that all hooks judge and observe."""
        return {}

    def annotate_atoms(self, frame: Frame) -> Mapping[str, FloatArray]:
        """Predicted errors of the atoms of a ``frame``, [N] eV/Å each, that all hooks judge and observe.

        Their names are those of `md_hooks.predicted_error.PREDICTED_ATOMS`.
        """
        return {}

    def __call__(self, frame: Frame) -> Action | Verdict | None:
        """Judge a frame; None is `Action.CONTINUE`."""
        return None

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """See a frame with the strongest verdict of all hooks."""

    def flush(self) -> None:
        """Write to disk what is still in memory."""

    def unresolved(self) -> str | None:
        """Why the hook could not do its task in a completed run; None if it could."""
        return None

    def close(self, result: RunResult) -> None:
        """The run, or this leg, is over, with this ``result``; called once for each `open`."""

    def policy(self) -> dict[str, Any] | None:
        """The hook's thresholds, JSON-able, for the file; None for hooks that do not judge."""
        return None

    def state_dict(self) -> dict[str, Any] | None:
        """The state that a restart needs, JSON-able; None for hooks without one."""
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of `state_dict`."""


AnyHook = Hook | Callable[[Frame], Action | Verdict | None]
"""Valid hooks of a run: a `Hook`, a function of a frame, or any object with some of the methods of
`Hook`, including ``observe`` or ``__call__``."""


_METHODS = (
    "check_files",
    "open",
    "annotate",
    "annotate_atoms",
    "observe",
    "flush",
    "unresolved",
    "close",
    "policy",
    "state_dict",
    "load_state_dict",
)


class ForeignHook(Hook):
    """A function, or an object with some methods of a hook, as a `Hook`.

    Args:
        hook: the function or object.
    """

    def __init__(self, hook: Any) -> None:
        self.hook = hook
        for name in _METHODS:
            method = getattr(hook, name, None)
            if method is not None:
                setattr(self, name, method)

    def __call__(self, frame: Frame) -> Action | Verdict | None:
        """The answer of a function or of a callable object."""
        return self.hook(frame)

    @property
    def run_file(self) -> str | None:  # type: ignore[override]
        """The file of an object that records."""
        return getattr(self.hook, "run_file", None)

    @property
    def run_id(self) -> str:  # type: ignore[override]
        """The id of the run in that file."""
        return getattr(self.hook, "run_id", "")

    @property
    def begins_anew(self) -> bool:  # type: ignore[override]
        """Whether the file takes the place of a killed run."""
        return getattr(self.hook, "begins_anew", False)
