"""Audits of one or many trajectories, one after the other or through an executor."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from forcedelta.audit.result import AuditResult
from forcedelta.audit.settings import AuditSettings, continued, just_created
from forcedelta.errors import ForceDeltaError
from forcedelta.outputs import Named, check_outputs
from forcedelta.restarts import flags_to_go_on_with
from forcedelta.simulation.settings import with_calibrations
from forcedelta.trajectories.opening import open_trajectory
from md_hooks import Trajectory
from md_hooks.progress import QuietStream, say
from md_hooks.signals import completed

if TYPE_CHECKING:  # PyTorch is imported where a model is, which may be in another process
    from forcedelta.models.loaded import LoadedModel

Mode = Literal["create", "restart", "overwrite"]


def audit(
    trajectories: str | Path | Iterable[str | Path],
    model: str | Path | LoadedModel,
    out: str | Path,
    *,
    executor: Executor | None = None,
    mode: Mode = "create",
    progress: bool = False,
    **settings: Any,
) -> list[AuditResult]:
    """Audit trajectories: evaluate their frames with a model and hand them to guard and recorder.

    One trajectory gives the file ``out``. Several give one file each, named after them, in the
    folder ``out``. Frames that the model cannot judge, and gaps, are noted in the file
    (`md_hooks.Trajectory.remarks`) and end nothing; a frame at which the guard says stop is marked,
    and the audit goes on.

    A job that is submitted a second time, as Dask does when a worker is lost, goes on where the
    first one was.

    Args:
        trajectories: one or more files; `forcedelta.trajectories.opening.open_trajectory` says of what kind.
        model: a name, the path of a file, or a model in memory (without an executor only).
        out: file or folder, see above.
        executor: runs a job for each trajectory, e.g. a ProcessPoolExecutor, or Dask's
            ``client.get_executor(retries=2)``; None: one after the other, here.
        mode: "create" refuses files that exist, "restart" goes on with them, "overwrite" replaces
            them.
        progress: show it.
        **settings: those of `AuditSettings`, in its units; thresholds and patience also as a
            `md_hooks.Guard` takes them, in numbers.

    Returns:
        A result for each trajectory, in their order.

    Raises:
        ForceDeltaError, HookError: input that is not right. With an executor the other jobs are
            finished first.
    """
    paths = [trajectories] if isinstance(trajectories, str | Path) else list(trajectories)
    loaded = None if isinstance(model, str | Path) else model
    if loaded is not None and executor is not None:
        raise ForceDeltaError(
            "a model in memory does not go to other processes: give its name or file"
        )
    name = os.fspath(model) if isinstance(model, str | Path) else model.name
    jobs = plan([str(path) for path in paths], str(out), model=name, **_in_words(settings))
    check_files(jobs, settings)
    prepare(jobs, mode, None)
    command = shlex.join(sys.argv)
    if executor is not None:
        return run_jobs(jobs, executor, command, overwrite=mode == "overwrite", progress=progress)
    resume = mode != "overwrite"
    return [audit_one(job, command, loaded, resume=resume, progress=progress) for job in jobs]


def _in_words(settings: dict[str, Any]) -> dict[str, Any]:
    """Thresholds and patience as on the command line, which is how an audit is stored."""
    words = dict(settings)
    for name in ("stop_above", "flag_above"):
        value = words.get(name)
        if value is not None:
            words[name] = os.fspath(value) if isinstance(value, str | Path) else repr(float(value))
    if "patience" in words and not isinstance(words["patience"], str):
        k, n = words["patience"]
        words["patience"] = f"{k}/{n}"
    return words


def plan(trajectories: Sequence[str], out: str, **settings: Any) -> list[AuditSettings]:
    """The audit of each trajectory; thresholds that are files of calibrations become numbers.

    Raises:
        ForceDeltaError: no trajectory, or two that would have one file; a file that is no
            calibration.
    """
    if not trajectories:
        raise ForceDeltaError("no trajectory: give one or more files")
    if len(trajectories) == 1:
        return [_calibrated(AuditSettings(trajectories[0], out=out, **settings))]
    flags = settings.pop("flags", None)
    jobs: dict[str, AuditSettings] = {}
    for trajectory in trajectories:
        stem = Path(trajectory).stem
        if stem in jobs:
            raise ForceDeltaError(
                f"{jobs[stem].trajectory} and {trajectory} would both become {out}/{stem}.h5: "
                "rename one, or audit them apart"
            )
        job = AuditSettings(
            trajectory,
            out=str(Path(out) / f"{stem}.h5"),
            flags=None if flags is None else str(Path(out) / f"{stem}.xyz"),
            **settings,
        )
        jobs[stem] = _calibrated(job)
    return list(jobs.values())


def _calibrated(settings: AuditSettings) -> AuditSettings:
    settings, found = with_calibrations(settings)
    return replace(settings, calibrations=found)


def check_files(
    jobs: Sequence[AuditSettings], thresholds: Mapping[str, Any], report: Path | None = None
) -> None:
    """Refuse outputs that are inputs, or each other, before anything is written.

    Args:
        jobs: of one call.
        thresholds: "stop_above" and "flag_above" as the user gave them: files of calibrations.
        report: that is to be written about them.

    Raises:
        ForceDeltaError: two of them are one file.
    """
    outputs, inputs = [], []
    for job in jobs:
        outputs += [Named("--out", job.out), Named("--flags", job.flags)]
        inputs += [Named("trajectory", job.trajectory), Named("topology", job.topology)]
        inputs.append(Named("model", job.model))
    for name in ("stop_above", "flag_above"):
        given = thresholds.get(name)
        inputs.append(Named("calibration", given if isinstance(given, str | Path) else None))
    if report is not None:
        outputs += [
            Named("--report", report),
            Named("the report's picture", report.with_suffix(".png")),
        ]
    check_outputs(outputs, inputs)


def prepare(jobs: list[AuditSettings], mode: Mode, given: set[str] | None) -> None:
    """Look at the files before anything is computed; jobs become those of a restart in place.

    Args:
        jobs: of one call.
        mode: see `audit`.
        given: the settings that the user gave; None: all of them.

    Raises:
        ForceDeltaError: files that exist or cannot be written, or are of other audits.
    """
    for k, job in enumerate(jobs):
        job.check()
        out = Path(job.out)
        if len(jobs) > 1:
            _make_folder(out.parent)
        if not out.parent.is_dir():
            raise ForceDeltaError(f"{out} cannot be written: make the folder {out.parent} first")
        if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
            raise ForceDeltaError(f"{out} cannot be written: choose a file in a folder of yours")
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
            flags = flags_to_go_on_with(job.flags, stored.get("flags"), begun)
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
    """One audit, which goes on in its file where it has one. The job that executors run.

    Args:
        settings: of the audit.
        command: the command line, for the record.
        model: in memory already.
        resume: go on in the file.
        replaces: `version_of` a file that is not gone on with, but replaced. A job that is submitted
            again finds what the first one wrote, which is another version.
        progress: show it.
    """
    import torch

    from forcedelta.audit.replay import Audit

    if replaces is not None and version_of(settings.out) == replaces:
        resume = False
    torch.set_num_threads(settings.threads)
    return Audit(settings, model, resume=resume, command=command).run(progress)


def version_of(path: str | Path) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in ns of a file; None where there is none."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


def run_jobs(
    jobs: list[AuditSettings], executor: Executor, command: str, *, overwrite: bool, progress: bool
) -> list[AuditResult]:
    """All jobs through an executor, with a bar that counts trajectories.

    Raises:
        ForceDeltaError, HookError: the first error of a job, after the others; a broken executor.
    """
    for job in jobs:
        open_trajectory(job.trajectory, job.topology).close()  # before files are replaced
    futures: dict[Future[AuditResult], int] = {}
    for k, job in enumerate(jobs):
        replaces = version_of(job.out) if overwrite else None
        futures[executor.submit(audit_one, job, command, replaces=replaces)] = k
    results: list[AuditResult | None] = [None] * len(jobs)
    first: Exception | None = None
    out = QuietStream(sys.stderr)
    bar = tqdm(
        total=len(jobs), unit="trajectory", file=out, disable=not progress or not out.isatty()
    )
    with bar:
        for future in completed(futures):
            k = futures[future]
            try:
                result = results[k] = future.result()
            except BrokenExecutor as error:
                raise ForceDeltaError(
                    "a worker process died, killed or out of memory: pass --restart to go on, "
                    "as nothing that was written is lost"
                ) from error
            except Exception as error:
                first = first or error
                continue
            bar.update()
            if progress and bar.disable:
                say(result.line)
    if first is not None:
        raise first
    return [result for result in results if result is not None]
