"""What ``forcedelta recalc`` does: choose frames, label them, tell what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling import vasp
from forcedelta.labelling.level_of_theory import difference
from forcedelta.labelling.references import ReferenceCode, reference
from forcedelta.labelling.selection import Candidates, Selection, open_candidates, select
from md_hooks.electronic_state import ElectronicState
from md_hooks.recalculation import Failure, Journal, Label, key_of, labelled, recalculate
from md_hooks.recalculation.campaign import JOURNAL, refuse_foreign
from md_hooks.recalculation.labelled import write_all

DEFAULT_COUNT = 20
DONE, INCOMPLETE = 0, 5


@dataclass(frozen=True)
class Settings:
    """Of one call; energies in eV, lengths in Å, times in fs.

    Attributes:
        source: file of frames.
        calculator: name of a reference code, or "vasp".
        changed: its settings that differ from the recipe.
        out: extended XYZ of the labelled frames.
        count: frames wanted; None: 20, or all of a journal.
        lower: edge of the band, eV/Å, or None.
        upper: edge of the band, eV/Å, or None.
        spacing: fs.
        threads: of each job.
        workers: jobs at a time.
        dry_run: choose and check, write nothing.
        charge: total charge of all frames in e; None: that of each.
        spin: multiplicity 2S+1 of all frames; None: that of each.
    """

    source: Path
    calculator: str
    changed: Mapping[str, Any]
    out: Path
    count: int | None
    lower: float | None
    upper: float | None
    spacing: float
    threads: int
    workers: int
    dry_run: bool
    charge: int | None = None
    spin: int | None = None


@dataclass
class Account:
    """What came of it.

    Attributes:
        frames: the chosen structures.
        outcomes: by index of the frame; frames without one are waiting.
        reference: code, version and settings.
        selection: None when all frames of the file were taken.
        warnings: one line each.
        out: the labelled file.
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
    def status(self) -> int:
        """Exit status: 0 when every chosen frame is labelled."""
        return DONE if self.planned or self.counts[0] == len(self.frames) else INCOMPLETE

    def facts(self) -> dict[str, Any]:
        """All of it for machines: JSON-able; eV, eV/Å, fs."""
        done, failed, waiting = self.counts
        return {
            "status": self.status,
            "file": str(self.out),
            "reference": self.reference,
            "labelled": done,
            "failed": failed,
            "waiting": waiting,
            "band": None if self.selection is None else _band_facts(self.selection),
            "left_out": {} if self.selection is None else self.selection.left_out,
            "frames": [self._frame_facts(index) for index in range(len(self.frames))],
            "warnings": self.warnings,
        }

    def _frame_facts(self, index: int) -> dict[str, Any]:
        atoms, outcome = self.frames[index], self.outcomes.get(index)
        facts: dict[str, Any] = {
            name: atoms.info.get(name)
            for name in ("source", "step", "time", "force_delta", "charge", "spin")
        }
        if isinstance(outcome, Label):
            info = labelled(atoms, outcome, self.reference).info
            facts |= {"state": "labelled", "epsilon": info.get("epsilon"), "energy": outcome.energy}
        elif isinstance(outcome, Failure):
            facts |= {"state": "failed", "message": outcome.message}
        else:
            facts |= {"state": "waiting", "message": outcome.message if outcome else ""}
        return facts


def recalc(settings: Settings, say: Callable[[str], None]) -> Account:
    """Choose frames and label them.

    Args:
        settings: of the call.
        say: takes the lines for people.

    Raises:
        ForceDeltaError, HookError: input that is not right.
    """
    _check(settings)
    made: ReferenceCode | vasp.InputSet
    if settings.calculator == "vasp":
        made = vasp.InputSet.with_settings(settings.changed)
        vasp.check()
    else:
        made = reference(settings.calculator, settings.changed)
    source = open_candidates(settings.source)
    selection, frames = _choose(settings, source)
    account = Account(frames, "", selection, settings.out)
    _set_charge_and_spin(account, settings)
    for atoms in frames:
        (vasp if isinstance(made, vasp.InputSet) else made).check_structure(atoms)
    _tell_choice(account, source, say)
    references = _references(made, frames)
    account.reference = "; or ".join(references)
    say(f"reference: {account.reference}")
    _compare_levels(account, source, made, references)
    for line in account.warnings:
        say(f"warning: {line}")
    if settings.dry_run:
        account.planned = True
        say(f"dry run: {len(frames)} calculations would be made, {settings.out} is not touched")
    elif isinstance(made, vasp.InputSet):
        _with_vasp(account, made, settings, say)
    elif frames:
        _with_engine(account, made, settings, say)
    return account


def _check(settings: Settings) -> None:
    if not settings.out.parent.is_dir():
        raise ForceDeltaError(
            f"{settings.out} cannot be written: make the folder {settings.out.parent} first"
        )


def _choose(settings: Settings, source: Candidates) -> tuple[Selection | None, list[Atoms]]:
    whole = settings.source.name.endswith(JOURNAL) and settings.count is None
    if whole:
        return None, source.read(list(range(len(source))))
    count = DEFAULT_COUNT if settings.count is None else settings.count
    selection = select(source, count, settings.lower, settings.upper, settings.spacing)
    return selection, selection.frames


def _set_charge_and_spin(account: Account, settings: Settings) -> None:
    """What the flags say goes before what the frames say, with a warning where these differ."""
    for name, given in (("charge", settings.charge), ("spin", settings.spin)):
        if given is None:
            continue
        told = [getattr(ElectronicState.of(atoms), name) for atoms in account.frames]
        others = [value for value in told if value not in (None, given)]
        if others:
            values = ", ".join(str(value) for value in sorted(set(others)))
            account.warnings.append(
                f"{len(others)} of {len(told)} frames say {name} {values}, and are labelled with "
                f"--{name} {given}"
            )
        for atoms in account.frames:
            atoms.info[name] = given


