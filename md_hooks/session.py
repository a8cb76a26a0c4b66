"""One run with its hooks, for any engine: the last frame, the outcome, closing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .chain import HookChain
from .frame import FloatArray, Frame
from .legs import is_at
from .run_info import COMPLETED, RunInfo, RunResult
from .verdict import Action, Verdict


class Session:
    """Hands the frames of a run to its hooks and determines its result.

    Args:
        chain: the hooks.
        evaluations: gives the number of evaluations of the model so far; None if they are not counted.
        replay: the frames are those of a stored trajectory, which may be too short for the hooks.
        monitoring: gives the counts of adaptive monitoring; None without it.

    Attributes:
        chain: the hooks.
        info: about the run, as the hooks were told; once open.
        last: the last frame.
        known_step: its step; before it, the step that a restart or a further leg continues.
        stopped: the verdict that stopped the run, if any.
        interrupted: the reason of an interruption, "" without one.
        between_steps: whether the engine's state is that of the last frame.
        result: the outcome; None until the run has ended.
    """

    def __init__(
        self,
        chain: HookChain,
        evaluations: Callable[[], int | None] = lambda: None,
        replay: bool = False,
        monitoring: Callable[[], Mapping[str, int] | None] = lambda: None,
    ) -> None:
        self.chain = chain
        self.info = RunInfo()
        self.last: Frame | None = None
        self.known_step: int | None = None
        self.stopped: Verdict | None = None
        self.interrupted = ""
        self.between_steps = True
        self.result: RunResult | None = None
        self._last_with_u: Frame | None = None
        self._evaluations = evaluations
        self._evaluations_before = evaluations()
        self._replay = replay
        self._monitoring = monitoring
        self._last: Frame | None = None
        self._steps = 0
        self._time = 0.0

    # --- the begin -----------------------------------------------------------------------------

    def open(self, info: RunInfo, step: int | None = None, time: float | None = None) -> None:
        """Open the hooks.

        Args:
            info: about the run.
            step: number of the present step as the engine counts, which may begin anew at each leg; None
                if it counts as the run does.
            time: time of the engine, fs; None likewise.
        """
        before = self.chain.leg_before(info)
        self._last = None if before is None else before.frame
        self.info = self.chain.open(info)
        self.known_step = self.info.restart_step
        if self.info.restart_step is None:
            return
        if step is not None:
            self._steps = self.info.restart_step - step
        if time is not None:
            self._time = self.info.restart_time - time

    def step(self, engine: int) -> int:
        """Number of a step in the run, from that of the engine."""
        return engine + self._steps

    def time(self, engine: float) -> float:
        """Time in the run, fs, from that of the engine.

        It is rounded, so that the times of a restart equal the original's in the last digit too.
        """
        return round(engine + self._time, 9)

    def count_anew(self, step: int, time: float) -> None:
        """Take the last frame as the engine's present step, whose count and time a user has set back.

        Args:
            step: number of that step as the engine counts.
            time: its time in the engine, fs.
        """
        assert self._last is not None
        self._steps = self._last.step - step
        self._time = self._last.time - time

    def is_known(self, engine: int, positions: FloatArray, cell: FloatArray) -> bool:
        """Whether a configuration is the last one of the run, and makes no frame.

        It is where an engine shows its first configuration after a restart, or in a further leg that
        begins at the last frame of the leg before, also with other velocities. If atoms or cell were
        changed in between, the configuration is a step of its own at the time of that frame, and the
        next steps count from it.

        Args:
            engine: number of the present step as the engine counts.
            positions: [N, 3] Å.
            cell: [3, 3] Å.
        """
        known = self.known_step
        if known is None or self.step(engine) > known:
            return False
        if self._last is None or is_at(self._last, positions, cell):
            return True
        self._steps = known + 1 - engine
        return False

    # --- the frames ----------------------------------------------------------------------------

    def count_from_now(self) -> None:
        """Restart the count of model evaluations."""
        self._evaluations_before = self._evaluations()

    @property
    def over(self) -> bool:
        """Whether the run should make no further step."""
        return self.stopped is not None or bool(self.interrupted)

    @property
    def reason(self) -> str:
        """Why the run should make no further step; "" if it should."""
        return self.interrupted or ("" if self.stopped is None else self.stopped.reason)

    def interrupt(self, why: str) -> None:
        """Request the end of the run after the current step."""
        self.interrupted = why

    def show(self, frame: Frame) -> Verdict:
        """Pass a frame to the hooks.

        Raises:
            Exception: the first error of an observing hook, raised after all of them saw the frame.
        """
        self.last = self._last = frame
        self.known_step = frame.step
        if frame.force_delta is not None:
            self._last_with_u = frame
        verdict = self.chain.dispatch(frame)
        if verdict.action == Action.STOP:
            self.stopped = verdict
        return verdict

    def close(self, reason: str = "", message: str = "") -> RunResult:
        """Close the hooks; further calls return the first result.

        Args:
            reason: one of `RunResult`; by default the first of "stopped", "interrupted" and "finished"
                that applies. It does not replace a stop or an interruption unless it is "error".
            message: one readable line.
        """
        if self.result is None:
            ended = reason in ("", *COMPLETED)
            if self.stopped is not None and ended:
                reason, message = "stopped", self.stopped.reason
            elif self.interrupted and ended:
                reason, message = "interrupted", self.interrupted
            result = self._outcome(reason or "finished", message)
            self.result = result if self._replay else self.chain.conclude(result)
            self.chain.close(self.result)
        return self.result

    def close_after(self, error: BaseException) -> RunResult | None:
        """Close the hooks after an exception; a second one in a hook becomes a note on the first.

        Returns:
            the result; None if closing failed.
        """
        if isinstance(error, KeyboardInterrupt):
            return self.close("interrupted", "interrupted from the keyboard")
        notes = getattr(error, "__notes__", [])
        try:
            return self.close("error", "; ".join([*notes, str(error) or type(error).__name__]))
        except Exception as second:  # the first error is the one to report
            error.add_note(f"while closing: {second}")
            return self.result

    def _outcome(self, reason: str, message: str) -> RunResult:
        last, with_u = self._last, self._last_with_u  # also of a leg without a step
        before, now = self._evaluations_before, self._evaluations()
        counts = self._monitoring()
        return RunResult(
            reason=reason,
            step=-1 if last is None else last.step,
            time=0.0 if last is None else last.time,
            force_delta=None if with_u is None else with_u.force_delta,
            worst_atom=None if with_u is None else with_u.worst_atom,
            message=message,
            evaluations=None if before is None or now is None else now - before,
            monitoring=None if counts is None else dict(counts),
        )
