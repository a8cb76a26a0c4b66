"""Labelled frames as extended XYZ, as a training program takes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ..atoms import bare_atoms
from ..constraints import MISSING
from ..electronic_state import INITIAL_MOMENTS
from ..environment import Surroundings
from ..extxyz import frame_text
from ..flags import HASH_PREFIX
from ..frame import Frame
from ..predicted_error import PREDICTED_ATOMS
from ..replacing import replacing
from .job import Label

PREDICTIONS = ("direct_forces", "conservative_forces", "force_deltas", *PREDICTED_ATOMS)
PROVENANCE = (
    "force_delta", "worst_atom", "model_energy", "step", "time", "source", "run_id", "model", "weights_hash",
    "path", "move", "image", "charge", "spin", "expected_error", "energy_uncertainty", "predicted_error",
    "predicted_error_low",
    "predicted_error_high", "predicted_error_outside",
)  # fmt: skip


def candidate(
    frame: Frame,
    source: str | None = None,
    model: str | None = None,
    weights_hash: str | None = None,
    run_id: str | None = None,
    level_of_theory: str | None = None,
) -> Atoms:
    """A frame as a structure to be labelled, with where it comes from and what the model said.

    Returns:
        atoms without momenta and calculator, with ``info`` (step, time in fs, force_delta in
        eV/Å, model_energy in eV, path and move of an attack, source, run_id, model, weights_hash,
        level_of_theory of the model, charge in e, spin 2S+1, and of a part of a System
        `md_hooks.environment`) and arrays (direct_forces, conservative_forces, force_deltas and
        predicted errors in eV/Å, initial magnetic moments), as far as they are known.
    """
    atoms = bare_atoms(frame)
    atoms.arrays.pop("momenta", None)  # audits of files without velocities have none
    if frame.energy_known:
        atoms.info["model_energy"] = frame.energy
    if source is not None:
        atoms.info["source"] = source
    if run_id:
        atoms.info["run_id"] = run_id
    if model is not None:
        atoms.info["model"] = model
    if weights_hash is not None:
        atoms.info["weights_hash"] = f"{HASH_PREFIX}{weights_hash}"
    if level_of_theory is not None:
        atoms.info["level_of_theory"] = level_of_theory
    return atoms


def labelled(atoms: Atoms, label: Label, reference: str) -> Atoms:
    """A candidate with its label: energies, forces and stress of the reference are the results.

    The forces are those of all atoms, constrained or not (``get_forces(apply_constraint=False)`` of the
    result, which keeps the constraints of the candidate), and ``free_energy`` is the energy whose
    gradient they are, where the reference tells it beside ``energy``.

    ``info["epsilon"]`` (eV/Å) is the true error of the direct forces,
    ``eps = sqrt( 1/(3N) sum_i |F_direct,i - F_reference,i|^2 )``                (eq. 2)

    ``info["labelled_in"]`` of a part of a System says whether its label is one in the field of the rest.
    """
    result = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    if atoms.has("masses"):
        result.set_masses(atoms.get_masses())
    for name in PROVENANCE:
        if name in atoms.info:
            result.info[name] = atoms.info[name]
    around = Surroundings.usable(atoms)
    around.put(result)
    if around.others is not None:
        result.info["labelled_in"] = _field_of(label, around.others)
    if atoms.has(INITIAL_MOMENTS):
        result.set_initial_magnetic_moments(atoms.get_initial_magnetic_moments())
    for name in PREDICTIONS:
        if atoms.has(name):
            result.set_array(name, np.asarray(atoms.get_array(name), dtype=float))
    if atoms.has("direct_forces"):
        difference = atoms.get_array("direct_forces") - label.forces
        result.info["epsilon"] = float(np.sqrt(np.mean(difference**2)))
    result.info["reference"] = reference
    results = {"energy": label.energy, "forces": label.forces}
    if label.free_energy is not None:
        results["free_energy"] = label.free_energy
    if label.stress is not None:
        results["stress"] = label.stress
    result.set_constraint(atoms.constraints)
    if MISSING in atoms.info:
        result.info[MISSING] = atoms.info[MISSING]
    result.calc = SinglePointCalculator(result, **results)
    return result


def _field_of(label: Label, others: int) -> str:
    if label.point_charges:
        return f"the field of {label.point_charges} point charges of its System"
    return f"vacuum, without the {others} other particles of its System"


def write_all(path: str | Path, frames: Iterable[Atoms]) -> None:
    """Write labelled frames; the file is complete or not there (replaced in one move).

    Their constraints are text in the file, so that programs which train on it get all forces.

    Raises:
        HookError: it cannot be written.
    """
    fix = "free some space; the labels are in the journal, so that nothing has to be computed again"
    with replacing(path, fix) as file:
        for atoms in frames:
            file.write(frame_text(atoms, labels=True))
