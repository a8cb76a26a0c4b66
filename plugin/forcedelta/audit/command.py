"""What ``forcedelta audit`` does; imported only when it runs, as PyTorch takes long to import."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from forcedelta.audit.many import Mode, audit_one, check_files, plan, prepare, run_jobs
from forcedelta.audit.result import AuditResult
from forcedelta.errors import ForceDeltaError
from forcedelta.report.html import check_report, write_report
from forcedelta.restarts import check_stored_model
from md_hooks import Trajectory
from md_hooks.progress import say

DONE, BAD_INPUT, STOPS, INTERRUPTED = 0, 2, 3, 130


def perform(
    trajectories: list[str],
    out: str,
    values: Mapping[str, Any],
    given: set[str],
    mode: Mode,
    workers: int,
    report: Path | None,
    command: str,
) -> tuple[list[AuditResult], int]:
    """The audits of one call of the command.

    Args:
        trajectories: the files; empty with a restart of one of them.
        out: file, or folder of several.
        values: the settings.
        given: the names of those that the user gave.
        mode: what is to happen to files that exist.
        workers: processes.
        report: HTML file to write.
        command: the command line, for the record.

    Returns:
        The results, and the exit status.

    Raises:
        ForceDeltaError, HookError: input that is not right; nothing was overwritten then.
    """
    settings = dict(values)
    given = given | {"trajectory"}
    if report is not None:
        check_report(report, replace=mode == "overwrite", continues=mode == "restart")
    if mode == "restart" and len(trajectories) < 2 and (not trajectories or Path(out).is_file()):
        stored = Trajectory(out).metadata.get("settings", {})
        if "trajectory" not in stored:
            raise ForceDeltaError(
                f"{out} is the file of a run, not of an audit: give another --out"
            )
        trajectories = trajectories or [str(stored["trajectory"])]
        if settings["model"] is None and stored.get("model") is not None:
            check_stored_model(str(stored["model"]), stored.get("architecture"), out)
            settings["model"] = stored["model"]
    if settings["model"] is None:
        raise ForceDeltaError("no model: give --model with a name of 'forcedelta models' or a path")
    jobs = plan(trajectories, out, **settings)
    check_files(jobs, settings, report)
    prepare(jobs, mode, given)
    if workers == 1 or len(jobs) == 1:
        results = []
        for job in jobs:
            results.append(audit_one(job, command, resume=mode != "overwrite", progress=True))
            if results[-1].reason == "interrupted":
                break
    else:
        results = _with_processes(jobs, command, min(workers, len(jobs)), mode)
    for found in jobs[0].calibrations.values():
        say(found.guarantee)
    status = max((_status(result) for result in results), default=DONE)
    if report is not None and status != INTERRUPTED:
        write_report([result.out for result in results if result.audited], report)
    return results, status


def _with_processes(jobs: list[Any], command: str, workers: int, mode: Mode) -> list[AuditResult]:
    # not forked: PyTorch's threads do not survive that
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        try:
            return run_jobs(jobs, executor, command, overwrite=mode == "overwrite", progress=True)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()  # they end after the batch at hand, with their files closed
            raise


def _status(result: AuditResult) -> int:
    if result.reason == "interrupted":
        return INTERRUPTED
    if result.problem:
        return BAD_INPUT
    return STOPS if result.stops else DONE
