"""ASE calculator: a direct-force model that reports its Force Delta with every evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ase
import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)
from numpy.typing import NDArray

from forcedelta.checks import check_supported
from forcedelta.errors import ForceDeltaError
from forcedelta.evaluation import (
    DTYPES,
    Evaluation,
    Evaluator,
    model_info,
    not_finite,
    usable_device,
)
from forcedelta.force_delta import ForceDelta
from forcedelta.graph import charge_and_spin
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.registry import load_model

_NEED_GRADIENT = ("force_delta", "force_deltas", "conservative_forces", "stress")


class PropertyUnavailableError(ForceDeltaError, PropertyNotImplementedError):
    """A property that this model, structure or setting does not have; nothing was computed."""


class ForceDeltaCalculator(Calculator):
    """Energy, forces and Force Delta of a direct-force model, one evaluation per configuration.

    ``results`` holds after an evaluation of N atoms:

    - ``energy``, and the same as ``free_energy``: eV.
    - ``forces`` [N, 3] eV/Å: the direct or the conservative ones, as chosen. They drive dynamics.
    - ``direct_forces``, ``conservative_forces`` [N, 3] eV/Å: both.
    - ``force_delta``: U, eV/Å; ``force_deltas`` [N]: u_i, eV/Å.
    - ``expected_errors`` [N], eV/Å: the force error of each atom predicted by the model itself,
      for models with such a head.
    - ``stress`` [6] eV/Å^3, ASE's sign and order, for structures that are periodic in three
      directions: the conservative one, the strain derivative of the energy, from the same backward
      pass. It drives barostats, also when the direct forces drive the atoms; a direct stress of the
      model is not used.

    With ``every=k`` only every k-th evaluation is exact, beginning with the first: the evaluations
    in between are one pass of the model without gradient, and have neither U, u_i nor conservative
    forces in ``results``. In molecular dynamics an evaluation is a step, and the exact ones are
    the steps 0, k, 2k, ... (`count_from` for runs that do not start at 0). Requesting a property that
    was not computed raises an error. There is no stress with ``every`` above 1.

    A model of charged and open-shell molecules takes the total charge and the spin multiplicity
    from ``atoms.info["charge"]`` and ``atoms.info["spin"]``.

    A run that explodes continues until it is stopped: positions that are not finite, or a
    collapsed cell, give results of NaN, and `problem` holds the reason. The first evaluation of a
    structure raises instead.

    Attributes:
        model: the `LoadedModel`.
        model_info: name, weights_hash, library, versions and settings, for files.
        problem: why the results are NaN; None if the model computed them.
        force_delta_due: whether the last evaluation was an exact one.
    """

    implemented_properties: Sequence[str] = [  # type: ignore[assignment]
        "energy",
        "free_energy",
        "forces",
        "stress",
        "direct_forces",
        "conservative_forces",
        "force_delta",
        "force_deltas",
        "expected_errors",
    ]

    def __init__(
        self,
        model: str | Path | ForceDelta | LoadedModel,
        forces: Literal["direct", "conservative"] = "direct",
        every: int = 1,
        device: str = "cpu",
        dtype: Literal["float32", "float64"] = "float32",
        *,
        architecture: str | None = None,
        trust: bool = False,
    ) -> None:
        """Loads the model.

        Args:
            model: registered name (``forcedelta models``), path of a file of weights, or a model in
                memory.
            forces: which forces ``results["forces"]`` holds.
            every: exact U at every k-th evaluation; above 1 only with direct forces.
            device: of torch, such as "cpu" or "cuda".
            dtype: of positions and weights.
            architecture, trust: see `forcedelta.load_model`.

        Raises:
            ForceDeltaError: arguments out of range, or a model that cannot be loaded.
        """
        super().__init__()
        if forces not in ("direct", "conservative"):
            raise ForceDeltaError(f"forces must be 'direct' or 'conservative', not {forces!r}")
        if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1:
            raise ForceDeltaError(f"every must be a whole number of 1 or more, not {every!r}")
        if every > 1 and forces == "conservative":
            raise ForceDeltaError(
                "every must be 1 with conservative forces, which need the gradient at each step"
            )
        if dtype not in DTYPES:
            raise ForceDeltaError(f"dtype must be 'float32' or 'float64', not {dtype!r}")
        where = usable_device(device)
        self.model = load_model(model, DTYPES[dtype], where, architecture=architecture, trust=trust)
        self.forces = forces
        self.every = int(every)
        self.problem: str | None = None
        self.force_delta_due = False
        self.model_info: dict[str, Any] = model_info(
            self.model, {"ase": ase.__version__},
            forces=forces, every=self.every, device=str(where), dtype=dtype,
        )  # fmt: skip
        self.parameters.update(model=self.model.name, forces=forces, every=self.every, dtype=dtype)
        self._evaluator = Evaluator(self.model, DTYPES[dtype], where)
        self._count = 0
        self._numbers: NDArray[np.integer] = np.empty(0, int)
        self._pbc: NDArray[np.bool_] = np.empty(0, bool)

    @property
    def evaluations(self) -> int:
        """Passes of the model so far."""
        return self._evaluator.passes

    def count_from(self, step: int) -> None:
        """Makes the next evaluation that of ``step``; those of ``step % every == 0`` are exact."""
        self._count = step

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """The inputs of the model that differ from the configuration of ``results``.

        Bit by bit, and an order of magnitude faster than ASE's own comparison, which also looks at
        charges and magnetic moments; it runs at every ``get_forces`` and ``get_potential_energy``.
        """
        known = self.atoms
        if known is None:
            return list(all_changes)
        pairs = {
            "positions": (known.positions, atoms.positions),
            "numbers": (known.numbers, atoms.numbers),
            "cell": (known.cell.array, atoms.cell.array),
            "pbc": (known.pbc, atoms.pbc),
        }
        changed = [name for name, (old, new) in pairs.items() if not np.array_equal(old, new)]
        if self.model.takes_charge_spin:
            changed += [
                name for name in ("charge", "spin") if known.info.get(name) != atoms.info.get(name)
            ]
        return changed

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """One evaluation, into ``results``.

        Raises:
            ForceDeltaError: a structure that is empty, not finite, without a usable cell, or of
                elements or a periodicity that the model does not support.
            PropertyUnavailableError: properties that this evaluation will not have.
        """
        if atoms is None:
            atoms = self.atoms
            if atoms is None:
                raise ForceDeltaError("nothing to calculate: pass the atoms")
        elif self.check_state(atoms):  # called directly; get_property has set it already
            self.atoms, self.results = atoms.copy(), {}
        exact = self._count % self.every == 0
        if self.results:  # of this configuration, but without what is asked for now
            exact = "force_delta" in self.results
        self.force_delta_due = exact
        stress = bool(atoms.pbc.all()) and self.model.stress and self.every == 1
        self._refuse(properties, atoms, exact, stress)
        new = self._take_system(atoms)
        try:
            graph = self._evaluator.graph_at(
                atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc,
                charge_and_spin(atoms, self.model),
            )  # fmt: skip
        except ForceDeltaError as error:
            if new:
                self._numbers = np.empty(0, int)
                raise
            self.problem = str(error)
            found: Evaluation = not_finite(len(atoms), exact, stress)
        else:
            self.problem = None
            found = (
                self._evaluator.evaluate(graph, stress)[0]
                if exact
                else self._evaluator.forward(graph)[0]
            )
        self.results = self._results(found)
        self._count += 1

    def _results(self, found: Evaluation) -> dict[str, Any]:
        """An evaluation under ASE's names."""
        driving = found.direct_forces if self.forces == "direct" else found.conservative_forces
        assert driving is not None
        results = {
            "energy": found.energy,
            "free_energy": found.energy,
            "direct_forces": found.direct_forces,
            "conservative_forces": found.conservative_forces,
            "force_deltas": found.force_deltas,
            "force_delta": found.force_delta,
            "stress": found.voigt_stress,
            "expected_errors": found.expected_errors,
            "forces": driving.copy(),
        }
        return {name: value for name, value in results.items() if value is not None}

    def _refuse(self, properties: Sequence[str], atoms: Atoms, exact: bool, stress: bool) -> None:
        """Raises for properties that the evaluation at hand will not have."""
        if "stress" in properties and not stress:
            if not atoms.pbc.all():
                reason = (
                    "there is no stress without a volume: the structure is not periodic in three "
                    "directions; use an ensemble of constant volume"
                )
            elif not self.model.stress:
                reason = (
                    f"model '{self.model.name}' has no stress; use an ensemble of constant volume, "
                    "or another model"
                )
            else:
                reason = (
                    f"there is no stress with every={self.every}, as it needs the gradient at each "
                    "step; use every=1 for constant pressure"
                )
            raise PropertyUnavailableError(reason)
        if not exact:
            missing = [name for name in properties if name in _NEED_GRADIENT]
            if missing:
                raise PropertyUnavailableError(
                    f"{', '.join(missing)} was not computed at this evaluation "
                    f"(every={self.every}); read calc.results.get('{missing[0]}'), or use every=1"
                )

    def _take_system(self, atoms: Atoms) -> bool:
        """Keeps what does not change from step to step; True for another system than before."""
        new = not (
            np.array_equal(atoms.numbers, self._numbers) and np.array_equal(atoms.pbc, self._pbc)
        )
        if new:
            check_supported(atoms.numbers, atoms.pbc, self.model)
            self._numbers, self._pbc = atoms.numbers.copy(), atoms.pbc.copy()
        return new
