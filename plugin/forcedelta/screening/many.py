"""Screens of files and folders: read, evaluated in this process or through an executor, and ranked."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Collection, Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from forcedelta.calibration.result import Calibration
from forcedelta.errors import ForceDeltaError
from forcedelta.limits import check_value
from forcedelta.limits import flag as flag_of
from forcedelta.restarts import check_stored_model
from forcedelta.screening.outputs import Mode, ScreenFiles
from forcedelta.screening.processes import processes
from forcedelta.screening.record import Record
from forcedelta.screening.result import ScreenResult
from forcedelta.screening.rows import as_csv, ranked, with_verdict
from forcedelta.screening.settings import RATTLE, RATTLES, ScreenSettings, continued
from forcedelta.screening.sources import files_to_screen
from forcedelta.screening.work import Work
from forcedelta.thresholds import GivenThreshold, as_number, threshold_of
from md_hooks import Guard
from md_hooks.replacing import replace_file

_log = logging.getLogger(__name__)

if TYPE_CHECKING:  # only the process that holds a model imports PyTorch
    from forcedelta.models.loaded import LoadedModel


def screen(
    structures: str | Path | Iterable[str | Path],
    model: str | Path | LoadedModel | None = None,
    out: str | Path = "screen.csv",
    *,
    rattle: float = RATTLE,
    rattles: int = RATTLES,
    seed: int = 0,
    stop_above: GivenThreshold = None,
    flag_above: GivenThreshold = None,
    charge: int | None = None,
    spin: int | None = None,
    architecture: str | None = None,
    trust: bool = False,
    compile: bool = False,
    report: str | Path | None = None,
    mode: Mode = "create",
    executor: Executor | None = None,
    workers: int = 1,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    threads: int = 1,
    type_map: str | None = None,
    no_pbc: bool = False,
    file_format: str | None = None,
    select: str | None = None,
    progress: bool = False,
    given: Collection[str] | None = None,
    command: str | None = None,
) -> ScreenResult:
    """Rank structures by U: one row each, the largest U first.

    Forces that vanish by symmetry, as in most ideal crystals, are zero in both predictions, and U
    is zero for a good and for a bad model. U is therefore the root mean square over displaced copies
    (normally distributed, standard deviation ``rattle`` along each axis), U^2 = mean over copies, atoms and
    components of (F_nc - F_c)^2; small cells are repeated for this (`forcedelta.screening.displaced`). U of
    the structure as given is a column of its own. Energy and largest force are those of the
    structure as given.

    The displacements depend on the structure and ``seed`` alone. A structure that cannot be read or evaluated
    has a row with the reason. Evaluated rows are on disk at once, in a record beside the table, from
    which ``mode="restart"`` continues; there, structures that have changed, that are new or that have no
    U are evaluated. The table is written at the end.

    Args:
        structures: files that ASE reads, with all their frames, or folders, with all such files below
            them.
        model: a name, the path of a file, or a model in memory (in this process only).
        out: the table to write, CSV; its record is beside it, ``screen.rows.jsonl``.
        rattle: Å; 0: U of the structures as given.
        rattles, seed: see `forcedelta.screening.settings.ScreenSettings`.
        type_map, no_pbc, file_format, select: see `forcedelta.screening.settings.ScreenSettings`.
        charge, spin, architecture, trust, compile, device, dtype, threads: see
            `forcedelta.screening.settings.ScreenSettings`.
        stop_above, flag_above: thresholds on U in eV/Å, a `Calibration` or its file, or None. Above either
            the verdict is "doubt", else "trust"; without a threshold there is none.
        report: HTML file to write, its picture beside it.
        mode: "create" refuses files that exist, "restart" continues, "overwrite" replaces them.
        executor: evaluates units of structures, e.g. a ProcessPoolExecutor or Dask's
            ``client.get_executor()``; None: this process, or ``workers``.
        workers: number of processes.
        progress: show progress on stderr.
        given: names of the arguments that a restart compares with the record; None: all.
        command: the command line for the record.

    Returns:
        the ranked rows; incomplete if interrupted by Ctrl-C or SIGTERM.

    Raises:
        ForceDeltaError, HookError: invalid input.
    """
    paths = [structures] if isinstance(structures, str | Path) else list(structures)
    loaded = None if model is None or isinstance(model, str | Path) else model
    if loaded is not None and (executor is not None or workers > 1):
        raise ForceDeltaError(
            "a model in memory cannot be sent to other processes: give its name or file"
        )
    check_value("workers", workers)
    stop, stop_calibration = _threshold("stop_above", stop_above)
    flag, flag_calibration = _threshold("flag_above", flag_above)
    Guard(stop, flag)  # refuses thresholds in the wrong order
    outputs = ScreenFiles(Path(out), None if report is None else Path(report))
    files, left_out = files_to_screen(paths, outputs.written)
    outputs.check(files, model if loaded is None else None, (stop_above, flag_above), mode)
    with Record(outputs.record, fresh=mode == "overwrite") as record:
        name = None if model is None else str(model) if loaded is None else loaded.name
        if name is None and record.header:
            name = str(record.header["settings"].get("model"))
            check_stored_model(
                name, record.header["settings"].get("architecture"), str(record.path)
            )  # fmt: skip
        if name is None:
            raise ForceDeltaError(
                "no model: give --model with a name of 'forcedelta models' or a path"
            )
        settings = ScreenSettings(
            name, architecture, trust, compile, charge, spin, rattle, rattles, seed, device, dtype,
            threads, type_map, no_pbc, file_format, select,
        )  # fmt: skip
        if record.header:
            settings = continued(settings, given, record.header["settings"], str(record.path))
        settings.check()
        calibrations = [
            found for found in (stop_calibration, flag_calibration) if found is not None
        ]
        if calibrations and settings.copies:
            _log.warning(
                "the threshold was calibrated on structures as they were labelled, and U here is that of "
                "displaced copies, so that its guarantee does not hold: --rattle 0 compares U as given"
            )
        work = Work(
            files, settings, record, shlex.join(sys.argv) if command is None else command,
            calibrations,
        )  # fmt: skip
        if executor is None and workers > 1:
            with processes(workers) as pool:
                work.through(pool, progress)
        elif executor is not None:
            work.through(executor, progress)
        else:
            work.here(loaded, progress)
        if not work.interrupted:
            work.begin_record()
    rows = [with_verdict(row, stop, flag, settings.copies > 0) for row in work.rows]
    result = ScreenResult(
        tuple(ranked(rows)), str(outputs.table), str(outputs.record),
        "interrupted" if work.interrupted else "finished", work.model, float(settings.rattle),
        settings.rattles, settings.seed, stop, flag, tuple(left_out),
    )  # fmt: skip
    if result.reason == "finished":
        replace_file(outputs.table, as_csv(result.rows), "give another --out", ForceDeltaError)
        if outputs.report is not None:
            from forcedelta.report.screen_report import write_screen_report

            write_screen_report(result, outputs.report)
    return result


def _threshold(name: str, given: GivenThreshold) -> tuple[float | None, Calibration | None]:
    """A threshold in eV/Å, and the calibration that it comes from."""
    found = threshold_of(given)
    number = as_number(name, found)
    if isinstance(number, str):
        raise ForceDeltaError(
            f"{flag_of(name)} auto takes its threshold from the start of a run, and the structures of a "
            "screen have no order: give a number in eV/Å, or a file of 'forcedelta calibrate'"
        )
    return number, found if isinstance(found, Calibration) else None
