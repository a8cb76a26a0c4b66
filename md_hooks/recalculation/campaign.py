"""Labelling of frames: a journal, a file of labelled frames, and jobs on an executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, wait
from pathlib import Path

from ase import Atoms

from ..errors import HookError
from ..signals import first_completed
from .job import Failure, Job, Label, run_job, stop_running
from .journal import Journal
from .labelled import labelled, write_all
from .reference import Reference

JOURNAL = ".journal"
JOBS = ".jobs"
PATIENCE = 5.0  # s; a job that is killed ends at once


class Campaign:
    """Labels frames and keeps the file of labelled frames up to date.

    Beside the file ``labelled.xyz`` lie ``labelled.xyz.journal``, from which everything can be
    made again, and ``labelled.xyz.jobs/``, the working folders of jobs that run or failed.

    Args:
        path: extended XYZ of the labelled frames. It is written anew from the journal.
        reference: the reference code with its settings.
        executor: runs `run_job`, which waits for a process of its own: threads are enough on one
            machine; executors of other machines need the same folder there.
        threads: threads of each job.

    Raises:
        HookError: see `Journal`; or ``path`` exists and did not come from such a journal.
    """

    def __init__(
        self, path: str | Path, reference: Reference, executor: Executor, threads: int = 1
    ) -> None:
        self.path = Path(path).absolute()
        self.reference = reference
        self.executor = executor
        self.threads = threads
        self.jobs = self.path.with_name(self.path.name + JOBS)
        self.running: dict[Future[Label | Failure], str] = {}
        journal = self.path.with_name(self.path.name + JOURNAL)
        refuse_foreign(self.path, journal)
        self.journal = Journal(journal, reference.description)
        try:
            self.write()
        except BaseException:
            self.journal.close()
            raise

    def submit(self, key: str) -> None:
        """Start the calculation of a queued frame.

        Args:
            key: of the frame in the journal.

        Raises:
            HookError: the executor does not take jobs any more.
        """
        frame = self.journal.frames[key].copy()
        frame.set_constraint()  # some codes print no forces on atoms that are held
        job = Job(key, frame, self.reference, str(self.jobs / key), self.threads)
        try:
            future = self.executor.submit(run_job, job)
        except RuntimeError as error:
            raise HookError(
                f"the executor takes no jobs ({error}): give one that is not shut down"
            ) from error
        self.running[future] = key

    def collect(self, block: bool = False) -> list[str]:
        """Take in what has finished; with ``block``, wait until something has.

        Returns:
            the keys of the frames that finished, labelled or failed.

        Raises:
            HookError: a job could not even be started, or the results cannot be written.
        """
        done = (
            first_completed(self.running)
            if block
            else {future for future in self.running if future.done()}
        )
        finished = []
        for future in done:
            key = self.running.pop(future)
            error = future.exception()
            if isinstance(error, HookError):
                raise error
            if error is not None:  # the executor lost the job: its own words
                outcome: Label | Failure = Failure(f"{type(error).__name__}: {error}", 0.0)
            else:
                outcome = future.result()
            self.journal.add_outcome(key, outcome)
            finished.append(key)
        if any(key in self.journal.labels for key in finished):
            self.write()
        return finished

    def finish(self, report: Callable[[str], None] = lambda key: None) -> None:
        """Wait for all jobs that were submitted; ``report`` is called with the key of each."""
        while self.running:
            for key in self.collect(block=True):
                report(key)

    def write(self) -> None:
        """Write the labelled frames, in the order in which they were queued.

        Raises:
            HookError: the file cannot be written, or holds something although no frame is labelled.
        """
        frames = [
            labelled(atoms, self.journal.labels[key], self.reference.description)
            for key, atoms in self.journal.frames.items()
            if key in self.journal.labels
        ]
        if frames:
            write_all(self.path, frames)
        elif self.path.exists() and self.path.stat().st_size:
            raise HookError(
                f"{self.path} holds something, but its journal no labels: give another output file"
            )
        self._written = len(frames)

    def abandon(self) -> None:
        """Drop what waits, kill what runs in this process; it stays pending in the journal."""
        for future in self.running:
            future.cancel()
        end = time.monotonic() + PATIENCE
        # a job may be about to start its process just now; one of another machine is left to it
        while not all(future.done() for future in self.running) and time.monotonic() < end:
            stop_running(self.jobs)
            wait(self.running, timeout=0.05)
        self.running.clear()

    def close(self) -> None:
        """Let go of the journal; running jobs are abandoned."""
        try:
            if self.running:
                self.abandon()
            if self._written != len(self.journal.labels):  # Ctrl-C came in between
                self.write()
        finally:
            self.journal.close()


def refuse_foreign(path: Path, journal: Path) -> None:
    """Whether labelled frames may be written to a file.

    Raises:
        HookError: it is there already and was not made from this journal.
    """
    if path.exists() and not journal.exists():
        raise HookError(
            f"{path} exists and has no journal ({journal.name}) beside it, so it was made by "
            "something else: give another output file"
        )


def recalculate(
    frames: Iterable[Atoms],
    reference: Reference,
    path: str | Path,
    executor: Executor,
    threads: int = 1,
    report: Callable[[str, Label | Failure], None] = lambda key, outcome: None,
) -> Journal:
    """Label frames with a reference; frames that the journal has labelled already are not redone.

    Frames that failed before are tried again.

    Args:
        frames: structures as ``candidate`` makes them.
        reference: the reference code with its settings.
        path: the file of labelled frames, see `Campaign`.
        executor: see `Campaign`.
        threads: threads of each job.
        report: called with key and outcome when a job has ended.

    Returns:
        the journal, closed: frames, labels and failures by key.

    Raises:
        HookError: see `Campaign`.
    """
    campaign = Campaign(path, reference, executor, threads)
    journal = campaign.journal

    def tell(key: str) -> None:
        report(key, journal.labels[key] if key in journal.labels else journal.failures[key])

    try:
        keys = dict.fromkeys(journal.add_frame(atoms) for atoms in frames)
        for key in keys:
            if key not in journal.labels:
                campaign.submit(key)
        campaign.finish(tell)
    finally:
        campaign.close()
    return journal
