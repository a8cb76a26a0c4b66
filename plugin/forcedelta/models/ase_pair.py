"""Two ASE calculators as a model: slow, for models without an adapter.

One calculator gives the direct forces, the other the energy and its gradient: one library in two
settings, or a potential and its reference. U is exactly eq. 1, but the two share nothing: a step costs
both evaluations and a copy of the structure. The pair can be neither exported nor differentiated twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import ase
import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.data import atomic_numbers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from forcedelta.errors import ForceDeltaError
from forcedelta.models.loaded import LoadedModel

CUTOFF = 1.0
"""Å; the calculators build their own neighbour lists and ignore ours."""

FloatArray = NDArray[np.float64]


def from_calculators(
    direct: BaseCalculator,
    conservative: BaseCalculator,
    *,
    name: str | None = None,
    elements: Iterable[str] | None = None,
    periodic: bool | None = None,
    charge_spin: bool = False,
) -> LoadedModel:
    """A model of two ASE calculators, for `forcedelta.ForceDeltaCalculator` and everything else.

    Slow: see this module. Use float64 to pass unrounded positions to the calculators.

    >>> from ase.calculators.lj import LennardJones
    >>> model = from_calculators(LennardJones(sigma=3.5), LennardJones(sigma=3.4), name="argon", elements=["Ar"])
    >>> model.symbols
    ['Ar']

    Args:
        direct: its forces are the direct forces.
        conservative: its energy is the energy, its forces the conservative forces, and its stress,
            where it has one, the stress. Whether these are its gradient, ``forcedelta check`` can
            tell.
        name: the calculators' names if not given; that these are two ASE calculators is added.
        elements: symbols that both support; None: unknown.
        periodic: True: only for structures that are periodic in three directions; False: only for
            molecules; None: for both.
        charge_spin: whether they read total charge and spin multiplicity from
            ``atoms.info["charge"]`` and ``atoms.info["spin"]``.

    Raises:
        ForceDeltaError: a calculator without energy or forces, the same calculator twice, or an
            element that does not exist.
    """
    if direct is conservative:
        raise ForceDeltaError(
            "the direct and the conservative calculator are the same object, and U would be 0; "
            "give two"
        )
    for role, calculator, wanted in (
        ("direct", direct, ("forces",)),
        ("conservative", conservative, ("energy", "forces")),
    ):
        missing = [what for what in wanted if what not in _implemented(calculator)]
        if missing:
            raise ForceDeltaError(
                f"the {role} calculator, {_label(calculator)}, does not compute "
                f"{' and '.join(missing)}: pass another"
            )
    symbols = None if elements is None else list(elements)
    unknown = [symbol for symbol in symbols or () if symbol not in atomic_numbers]
    if unknown:
        raise ForceDeltaError(f"there is no element {unknown[0]!r}: pass symbols, such as 'Cu'")
    described = {"direct": _describe(direct), "conservative": _describe(conservative)}
    named = name or f"{_label(direct)} / {_label(conservative)}"
    return LoadedModel(
        module=CalculatorPair(direct, conservative, charge_spin).eval(),
        name=f"{named} (two ASE calculators, slow)",
        weights_hash=hashlib.sha256(repr(sorted(described.items())).encode()).hexdigest()[:16],
        elements=None if symbols is None else frozenset(atomic_numbers[s] for s in symbols),
        cutoff=CUTOFF,
        periodic=periodic,
        library=f"ase {ase.__version__} (two calculators)",
        metadata={
            "kind": "two ASE calculators: slow, each step costs both",
            **described,
            "hash": "of the calculators' classes and parameters, as they show no weights",
        },
        stress="stress" in _implemented(conservative),
        script=_not_scripted,
    )


class CalculatorPair(nn.Module):
    """Two calculators as described in `forcedelta.ForceDelta`.

    The conservative forces are computed in the backward pass only, or taken from the calculator's
    results if they were computed with the energy.
    """

    first_order_only = True

    def __init__(
        self, direct: BaseCalculator, conservative: BaseCalculator, charge_spin: bool
    ) -> None:
        super().__init__()
        self.direct, self.conservative = direct, conservative
        self.cutoff = CUTOFF
        self.takes_charge_spin = charge_spin
        self._info: dict[str, dict[str, int]] = {}

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
        charge_spin: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Energies in float64, forces in the dtype of the positions."""
        energy, forces = _Pair.apply(positions, cell, self, numbers, batch, charge_spin)
        return energy, forces

    def structures(
        self,
        positions: Tensor,
        cell: Tensor,
        numbers: Tensor,
        batch: Tensor,
        charge_spin: Tensor | None,
    ) -> list[Atoms]:
        """The structures of a batch."""
        points, cells = _numpy(positions), _numpy(cell)
        z, owner = numbers.cpu().numpy(), batch.cpu().numpy()
        made = []
        for k, box in enumerate(cells):
            mine = owner == k
            atoms = Atoms(z[mine], points[mine], cell=box, pbc=(box != 0).any(axis=1))
            if charge_spin is not None:
                charge, spin = charge_spin[k].tolist()
                atoms.info |= {"charge": int(charge), "spin": int(spin)}
            made.append(atoms)
        return made

    def ask(self, role: str, what: str, atoms: Atoms) -> Any:
        """A property of a structure from the calculator in this role.

        Raises:
            ForceDeltaError: an error of the calculator, with its name.
        """
        calculator = self.direct if role == "direct" else self.conservative
        if self._info.setdefault(role, atoms.info) != atoms.info:
            _reset(calculator)  # ASE ignores charge and spin when it looks for changes
            self._info[role] = atoms.info
        try:
            return calculator.get_property(what, atoms)
        except Exception as error:  # a calculator may raise anything
            first = (str(error).strip().splitlines() or [""])[0]
            raise ForceDeltaError(
                f"the {role} calculator, {_label(calculator)}, failed to compute {what} for {atoms.symbols} "
                f"({type(error).__name__}: {first})"
            ) from error

    def forces(self, role: str, atoms: Atoms, known: FloatArray | None = None) -> FloatArray:
        """[N, 3] eV/Å. Raises ForceDeltaError as ``ask``, and for another shape."""
        if known is None:
            known = self.ask(role, "forces", atoms)
        found = np.asarray(known, dtype=np.float64)
        if found.shape != (len(atoms), 3):
            raise ForceDeltaError(
                f"the {role} calculator gave forces of shape {list(found.shape)} for {len(atoms)} atoms"
            )
        return found