def _tell_choice(account: Account, source: Candidates, say: Callable[[str], None]) -> None:
    selection = account.selection
    if selection is None:
        say(f"{source.name}: all {len(source)} frames that were queued")
        return
    band = selection.band
    what = "U" if band.on == "force_delta" else "largest u"
    say(
        f"{source.name}: {len(source)} frames; candidates have {what} above {band.lower:.4g} and "
        f"not above {band.upper:.4g} eV/Å ({band.origin})"
    )
    for reason, number in selection.left_out.items():
        say(f"  {number:6d} left out: {reason}")
    if account.frames:
        values = band.values(source)[selection.indices]
        say(
            f"  {len(account.frames):6d} chosen: {what} {values.min():.4g} to {values.max():.4g} "
            "eV/Å"
        )
    else:
        say("       0 chosen: no frame lies in the band; give another one with --flag-above")


def _references(made: ReferenceCode | vasp.InputSet, frames: list[Atoms]) -> list[str]:
    """Code, version and settings, of VASP for each level that the frames have."""
    if isinstance(made, vasp.InputSet):
        levels = sorted({vasp.level(atoms) for atoms in frames})
        return [made.description(level) for level in levels] or [made.description()]
    return [made.description]


def _compare_levels(
    account: Account, source: Candidates, made: ReferenceCode | vasp.InputSet, references: list[str]
) -> None:
    if len(references) > 1:
        account.warnings.append(
            "the frames have labels at PBE and at PBE+U, or with other values of U, as in the Materials "
            "Project: their energies do not go together; label the kinds one by one"
        )
    levels = (
        [made.level] if isinstance(made, ReferenceCode) else [vasp.level(a) for a in account.frames]
    )
    level = " or ".join(sorted(set(levels)))
    model = source.model.get("name") or "the model"
    trained = source.model.get("level_of_theory")
    if trained is None:
        account.warnings.append(
            f"{source.name} does not tell at which level of theory {model} was trained; labels at "
            f"{level} measure its error only if that is the same"
        )
    elif (
        differs := next(filter(None, (difference(str(trained), one) for one in references)), None)
    ) is not None:
        verb = "differ" if " and " in differs else "differs"
        account.warnings.append(
            f"{model} was trained at {trained}, the labels are at {level}: the {differs} {verb}, "
            "so that epsilon is also the difference of two levels, and the labels do not belong "
            "into its training set"
        )


def _with_engine(
    account: Account, made: ReferenceCode, settings: Settings, say: Callable[[str], None]
) -> None:
    index = {key_of(atoms): number for number, atoms in enumerate(account.frames)}
    total = len(account.frames)
    ended = 0

    def report(key: str, outcome: Label | Failure) -> None:
        nonlocal ended
        ended += 1
        say(f"[{ended}] {_line(account.frames[index[key]], outcome, made.description)}")
        if isinstance(outcome, Failure):
            say(f"    its output is in {settings.out}.jobs/{key}")

    with ThreadPoolExecutor(settings.workers) as executor:
        journal = recalculate(
            account.frames, made, settings.out, executor, settings.threads, report
        )
    if total > ended:
        say(f"{total - ended} of {total} were labelled before")
    for key, number in index.items():
        outcome = journal.labels.get(key) or journal.failures.get(key)
        if outcome is not None:
            account.outcomes[number] = outcome
    _tell_end(account, settings, say)


def _with_vasp(
    account: Account, inputs: vasp.InputSet, settings: Settings, say: Callable[[str], None]
) -> None:
    """Write inputs where there are none, collect what has come back."""
    folders = settings.out.with_name(settings.out.name + ".vasp")
    path = settings.out.with_name(settings.out.name + JOURNAL)
    refuse_foreign(settings.out, path)
    journal = Journal(path, inputs.description())
    written = 0
    try:
        for number, atoms in enumerate(account.frames):
            key = journal.add_frame(atoms)
            folder = folders / key
            if key not in journal.labels and not vasp.has_inputs(folder, inputs):
                vasp.write_inputs(atoms, key, folder, inputs)
                written += 1
            outcome = journal.labels.get(key) or vasp.collect(atoms, folder)
            account.outcomes[number] = outcome
            if isinstance(outcome, Label) and key not in journal.labels:
                journal.add_outcome(key, outcome)
            if not isinstance(outcome, vasp.Waiting) or not written:
                say(f"{folder}: {_line(atoms, outcome, account.reference)}")
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
        say(
            f"{written} input sets written below {folders}: add the POTCARs that POTCAR.spec names, "
            "run VASP in each folder, and give the same command again to collect"
        )
    _tell_end(account, settings, say)


def _tell_end(account: Account, settings: Settings, say: Callable[[str], None]) -> None:
    done, failed, waiting = account.counts
    line = f"{done} of {len(account.frames)} frames labelled"
    line += f" in {settings.out}" if done else ""
    if failed:
        line += f"; {failed} failed"
    if waiting:
        line += f"; {waiting} not finished"
    if failed or waiting:
        line += "; the same command takes them up again"
    say(line)


def _line(atoms: Atoms, outcome: Label | Failure | vasp.Waiting, reference: str) -> str:
    info = atoms.info
    where = [f"step {info['step']}"] if "step" in info else []
    where += [f"{info['time']:.10g} fs"] if "time" in info else []
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


def _band_facts(selection: Selection) -> dict[str, Any]:
    band = selection.band
    return {"lower": band.lower, "upper": band.upper, "on": band.on, "origin": band.origin}
