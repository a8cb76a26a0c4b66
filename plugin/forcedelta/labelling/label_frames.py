"""Labelling: choose doubtful frames and compute them with a reference method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling import mismatches, vasp
from forcedelta.labelling.references import ReferenceCode, reference
from forcedelta.labelling.references.base import out_of_box
from forcedelta.labelling.selection import By, Candidates, Selection, open_candidates, select
from forcedelta.outputs import Named, check_outputs
from forcedelta.reading_options import without_cell
from md_hooks.recalculation import Failure, Journal, Label, key_of, labelled, recalculate
from md_hooks.recalculation.campaign import JOURNAL, refuse_foreign
from md_hooks.recalculation.labelled import write_all

_log = logging.getLogger(__name__)

DEFAULT_COUNT = 20


@dataclass(frozen=True)
class LabelSettings:
    """The arguments of `label`; energy in eV, length in Å, time in fs.

    Attributes:
        source: file of frames.
        calculator: name of a reference code, or "vasp".
        changed: settings that differ from its recipe.
        out: extended XYZ of the labelled frames.
        count: frames wanted; None: 20, or all of a journal or of the picks of an attack.
        lower: edge of the band, eV/Å, or None.
        upper: edge of the band, eV/Å, or None.
        spacing: fs.
        by: how the frames are chosen, as in `select`.
        threads: of each job.
        workers: jobs at a time.
        dry_run: choose and check, write nothing.
        charge: total charge of all frames in e; None: that of each.
        spin: multiplicity 2S+1 of all frames; None: that of each.
        no_pbc: label the frames without their cells.
    """

    source: Path
    calculator: str
    changed: Mapping[str, Any]
    out: Path
    count: int | None
    lower: float | None
    upper: float | None
    spacing: float
    by: By
    threads: int
    workers: int
    dry_run: bool
    charge: int | None = None
    spin: int | None = None
    no_pbc: bool = False


@dataclass
class LabellingResult:
    """The outcome of a labelling.

    Attributes:
        frames: the chosen structures.
        outcomes: by index of the frame; frames without an outcome are waiting.
        reference: code, version and settings.
        selection: None if all frames of the file were taken.
        warnings: one line each.
        out: the labelled file.
        planned: whether nothing should be labelled (a dry run).
    """

    frames: list[Atoms]
    reference: str
    selection: Selection | None
    out: Path
    warnings: list[str] = field(default_factory=list)
    outcomes: dict[int, Label | Failure | vasp.Waiting] = field(default_factory=dict)
    planned: bool = False

    @property
    def counts(self) -> tuple[int, int, int]:
        """Frames that are labelled, failed, and still waiting."""
        kinds = [type(outcome) for outcome in self.outcomes.values()]
        done, failed = kinds.count(Label), kinds.count(Failure)
        return done, failed, len(self.frames) - done - failed

    @property
    def complete(self) -> bool:
        """Whether every chosen frame is labelled, or nothing should be (a dry run)."""
        return self.planned or self.counts[0] == len(self.frames)

    def as_dict(self) -> dict[str, Any]:
        """The result, JSON-able; eV, eV/Å, fs."""
        done, failed, waiting = self.counts
        return {
            "file": str(self.out),
            "reference": self.reference,
            "labelled": done,
            "failed": failed,
            "waiting": waiting,
            "band": None if self.selection is None else _band_dict(self.selection),
            "left_out": {} if self.selection is None else self.selection.left_out,
            "frames": [self._frame_dict(index) for index in range(len(self.frames))],
            "warnings": self.warnings,
        }

    def _frame_dict(self, index: int) -> dict[str, Any]:
        atoms, outcome = self.frames[index], self.outcomes.get(index)
        entry: dict[str, Any] = {
            name: atoms.info.get(name)
            for name in ("source", "path", "move", "step", "time", "force_delta", "charge", "spin")
        }
        if isinstance(outcome, Label):
            info = labelled(atoms, outcome, self.reference).info
            entry |= {"state": "labelled", "epsilon": info.get("epsilon"), "energy": outcome.energy}
        elif isinstance(outcome, Failure):
            entry |= {"state": "failed", "message": outcome.message}
        else:
            entry |= {"state": "waiting", "message": outcome.message if outcome else ""}
        return entry


def label(
    source: str | Path,
    calculator: str,
    *,
    out: str | Path = "labelled.xyz",
    settings: Mapping[str, Any] | None = None,
    select: int | None = None,
    flag_above: float | None = None,
    stop_above: float | None = None,
    spacing: float = 50.0,
    by: By = "diversity",
    charge: int | None = None,
    spin: int | None = None,
    no_pbc: bool = False,
    threads: int = 1,
    workers: int = 1,
    dry_run: bool = False,
    report: Callable[[str], None] = _log.info,
) -> LabellingResult:
    """Choose doubtful frames and label them with a reference method; ``forcedelta recalc`` in Python.

    Candidates lie between the flag and the stop threshold. One frame of each flagged interval is
    taken, apart in time and diverse in structure, and one of each path of an attack; unphysical ones
    are left out. Nothing is computed twice: the same call continues after a kill or a failure, from
    the journal beside ``out``.

    >>> result = label("run.h5", "tblite", out="new.xyz", select=2, spacing=10.0)
    >>> result.counts  # labelled, failed, waiting
    (2, 0, 0)

    Args:
        source: recorded file of a run or an audit, extended XYZ of flagged frames, or the journal of
            a `md_hooks.RecalculationQueue`.
        calculator: "pyscf", "gpaw", "espresso", "cp2k", "tblite", "vasp" (input sets), or an ASE
            calculator by name or as "package.module:Class".
        out: labelled frames, extended XYZ.
        settings: settings of the reference method that differ from its recipe.
        select: number of frames; None: 20, or all of a journal or of the picks of an attack.
        flag_above: lower edge of the band of U, eV/Å; None: the run's flag threshold, else the 90th
            percentile of U.
        stop_above: upper edge, eV/Å; None: the run's stop threshold, else 10 times the median of U.
        spacing: smallest time between two frames, fs.
        by: after the frame with the highest U: "diversity", always the structure farthest from all
            that are chosen; "u", the next highest; "u-diversity", the largest product of U and the
            distance to the nearest chosen structure.
        charge, spin: total charge (e) and multiplicity of all frames; None: those of each frame.
        no_pbc: label the frames without their cells, as molecules.
        threads: of each calculation.
        workers: calculations at a time.
        dry_run: choose and check, write nothing.
        report: receives each line of progress; by default the log "forcedelta", which is silent.

    Returns:
        the outcome of each chosen frame.

    Raises:
        ForceDeltaError, HookError: invalid input. A calculation that fails is an outcome.
    """
    return _label(
        LabelSettings(
            Path(source), calculator, settings or {}, Path(out), select, flag_above, stop_above,
            spacing, by, threads, workers, dry_run, charge, spin, no_pbc,
        ),
        report,
    )  # fmt: skip


def _label(settings: LabelSettings, report: Callable[[str], None]) -> LabellingResult:
    _check(settings)
    made: ReferenceCode | vasp.InputSet
    if settings.calculator == "vasp":
        made = vasp.InputSet.with_settings(settings.changed)
        vasp.check()
    else:
        made = reference(settings.calculator, settings.changed)
    source = open_candidates(settings.source)
    selection, frames = _choose(settings, source)
    if settings.no_pbc:
        frames = [without_cell(out_of_box(atoms)) for atoms in frames]
    result = LabellingResult(frames, "", selection, settings.out)
    made, warnings = mismatches.of_environments(frames, made)
    warnings += mismatches.of_electrons(frames, settings.charge, settings.spin)
    for atoms in frames:
        (vasp if isinstance(made, vasp.InputSet) else made).check_structure(atoms)
    _tell_choice(result, source, report)
    references = mismatches.descriptions(made, frames)
    result.reference = "; or ".join(references)
    report(f"reference: {result.reference}")
    result.warnings = warnings + mismatches.of_levels(frames, source, made, references)
    for line in result.warnings:
        report(f"warning: {line}")
    if settings.dry_run:
        result.planned = True
        report(f"dry run: {len(frames)} calculations would be made, {settings.out} is not touched")
    elif isinstance(made, vasp.InputSet):
        _with_vasp(result, made, settings, report)
    elif frames:
        _with_reference(result, made, settings, report)
    return result


def _check(settings: LabelSettings) -> None:
    if not settings.out.parent.is_dir():
        raise ForceDeltaError(
            f"{settings.out} cannot be written: make the folder {settings.out.parent} first"
        )
    if settings.dry_run:
        return
    source, journal = settings.source, settings.out.with_name(settings.out.name + JOURNAL)
    continued = source.exists() and journal.exists() and source.samefile(journal)
    check_outputs(
        [Named("--out", settings.out), Named("the journal of --out", journal)],
        [Named("source", None if continued else source)],
        [Named("the folder of jobs of --out", Path(f"{settings.out}.jobs"))],
    )


def _choose(settings: LabelSettings, source: Candidates) -> tuple[Selection | None, list[Atoms]]:
    whole = source.picked or settings.source.name.endswith(JOURNAL)
    if whole and settings.count is None:
        return None, source.read(list(range(len(source))))
    count = DEFAULT_COUNT if settings.count is None else settings.count
    selection = select(source, count, settings.lower, settings.upper, settings.spacing, settings.by)
    return selection, selection.frames


def _tell_choice(
    result: LabellingResult, source: Candidates, report: Callable[[str], None]
) -> None:
    selection = result.selection
    if selection is None:
        kind = "picks" if source.picked else "queued frames"
        report(f"{source.name}: all {len(source)} {kind}")
        return
    band = selection.band
    what = "U" if band.on == "force_delta" else "largest u"
    report(
        f"{source.name}: {len(source)} frames; candidates have {what} above {band.lower:.4g} and "
        f"not above {band.upper:.4g} eV/Å ({band.origin})"
    )
    for reason, number in selection.left_out.items():
        report(f"  {number:6d} left out: {reason}")
    if result.frames:
        values = band.values(source)[selection.indices]
        report(
            f"  {len(result.frames):6d} chosen: {what} {values.min():.4g} to {values.max():.4g} "
            "eV/Å"
        )
    else:
        report("       0 chosen: no frame lies in the band; give another one with --flag-above")


def _with_reference(
    result: LabellingResult,
    made: ReferenceCode,
    settings: LabelSettings,
    report: Callable[[str], None],
) -> None:
    index = {key_of(atoms): number for number, atoms in enumerate(result.frames)}
    total = len(result.frames)
    ended = 0

    def calculated(key: str, outcome: Label | Failure) -> None:
        nonlocal ended
        ended += 1
        report(f"[{ended}] {_line(result.frames[index[key]], outcome, made.description)}")
        if isinstance(outcome, Failure):
            report(f"    its output is in {settings.out}.jobs/{key}")

    with ThreadPoolExecutor(settings.workers) as executor:
        journal = recalculate(
            result.frames, made, settings.out, executor, settings.threads, calculated
        )
    if total > ended:
        report(f"{total - ended} of {total} were labelled before")
    for key, number in index.items():
        outcome = journal.labels.get(key) or journal.failures.get(key)
        if outcome is not None:
            result.outcomes[number] = outcome
    _tell_end(result, settings, report)


def _with_vasp(
    result: LabellingResult,
    inputs: vasp.InputSet,
    settings: LabelSettings,
    report: Callable[[str], None],
) -> None:
    """Write missing inputs, and collect finished runs."""
    folders = settings.out.with_name(settings.out.name + ".vasp")
    path = settings.out.with_name(settings.out.name + JOURNAL)
    refuse_foreign(settings.out, path)
    journal = Journal(path, inputs.description())
    written = 0
    try:
        for number, atoms in enumerate(result.frames):
            key = journal.add_frame(atoms)
            folder = folders / key
            if key not in journal.labels and not vasp.has_inputs(folder, inputs):
                vasp.write_inputs(atoms, key, folder, inputs)
                written += 1
            outcome = journal.labels.get(key) or vasp.collect(atoms, folder)
            result.outcomes[number] = outcome
            if isinstance(outcome, Label) and key not in journal.labels:
                journal.add_outcome(key, outcome)
            if not isinstance(outcome, vasp.Waiting) or not written:
                report(f"{folder}: {_line(atoms, outcome, result.reference)}")
        frames = [
            labelled(atoms, journal.labels[key], inputs.description(vasp.level(atoms)))
            for key, atoms in journal.frames.items()
            if key in journal.labels
        ]
        if frames:
            write_all(settings.out, frames)
    finally:
        journal.close()
    if written:
        report(
            f"{written} input sets written below {folders}: add the POTCARs that POTCAR.spec names, "
            "run VASP in each folder, and repeat the same command to collect the results"
        )
    _tell_end(result, settings, report)


def _tell_end(
    result: LabellingResult, settings: LabelSettings, report: Callable[[str], None]
) -> None:
    done, failed, waiting = result.counts
    line = f"{done} of {len(result.frames)} frames labelled"
    line += f" in {settings.out}" if done else ""
    if failed:
        line += f"; {failed} failed"
    if waiting:
        line += f"; {waiting} not finished"
    if failed or waiting:
        line += "; repeat the same command to continue"
    report(line)


def _line(atoms: Atoms, outcome: Label | Failure | vasp.Waiting, reference: str) -> str:
    info = atoms.info
    where = [f"step {info['step']}"] if "step" in info else []
    where += [f"path {info['path']}"] if "path" in info else []
    where += [f"move {info['move']}"] if "move" in info else []
    where += [f"{info['time']:.10g} fs"] if "time" in info and "path" not in info else []
    where += [f"U {info['force_delta']:.4g} eV/Å"] if "force_delta" in info else []
    where += [f"charge {info['charge']}"] if info.get("charge") else []
    where += [f"multiplicity {info['spin']}"] if "spin" in info else []
    place = ", ".join(where) or str(atoms.symbols)
    if isinstance(outcome, Failure):
        return f"{place}: failed: {outcome.message}"
    if isinstance(outcome, vasp.Waiting):
        return f"{place}: {outcome.message}"
    error = labelled(atoms, outcome, reference).info.get("epsilon")
    error_text = "" if error is None else f"epsilon {error:.4g} eV/Å, "
    return f"{place}: {error_text}energy {outcome.energy:.6f} eV, {outcome.seconds:.1f} s"


def _band_dict(selection: Selection) -> dict[str, Any]:
    band = selection.band
    return {"lower": band.lower, "upper": band.upper, "on": band.on, "origin": band.origin}