class _Pair(torch.autograd.Function):
    """Energy and direct forces, with the conservative forces as minus the energy's gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        cell: Tensor,
        pair: CalculatorPair,
        numbers: Tensor,
        batch: Tensor,
        charge_spin: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        systems = pair.structures(positions, cell, numbers, batch, charge_spin)
        owner = batch.cpu().numpy()
        direct = np.empty((len(owner), 3))
        energies, known = [], []
        for k, atoms in enumerate(systems):
            energies.append(float(pair.ask("conservative", "energy", atoms)))
            # kept, as the next structure of a batch overwrites the results
            results = getattr(pair.conservative, "results", {})
            known.append(
                {what: np.array(results[what]) for what in ("forces", "stress") if what in results}
            )
            direct[owner == k] = pair.forces("direct", atoms)
        forces = torch.from_numpy(direct).to(positions)
        ctx.pair, ctx.systems, ctx.known, ctx.owner = pair, systems, known, owner
        ctx.like = (positions, cell)
        ctx.mark_non_differentiable(forces)
        return torch.tensor(energies, dtype=torch.float64, device=positions.device), forces

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        weights = gradient.cpu().numpy()
        positions, cell = ctx.like
        slope, pull = np.zeros((len(ctx.owner), 3)), np.zeros((len(ctx.systems), 3, 3))
        for k, (atoms, known) in enumerate(zip(ctx.systems, ctx.known, strict=True)):
            forces = ctx.pair.forces("conservative", atoms, known.get("forces"))
            slope[ctx.owner == k] = -weights[k] * forces
            if ctx.needs_input_grad[1] and atoms.pbc.all():
                stress = known.get("stress")
                if stress is None:
                    stress = ctx.pair.ask("conservative", "stress", atoms)
                pull[k] = weights[k] * _cell_gradient(atoms, forces, np.asarray(stress))
        return (
            torch.from_numpy(slope).to(positions),
            torch.from_numpy(pull).to(cell) if ctx.needs_input_grad[1] else None,
            None,
            None,
            None,
            None,
        )


def _cell_gradient(atoms: Atoms, forces: FloatArray, stress: FloatArray) -> FloatArray:
    """[3, 3] eV/Å, dE/dh at fixed positions, from the stress.

    A strain moves atoms and cell, ``V stress = sum_i r_i dE/dr_i + sum_k h_k dE/dh_k``, with h_k the
    rows of the cell; solved for the last term.
    """
    full = stress if stress.shape == (3, 3) else stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    virial = atoms.get_volume() * full + atoms.positions.T @ forces
    solved: FloatArray = np.linalg.solve(atoms.cell.array.T, virial)
    return solved


def _reset(calculator: BaseCalculator) -> None:
    calculator.atoms, calculator.results = None, {}
    for part in getattr(getattr(calculator, "mixer", None), "calcs", ()):  # of a SumCalculator
        _reset(part)


def _not_scripted() -> nn.Module:
    raise ForceDeltaError(
        "two ASE calculators cannot be exported to TorchScript: use path='python'"
    )


def _implemented(calculator: BaseCalculator) -> list[str]:
    return list(getattr(calculator, "implemented_properties", ()))


def _label(calculator: BaseCalculator) -> str:
    return type(calculator).__name__


def _describe(calculator: BaseCalculator) -> str:
    """Class and parameters, the only description that all calculators have."""
    kind = type(calculator)
    parameters = dict(getattr(calculator, "parameters", {}) or {})
    listed = ", ".join(f"{name}={value}" for name, value in sorted(parameters.items()))
    return f"{kind.__module__}.{kind.__qualname__}({listed})"


def _numpy(tensor: Tensor) -> FloatArray:
    return tensor.detach().to("cpu", torch.float64).numpy()
