"""The result of a comparison."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from forcedelta.ranking import Estimate

Ranked = dict[str, dict[str, Estimate]]
"""Estimates by predictor ("force_delta" and its controls) and measure ("spearman", "auroc_worst_tenth")."""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


@dataclass(frozen=True)
class ModelScore:
    """A model over the structures that all models evaluate; means in eV/Å, energies in eV.

    Attributes:
        name: of the model.
        family: that it belongs to.
        weights_hash: of its weights.
        level_of_theory: of its training set, None if unknown.
        evaluated: number of structures that it evaluates.
        force_delta: mean U.
        force_rms: mean RMS of the direct forces.
        energy: mean predicted energy per atom.
        epsilon: mean true error of the direct forces over the labelled structures; None without labels.
        ranking: how well U and its controls rank the errors of the structures; None without labels.
        better: controls with a larger r_s than U.
        within: mean over the systems of r_s within each, by predictor; None with one system. What ranks
            systems need not rank the structures of one.
    """

    name: str
    family: str
    weights_hash: str
    level_of_theory: str | None
    evaluated: int
    force_delta: float | None
    force_rms: float | None
    energy: float | None
    epsilon: float | None = None
    ranking: Ranked | None = None
    better: list[str] = field(default_factory=list)
    within: dict[str, float | None] | None = None


@dataclass(frozen=True)
class EnsembleScore:
    """A family as an ensemble: its disagreement U_var against U of its members.

    Attributes:
        mean: mean over the members of r_s of U with the error of the member.
        ensemble: r_s of U_var with the error of the mean of the members' forces.
        difference: the first less the second, with a paired interval.
        ranking: how U_var ("ensemble") and the members' mean U and controls rank the error of the mean
            of the members' forces.
        better: of these, those with a larger r_s than U_var.
        epsilon: mean error of the mean of the members' forces, eV/Å.
    """

    mean: Estimate
    ensemble: Estimate
    difference: Estimate
    ranking: Ranked
    better: list[str]
    epsilon: float

    @property
    def verdict(self) -> str:
        """Which of U and U_var ranks better, in words; "" where this is not known."""
        found = self.difference
        if found.value is None:
            return ""
        if found.low is None or found.high is None or found.low <= 0 <= found.high:
            return "no difference beyond the uncertainty"
        return "U ranks better" if found.value > 0 else "the ensemble ranks better"


@dataclass(frozen=True)
class FamilyScore:
    """U of the models of a family against the disagreement of the family as an ensemble.

    Attributes:
        name: of the family.
        models: its members.
        spearman: mean and sample standard deviation over the members of r_s between a predictor and the
            error, by predictor.
        auroc: likewise, AUROC of the worst tenth.
        better: controls whose mean r_s is larger than that of U.
        models_spearman: r_s over the members of the mean of a predictor and the mean error.
        ensemble: None for a family of one, or without labels.
        note: why there is no ensemble.
    """

    name: str
    models: list[str]
    spearman: dict[str, tuple[float | None, float | None]]
    auroc: dict[str, tuple[float | None, float | None]]
    better: list[str]
    models_spearman: dict[str, float | None]
    ensemble: EnsembleScore | None = None
    note: str = ""


@dataclass(frozen=True)
class SystemScore:
    """Means of a system over its structures and all models, eV/Å and eV per atom.

    Attributes:
        name: of the system.
        structures: number of structures.
        force_delta: mean U.
        energy: mean predicted energy per atom relative to the composition; None where no two systems
            share a composition.
        force_rms: mean RMS of the direct forces.
        epsilon: mean true error; None without labels.
    """

    name: str
    structures: int
    force_delta: float
    energy: float | None
    force_rms: float
    epsilon: float | None


@dataclass(frozen=True)
class PathScore:
    """Rank correlations along one path of an attack, or over all paths of one system, for one model.

    Attributes:
        model: of the predictions.
        system: that the path belongs to.
        path: name of the path; None: all paths of the system.
        moves: number of structures.
        start_error: true error at the start, eV/Å; for a system the mean over its paths.
        spearman: r_s with the error, by predictor.
        better: controls with a larger r_s than U.
    """

    model: str
    system: str
    path: str | None
    moves: int
    start_error: float
    spearman: dict[str, float | None]
    better: list[str]


@dataclass(frozen=True)
class AttackScore:
    """A set of structures on the paths of attacks.

    Attributes:
        structures, paths: their number.
        systems: one score for each model and system.
        each: one score for each model, system and path.
        ranking: over all structures on paths, by model.
        over: "systems", or "paths" where there are fewer than three systems.
        start_spearman: r_s over these of the error at the start and r_s(U, error), by model.
    """

    structures: int
    paths: int
    systems: list[PathScore]
    each: list[PathScore]
    ranking: dict[str, Ranked]
    over: Literal["systems", "paths"]
    start_spearman: dict[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """Several models on the same structures.

    Attributes:
        out: folder with the audits and the table of all predictions.
        files: of the structures.
        structures: number of structures.
        common: number of those that all models evaluate; the statistics are over these.
        labelled: number of common structures with labels.
        settled: number of common structures that are not moved by an attack.
        models: in ascending order of mean U.
        families: see `FamilyScore`.
        systems: in their order of appearance.
        systems_ranking: how the means of U and of its controls rank the mean errors of the systems.
        attack: None if no structure is on the path of an attack.
        computed: models evaluated in this call.
        found: models whose predictions were in the folder.
        notes: what a reader has to know.
        problems: what failed, and the user has to correct.
        rows: one for each structure and model, as in the table; U and errors in eV/Å, energies in eV.
    """

    out: str
    files: list[str]
    structures: int
    common: int
    labelled: int
    settled: int
    models: list[ModelScore]
    families: list[FamilyScore]
    systems: list[SystemScore]
    systems_ranking: Ranked | None
    attack: AttackScore | None
    computed: list[str]
    found: list[str]
    notes: list[str]
    problems: list[str]
    rows: list[dict[str, Any]] = field(repr=False)

    @property
    def line(self) -> str:
        """A one-line summary."""
        here = f"{', '.join(self.computed)} computed here" if self.computed else ""
        there = f"{', '.join(self.found)} found in {self.out}" if self.found else ""
        return (
            f"{_counted(len(self.models), 'model')} on {_counted(self.structures, 'structure')} "
            f"({self.common} evaluated by all, {self.labelled} of them labelled); "
            f"{'; '.join(filter(None, (here, there)))}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The result, JSON-able; units as above."""
        return asdict(self)


SELF_CONSISTENCY = (
    "Without labels the models are ranked by U, their self-consistency, not by their error. Evidence that the "
    "two rankings agree: for five Orb models they agree perfectly, for ten EquiformerV2 models there is no "
    "clear correlation (figure 3 of 'When Forces Disagree'). Label some structures (forcedelta recalc) to know."
)
"""What a ranking of models without labels means."""
JOIN = (
    "Models of another environment: run the same command there, with their --model and the same --out; "
    "predictions that are in the folder already are joined."
)
"""How models whose libraries exclude each other are compared."""
PREDICTORS_IN_WORDS = {
    "force_delta": "U",
    "energy": "energy per atom",
    "force_rms": "RMS of the direct forces",
    "start_error": "error at the start",
    "move": "number of the move",
    "ensemble": "U_var of the ensemble",
}
