"""RecalculationQueue: labels flagged frames with a reference while the run goes on."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from ..errors import HookError
from ..frame import Frame
from ..hook import Hook
from ..run_info import RunInfo, RunResult
from ..unphysical import unphysical
from ..verdict import CONTINUE, Action, Verdict
from .campaign import Campaign
from .labelled import candidate
from .reference import Reference


class RecalculationQueue(Hook):
    """Sends flagged frames to a reference calculation, in processes beside the run.

    Flagged frames come in a row. Of each row the one with the largest U is queued, when the row
    ends; a row longer than ``spacing`` is cut into pieces of that length. Frames with overlapping
    atoms are left out, and so is the frame that stops the run: it lies above the band. What was
    queued and labelled is in the journal beside ``path`` at once, so that kill -9 loses only the
    calculation that was running; the next run with the same file, or
    ``forcedelta recalc labelled.xyz.journal``, makes up for it.

    Args:
        path: extended XYZ of the labelled frames, see `Campaign`.
        reference: the reference code with its settings, for instance a
            `md_hooks.recalculation.CalculatorReference`. In a run that records the environment of
            its frames it labels in their field, if it can (`Reference`).
        max_calls: so many frames are queued at most, those of earlier runs in the file included.
        spacing: fs.
        executor: where the calculations run; by default one at a time on this machine. One that
            is given is not shut down.
        threads: threads of each calculation.
        stop_when_full: stop the run when ``max_calls`` frames are queued.
        wait: at the end of the run wait for the labels; else what is not finished stays in the
            journal. A run that was interrupted does not wait.

    Raises:
        HookError: a number that makes no sense.
    """

    shared = True

    def __init__(
        self,
        path: str | Path,
        reference: Reference,
        max_calls: int,
        *,
        spacing: float = 50.0,
        executor: Executor | None = None,
        threads: int = 1,
        stop_when_full: bool = False,
        wait: bool = True,
    ) -> None:
        if max_calls < 1 or threads < 1 or spacing < 0:
            raise HookError(
                f"max_calls {max_calls}, threads {threads}, spacing {spacing} fs: give at least "
                "one call, one thread, and no negative time"
            )
        self.path = Path(path)
        self.reference = reference
        self.max_calls = max_calls
        self.spacing = spacing
        self.threads = threads
        self.stop_when_full = stop_when_full
        self.wait = wait
        self._given = executor
        self._campaign: Campaign | None = None
        self._row: list[Frame] = []  # first frame of a row of flagged ones, and its best

    @property
    def queued(self) -> int:
        """Number of frames in the journal, those of earlier legs and runs included."""
        return len(self._open_campaign.journal.frames)

    @property
    def _open_campaign(self) -> Campaign:
        if self._campaign is None:
            raise HookError("the queue is not open: pass it in hooks=[...] of a run")
        return self._campaign

    def open(self, info: RunInfo) -> None:
        """Open the journal and start what an earlier run has left in it."""
        self._source = info.run_file
        self._run_id = info.run_id
        self._model = info.model.get("name")
        self._hash = info.model.get("weights_hash")
        self._level = info.model.get("level_of_theory")
        self._row = []
        executor = self._given or ThreadPoolExecutor(1, thread_name_prefix="recalculation")
        self._executor = executor
        reference = self.reference
        if info.settings.get("environment") and hasattr(reference, "embedded"):
            reference = reference.embedded()
        self._campaign = Campaign(self.path, reference, executor, self.threads)
        for key in self._campaign.journal.pending:
            self._campaign.submit(key)

    def __call__(self, frame: Frame) -> Verdict:
        """Stop the run when it has queued as many frames as wanted, if that was asked for."""
        if not self.stop_when_full or self.queued < self.max_calls:
            return CONTINUE
        return Verdict(
            Action.STOP,
            f"step {frame.step}, {frame.time:.10g} fs: {self.queued} frames are queued for "
            f"reference calculations in {self.path}, as many as asked for",
            "queued",
            float(self.queued),
            float(self.max_calls),
        )

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Follow the flagged frames, and take in the labels that have come."""
        self._open_campaign.collect()
        if self._row and (
            verdict.action != Action.FLAG or frame.time - self._row[0].time >= self.spacing
        ):
            self._queue()
        if verdict.action != Action.FLAG:
            return
        if not self._row:
            self._row = [frame, frame]
        elif (frame.force_delta or 0.0) > (self._row[1].force_delta or 0.0):
            self._row[1] = frame

    def _queue(self) -> None:
        best, self._row = self._row[1], []
        campaign = self._open_campaign
        if self.queued >= self.max_calls:
            return
        atoms = candidate(best, self._source, self._model, self._hash, self._run_id, self._level)
        if unphysical(atoms) is not None:
            return
        known = self.queued
        key = campaign.journal.add_frame(atoms)
        if (
            self.queued > known
        ):  # a run that continues from a checkpoint makes the same frames again
            campaign.submit(key)

    def close(self, result: RunResult) -> None:
        """Wait for the labels, or leave the rest in the journal, as requested."""
        if self._campaign is None:
            return
        campaign, self._campaign = self._campaign, None
        ended = result.completed or result.reason == "stopped"
        try:
            if self._row and ended:
                self._campaign = campaign
                self._queue()
                self._campaign = None
            if self.wait and ended:
                campaign.finish()
        finally:
            campaign.close()
            if self._given is None:
                self._executor.shutdown(cancel_futures=True)
