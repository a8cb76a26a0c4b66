"""Structures with their results and their Force Delta, for the files of ASE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_properties
from ase.calculators.singlepoint import SinglePointCalculator

from .ase_calculators import ForceDeltaSource
from .errors import HookError
from .flags import HASH_PREFIX
from .predicted_error import OUTSIDE, PREDICTED, PREDICTED_ATOMS

_VECTORS = ("direct_forces", "conservative_forces")
_ARRAYS = ("force_deltas", *_VECTORS, "expected_errors", *PREDICTED_ATOMS)
_INFO = (
    "force_delta", "worst_atom", "expected_error", "estimated_force_delta", "energy_uncertainty", *PREDICTED,
    OUTSIDE, "model", "weights_hash",
)  # fmt: skip
_NAME = "forcedelta"


def frozen(atoms: Any) -> Atoms:
    """A copy of a structure whose results and Force Delta go into the files of ASE.

    Nothing is evaluated if the calculator has the results of this structure. Otherwise, for new or
    moved atoms, it evaluates once.

    The copy has a `SinglePointCalculator` with energy (eV), forces (eV/Å, those that drive a run,
    without constraints), stress (eV/Å^3) and what else is known. ``info`` has ``force_delta`` (U, eV/Å)
    and ``worst_atom``, ``model``, ``weights_hash`` and, where they are known, ``expected_error`` (eV/Å),
    ``energy_uncertainty`` (eV) and predicted errors. ``arrays`` has ``force_deltas`` (u_i, [N] eV/Å),
    ``direct_forces`` and ``conservative_forces`` ([N, 3] eV/Å) and, where they are known,
    ``expected_errors`` of the model and predicted errors of the atoms. What belongs to U is absent where
    it was not computed, as between two exact evaluations.

    Extended XYZ keeps all of it. ASE's .traj and databases have no arrays of other names: there all of
    it is in the parameters of the calculator as well, and ``frozen`` of what was read, structure or
    row of a database, puts it into its places.

    >>> import ase.io
    >>> from forcedelta import ForceDeltaCalculator
    >>> atoms = ase.io.read("molecule.xyz")
    >>> atoms.calc = ForceDeltaCalculator("acac")
    >>> ase.io.write("frames.traj", frozen(atoms))  # or frames.xyz, frames.db
    >>> stored = frozen(ase.io.read("frames.traj"))
    >>> stored.info["force_delta"], stored.arrays["force_deltas"].shape
    (0.02, (15,))

    Args:
        atoms: structure with a calculator, which may be inside ASE's mixers and wrappers, or a row of
            a database of ASE.

    Raises:
        HookError: no structure or no calculator; results of other positions that cannot be computed
            again; a row without results.
    """
    parameters: Mapping[str, Any] = {}
    if hasattr(atoms, "toatoms"):
        parameters = atoms.get("calculator_parameters") or {}
        atoms = atoms.toatoms()
    if not isinstance(atoms, Atoms):
        raise HookError(
            f"frozen() got {type(atoms).__name__}: pass a structure (ase.Atoms) or a row of a database"
        )
    if atoms.calc is None:
        raise HookError(
            f"{atoms.symbols} has no calculator and no results: set atoms.calc, or read a file with results"
        )
    results = _results(atoms)
    copy = atoms.copy()
    if isinstance(atoms.calc, SinglePointCalculator):
        _take(copy, parameters or atoms.calc.parameters)
    else:
        _fill(copy, atoms)
    copy.calc = SinglePointCalculator(copy, **results)
    copy.calc.name = _NAME
    copy.calc.parameters.update(_known(copy))
    return copy


def _results(atoms: Atoms) -> dict[str, Any]:
    """Results of ASE's names, without constraints; one evaluation where there are none."""
    calc = atoms.calc
    try:
        if calc.calculation_required(atoms, ["energy", "forces"]):
            atoms.get_forces(apply_constraint=False)
            atoms.get_potential_energy()
    except PropertyNotImplementedError as error:
        raise HookError(
            f"the stored results of {atoms.symbols} are of other positions, or lack energy and forces: set "
            "a calculator that computes them, atoms.calc = ForceDeltaCalculator(...)"
        ) from error
    found = {}
    for name in all_properties:
        try:
            value = calc.get_property(name, atoms, allow_calculation=False)
        except (PropertyNotImplementedError, NotImplementedError):
            continue
        if value is not None:
            found[name] = value
    return found


def _fill(copy: Atoms, atoms: Atoms) -> None:
    """Put the predictions of the calculator of atoms into info and arrays; older ones are dropped."""
    for name in _INFO:
        copy.info.pop(name, None)
    for name in _ARRAYS:
        copy.arrays.pop(name, None)
    source = ForceDeltaSource(atoms.calc)
    computed_at = getattr(atoms.calc, "atoms", None)
    results = source.results(atoms if computed_at is None else computed_at)
    values = {name: results.get(name) for name in (*_ARRAYS, *_INFO)}
    deltas, errors = values["force_deltas"], values["expected_errors"]
    if deltas is not None:
        values["worst_atom"] = int(np.argmax(deltas))
    if errors is not None:
        values["expected_error"] = float(np.mean(errors))
    model = getattr(source.calculator, "model_info", None) or {}
    values["model"] = model.get("name")
    if model.get("weights_hash") is not None:
        values["weights_hash"] = f"{HASH_PREFIX}{model['weights_hash']}"
    _take(copy, values)


def _take(copy: Atoms, values: Mapping[str, Any]) -> None:
    """Put values by name into info and arrays, as far as they can be of this structure."""
    for name in _INFO:
        value = values.get(name)
        if isinstance(value, str):
            copy.info[name] = value
        elif isinstance(value, int | np.integer):
            copy.info[name] = int(value)
        elif isinstance(value, float | np.floating) and np.isfinite(value):
            copy.info[name] = float(value)
    for name in _ARRAYS:
        if values.get(name) is None:
            continue
        array = np.array(values[name], dtype=float)
        if array.shape == ((len(copy), 3) if name in _VECTORS else (len(copy),)):
            copy.set_array(name, array)


def _known(copy: Atoms) -> dict[str, Any]:
    """What info and arrays hold, for files that keep the parameters of calculators only."""
    found = {name: copy.info[name] for name in _INFO if name in copy.info}
    return found | {name: copy.arrays[name] for name in _ARRAYS if name in copy.arrays}
