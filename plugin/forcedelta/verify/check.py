"""The check of a model on a structure as a function: measure, judge, give a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from ase import Atoms

from forcedelta.checks import check_takes_charge
from forcedelta.evaluation import DTYPES, usable_device
from forcedelta.graph import charge_and_spin
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.registry import load_model
from forcedelta.structures import checked_structure, read_structure
from forcedelta.verify.findings import Finding
from forcedelta.verify.inspection import Inspection, Inspector


@dataclass(frozen=True)
class CheckSubject:
    """What is checked.

    Attributes:
        model: as loaded.
        structure: its file; None for one in memory.
        atoms: the structure.
        dtype: precision of the intended runs.
        measured_in: precision of derivatives, symmetries and jumps.
    """

    model: LoadedModel
    structure: str | None
    atoms: Atoms
    dtype: str
    measured_in: str


@dataclass(frozen=True)
class CheckResult:
    """The findings of a check.

    Attributes:
        subject: what was checked.
        inspection: findings, verdict and reasons.
    """

    subject: CheckSubject
    inspection: Inspection

    @property
    def verdict(self) -> str:
        """ "sound", "usable with caveats" or "not usable"."""
        return self.inspection.verdict

    @property
    def reasons(self) -> list[str]:
        """Why the model is not sound, a sentence each."""
        return self.inspection.reasons

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Each measurement with its judgement."""
        return self.inspection.findings

    def as_dict(self) -> dict[str, Any]:
        """The result, JSON-able but for numbers that are not finite."""
        subject = self.subject
        return {
            "model": subject.model.name,
            "library": subject.model.library,
            "weights_hash": subject.model.weights_hash,
            "structure": subject.structure,
            "formula": str(subject.atoms.symbols),
            "atoms": len(subject.atoms),
            "dtype": subject.dtype,
            "measured_in": subject.measured_in,
            "verdict": self.verdict,
            "reasons": self.reasons,
            "findings": [vars(finding) for finding in self.findings],
        }


class CheckListener:
    """Follows a check; every method does nothing, and a subclass overrides those it needs."""

    def started(self, subject: CheckSubject, measurements: int) -> None:
        """The model is loaded; so many measurements follow."""

    def measuring(self, title: str) -> None:
        """The next measurement begins."""

    def found(self, finding: Finding) -> None:
        """A measurement gave this finding."""


def check(
    model: str | Path | LoadedModel,
    structure: str | Path | Atoms,
    *,
    architecture: str | None = None,
    trust: bool = False,
    charge: int | None = None,
    spin: int | None = None,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    quick: bool = False,
    listener: CheckListener | None = None,
) -> CheckResult:
    """Check that a model's F_c is -dE/dr on a structure; ``forcedelta check`` in Python.

    >>> check("acac", "molecule.xyz").verdict
    'sound'

    Args:
        model: a registered name, the path of a file, or a model in memory.
        structure: a file that ASE reads, or a structure, of the kind that runs will have.
        architecture, trust: see `forcedelta.load_model`.
        charge, spin: total charge (e) and multiplicity, for models that take them.
        device: of torch.
        dtype: precision of the intended runs.
        quick: fewer finite differences, and no search for hidden jumps.
        listener: follows the measurements.

    Raises:
        ForceDeltaError: the model cannot be loaded, or cannot evaluate the structure.
    """
    listener = CheckListener() if listener is None else listener
    if isinstance(structure, Atoms):
        name, atoms = None, checked_structure(structure)
    else:
        name, atoms = str(structure), read_structure(str(structure))
    where = usable_device(device)

    def load(precision: torch.dtype) -> LoadedModel:
        loaded = load_model(model, precision, where, architecture=architecture, trust=trust)
        _set_charge_and_spin(atoms, loaded, charge, spin)
        return loaded

    inspector = Inspector(load, atoms, DTYPES[dtype], where, quick)
    measured_in = str(inspector.exact.dtype).removeprefix("torch.")
    subject = CheckSubject(inspector.used.model, name, atoms, dtype, measured_in)
    steps = inspector.steps
    listener.started(subject, len(steps))
    for step in steps:
        listener.measuring(step[1])
        for finding in inspector.run(step):
            listener.found(finding)
        if inspector.hopeless:
            break
    return CheckResult(subject, inspector.result())


def _set_charge_and_spin(
    atoms: Atoms, model: LoadedModel, charge: int | None, spin: int | None
) -> None:
    given = {"charge": charge, "spin": spin}
    if not model.takes_charge_spin:
        check_takes_charge(model, charge, spin)
        return
    atoms.info.update({name: value for name, value in given.items() if value is not None})
    charge_and_spin(atoms, model)
