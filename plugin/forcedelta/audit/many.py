"""Audits of one or many trajectories, one after the other or through an executor."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from forcedelta.audit.result import AuditResult, NoFramesError, NoModelError
from forcedelta.audit.settings import AuditSettings, continued, just_created
from forcedelta.calibration.error_guard import GivenPrediction, prediction_of
from forcedelta.errors import ForceDeltaError
from forcedelta.outputs import Named, check_outputs
from forcedelta.restarts import check_stored_model, continued_flags
from forcedelta.thresholds import (
    AUTO_FLAG_FACTOR,
    AUTO_STOP_FACTOR,
    BURN_IN,
    GivenThreshold,
    Patience,
    explained,
    threshold_of,
)
from forcedelta.trajectories.opening import open_trajectory
from md_hooks import HookError, Trajectory
from md_hooks.progress import QuietStream, print_line
from md_hooks.signals import completed

if TYPE_CHECKING:  # only the process that holds a model imports PyTorch
    from forcedelta.models.loaded import LoadedModel

_log = logging.getLogger(__name__)

Mode = Literal["create", "restart", "overwrite"]


def audit(
    trajectories: str | Path | Iterable[str | Path] = (),
    model: str | Path | LoadedModel | None = None,
    out: str | Path = "audit.h5",
    *,
    topology: str | Path | None = None,
    file_format: str | None = None,
    type_map: str | None = None,
    no_pbc: bool = False,
    select: str | None = None,
    timestep: float | None = None,
    rattle: float | None = None,
    start: int = 0,
    stop: int | None = None,
    every: int = 1,
    stop_above: GivenThreshold = None,
    flag_above: GivenThreshold = None,
    on: Literal["force_delta", "worst_atom"] = "force_delta",
    patience: Patience = (1, 1),
    stop_factor: float = AUTO_STOP_FACTOR,
    flag_factor: float = AUTO_FLAG_FACTOR,
    burn_in: int = BURN_IN,
    calibration: GivenPrediction = None,
    stop_error: float | None = None,
    flag_error: float | None = None,
    end_at_stop: bool = False,
    charge: int | None = None,
    spin: int | None = None,
    architecture: str | None = None,
    trust: bool = False,
    compile: bool = False,
    record_every: int | None = None,
    flags: str | Path | None = None,
    report: str | Path | None = None,
    mode: Mode = "create",
    executor: Executor | None = None,
    workers: int = 1,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    threads: int = 1,
    progress: bool = False,
    given: Collection[str] | None = None,
    command: str | None = None,
) -> list[AuditResult]:
    """Audit trajectories: evaluate their frames with a model and hand them to guard and recorder.

    One trajectory gives the file ``out``. Several give one file each, named after them, in the
    folder ``out``. Frames that the model cannot evaluate, and gaps, are noted in the file
    (`md_hooks.Trajectory.remarks`); a frame at which the guard would stop is marked. The audit
    continues after either.

    A resubmitted job, as by Dask after the loss of a worker, continues where the first one ended.

    Args:
        trajectories: one or more files; see `forcedelta.trajectories.opening.open_trajectory`. Optional with
            ``mode="restart"``, where ``out`` names its trajectory.
        model: a name, the path of a file, or a model in memory (in this process only).
        out: file or folder, see above.
        file_format, type_map, no_pbc, select, timestep, rattle: how the files are read; see
            `forcedelta.reading_options.ReadingOptions`.
        topology, start, stop, every, end_at_stop, record_every, flags: see `AuditSettings`.
        charge, spin, architecture, trust, compile, device, dtype, threads: see `AuditSettings`.
        stop_above, flag_above: thresholds in eV/Å, "auto", a `forcedelta.Calibration` or its file, or None.
        on, patience, stop_factor, flag_factor, burn_in: see `md_hooks.Guard`.
        calibration, stop_error, flag_error: see `forcedelta.guarded_run`.
        report: HTML file to write about the audits.
        mode: "create" refuses files that exist, "restart" continues them, "overwrite" replaces them.
        executor: runs a job for each trajectory, e.g. a ProcessPoolExecutor, or Dask's
            ``client.get_executor(retries=2)``; None: this process, or ``workers``.
        workers: number of processes, each for one trajectory at a time.
        progress: show progress on stderr.
        given: names of the arguments that a restart compares with the audit in ``out``; None: all.
        command: the command line for the record.

    Returns:
        a result for each trajectory, in their order; an interrupted audit is the last one. The result of
        one of several that cannot be audited has the error as its ``problem``.

    Raises:
        ForceDeltaError, HookError: invalid input, a model that cannot be used, or the error of the only
            trajectory.
    """
    paths = [trajectories] if isinstance(trajectories, str | Path) else list(trajectories)
    names = [str(path) for path in paths]
    loaded = None if model is None or isinstance(model, str | Path) else model
    if loaded is not None and (executor is not None or workers > 1):
        raise ForceDeltaError(
            "a model in memory cannot be sent to other processes: give its name or file"
        )
    name = None if model is None else str(model) if loaded is None else loaded.name
    if report is not None:
        from forcedelta.report.html import check_report, write_report  # Matplotlib takes a second

        check_report(Path(report), replace=mode == "overwrite", continues=mode == "restart")
    if mode == "restart":
        names, name = _as_begun(names, name, str(out))
    if name is None:
        raise ForceDeltaError("no model: give --model with a name of 'forcedelta models' or a path")
    jobs = plan(
        names, str(out), model=name, topology=None if topology is None else str(topology),
        file_format=file_format, type_map=type_map, no_pbc=no_pbc, select=select, timestep=timestep,
        rattle=rattle,
        start=start, stop=stop, every=every, stop_above=threshold_of(stop_above),
        flag_above=threshold_of(flag_above), on=on, patience=patience, stop_factor=stop_factor,
        flag_factor=flag_factor, burn_in=burn_in, calibration=prediction_of(calibration),
        stop_error=stop_error, flag_error=flag_error, end_at_stop=end_at_stop, charge=charge, spin=spin,
        architecture=architecture, trust=trust, compile=compile, record_every=record_every,
        flags=None if flags is None else str(flags), device=device, dtype=dtype, threads=threads,
    )  # fmt: skip
    check_files(
        jobs, (stop_above, flag_above, calibration), None if report is None else Path(report)
    )
    prepare(jobs, mode, None if given is None else {*given, "trajectory"})
    record = shlex.join(sys.argv) if command is None else command
    if executor is not None:
        results = run_jobs(jobs, executor, record, overwrite=mode == "overwrite", progress=progress)
    elif workers > 1 and len(jobs) > 1:
        results = _in_processes(jobs, record, min(workers, len(jobs)), mode, progress)
    else:
        results = _one_by_one(jobs, record, loaded, mode, progress)
    for line in explained(jobs[0]):
        _log.info(line)
    interrupted = any(result.reason == "interrupted" for result in results)
    audited = [result.out for result in results if result.audited]
    if report is not None and not interrupted:
        failed = {result.trajectory: result.problem for result in results if not result.audited}
        write_report(audited, Path(report), failed)
    return results


def _as_begun(trajectories: list[str], model: str | None, out: str) -> tuple[list[str], str | None]:
    """Trajectory and model of a continued audit, unless given."""
    if len(trajectories) > 1 or (trajectories and not Path(out).is_file()):
        return trajectories, model
    stored = Trajectory(out).metadata.get("settings", {})
    if "trajectory" not in stored:
        raise ForceDeltaError(f"{out} is the file of a run, not of an audit: give another --out")
    if model is None and stored.get("model") is not None:
        model = str(stored["model"])
        check_stored_model(model, stored.get("architecture"), out)
    return trajectories or [str(stored["trajectory"])], model


def _one_by_one(
    jobs: list[AuditSettings],
    command: str,
    model: LoadedModel | None,
    mode: Mode,
    progress: bool,
) -> list[AuditResult]:
    results: list[AuditResult] = []
    for job in jobs:
        try:
            result = audit_one(job, command, model, resume=mode != "overwrite", progress=progress)
        except (ForceDeltaError, HookError) as error:
            result = _failed(job, error, jobs)
        results.append(result)
        if result.reason == "interrupted":
            break
    return results


def _in_processes(
    jobs: list[AuditSettings],
    command: str,
    workers: int,
    mode: Mode,
    progress: bool,
) -> list[AuditResult]:
    context = multiprocessing.get_context("spawn")  # PyTorch's threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        try:
            return run_jobs(
                jobs, executor, command, overwrite=mode == "overwrite", progress=progress
            )
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()  # they end after the current batch and close their files
            raise


def plan(trajectories: Sequence[str], out: str, **settings: Any) -> list[AuditSettings]:
    """The audit of each trajectory.

    Raises:
        ForceDeltaError: no trajectory, or two that would share a file.
    """
    if not trajectories:
        raise ForceDeltaError("no trajectory: give one or more files")
    if len(trajectories) == 1:
        return [AuditSettings(trajectories[0], out=out, **settings)]
    flags = settings.pop("flags", None)
    jobs: dict[str, AuditSettings] = {}
    for trajectory in trajectories:
        stem = Path(trajectory).stem
        if stem in jobs:
            raise ForceDeltaError(
                f"{jobs[stem].trajectory} and {trajectory} would both become {out}/{stem}.h5: "
                "rename one, or audit them separately"
            )
        job = AuditSettings(
            trajectory,
            out=str(Path(out) / f"{stem}.h5"),
            flags=None if flags is None else str(Path(out) / f"{stem}.xyz"),
            **settings,
        )
        jobs[stem] = job
    return list(jobs.values())


def check_files(
    jobs: Sequence[AuditSettings],
    calibrations: Sequence[GivenThreshold | GivenPrediction],
    report: Path | None = None,
) -> None:
    """Refuse outputs that are inputs, or each other, before anything is written.

    Args:
        jobs: of one call.
        calibrations: thresholds and predicted error as given; some may be files.
        report: HTML file to write about them.

    Raises:
        ForceDeltaError: two of them are one file.
    """
    outputs, inputs = [], []
    for job in jobs:
        outputs += [Named("--out", job.out), Named("--flags", job.flags)]
        inputs += [Named("trajectory", job.trajectory), Named("topology", job.topology)]
        inputs.append(Named("model", job.model))
    for given in calibrations:
        file = given if isinstance(given, str | Path) and given != "auto" else None
        inputs.append(Named("calibration", file))
    if report is not None:
        outputs += [
            Named("--report", report),
            Named("the report's picture", report.with_suffix(".png")),
        ]
    check_outputs(outputs, inputs)


def prepare(jobs: list[AuditSettings], mode: Mode, given: set[str] | None) -> None:
    """Check all files before anything is computed; in a restart, update the jobs in place.

    Args:
        jobs: of one call.
        mode: see `audit`.
        given: names of the settings given by the user; None: all.

    Raises:
        ForceDeltaError: files that exist, cannot be written, or belong to other audits.
    """
    for k, job in enumerate(jobs):
        job.check()
        out = Path(job.out)
        if len(jobs) > 1:
            _make_folder(out.parent)
        if not out.parent.is_dir():
            raise ForceDeltaError(f"{out} cannot be written: make the folder {out.parent} first")
        if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
            raise ForceDeltaError(f"{out} cannot be written: choose a file in a writable folder")
        if not out.exists():
            continue
        if mode == "create":
            raise ForceDeltaError(
                f"{out} exists: pass --restart to continue it, --overwrite to replace it, or give "
                "another --out"
            )
        if mode == "restart" and not just_created(out):
            begun = Trajectory(out)
            stored = begun.metadata.get("settings", {})
            job = continued(job, given, stored)
            flags = continued_flags(job.flags, stored.get("flags"), begun)
            jobs[k] = replace(job, flags=flags)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ForceDeltaError(
            f"{folder} cannot be made a folder for the audits of several trajectories "
            f"({error.strerror}): give another --out"
        ) from error


def audit_one(
    settings: AuditSettings,
    command: str,
    model: LoadedModel | None = None,
    *,
    resume: bool = True,
    replaces: tuple[int, int] | None = None,
    progress: bool = False,
) -> AuditResult:
    """One audit, continued in its file if that exists. The job that executors run.

    Args:
        settings: of the audit.
        command: the command line, for the record.
        model: already in memory.
        resume: continue in the file.
        replaces: `version_of` a file to be replaced instead of continued. A resubmitted job finds the
            file of the first one, which has another version, and continues it.
        progress: show progress.
    """
    import torch

    from forcedelta.audit.replay import Audit

    if replaces is not None and version_of(settings.out) == replaces:
        resume = False
    torch.set_num_threads(settings.threads)
    return Audit(settings, model, resume=resume, command=command).run(progress)


def _failed(job: AuditSettings, error: Exception, jobs: Sequence[AuditSettings]) -> AuditResult:
    """The result of one of several trajectories that cannot be audited.

    Raises:
        Exception: the error itself, of the only trajectory or of the model.
    """
    if len(jobs) == 1 or isinstance(error, NoModelError):
        raise error
    reason = "unreadable" if isinstance(error, NoFramesError) else "failed"
    problem = str(error) or type(error).__name__
    for end in (": ", " "):
        problem = problem.removeprefix(f"{job.trajectory}{end}")
    return AuditResult(job.trajectory, job.out, reason, frames=0, problem=problem)


def version_of(path: str | Path) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in ns of a file; None if it does not exist."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


def run_jobs(
    jobs: list[AuditSettings],
    executor: Executor,
    command: str,
    *,
    overwrite: bool,
    progress: bool,
) -> list[AuditResult]:
    """All jobs through an executor, with a bar that counts trajectories.

    Raises:
        ForceDeltaError: the executor broke, the model cannot be used, or the error of the only job.
    """
    futures: dict[Future[AuditResult], int] = {}
    results: list[AuditResult | None] = [None] * len(jobs)
    for k, job in enumerate(jobs):
        try:
            # before its file is replaced
            open_trajectory(job.trajectory, job.topology, job.reading).close()
        except (ForceDeltaError, HookError) as error:
            results[k] = _failed(job, error, jobs)
            continue
        replaces = version_of(job.out) if overwrite else None
        futures[executor.submit(audit_one, job, command, replaces=replaces)] = k
    out = QuietStream(sys.stderr)
    bar = tqdm(
        total=len(jobs), unit="trajectory", file=out, disable=not progress or not out.isatty()
    )
    with bar:
        for future in completed(futures):
            k = futures[future]
            try:
                result = future.result()
            except BrokenExecutor as error:
                raise ForceDeltaError(
                    "a worker process died, killed or out of memory: pass --restart to "
                    "continue, as nothing that was written is lost"
                ) from error
            except Exception as error:
                for other in futures if isinstance(error, NoModelError) else ():
                    other.cancel()
                result = _failed(jobs[k], error, jobs)
            results[k] = result
            bar.update()
            if progress and bar.disable:
                print_line(result.line)
    return [result for result in results if result is not None]
