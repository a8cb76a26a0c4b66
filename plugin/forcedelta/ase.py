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
from forcedelta.graph import Graph, charge_and_spin
from forcedelta.integrators import check_inner
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.registry import load_model
from forcedelta.monitoring import ADAPTIVE, ESTIMATE, Every, check_every, evaluate_adaptively
from forcedelta.sentinel import Sentinel
from md_hooks.freezing import frozen

__all__ = ["ForceDeltaCalculator", "PropertyUnavailableError", "frozen"]

_NEED_GRADIENT = ("force_delta", "force_deltas", "conservative_forces", "stress")


class PropertyUnavailableError(ForceDeltaError, PropertyNotImplementedError):
    """A property not available for this model, structure or setting; nothing was computed."""


class ForceDeltaCalculator(Calculator):
    """Energy, forces and Force Delta of a direct-force model, one evaluation per configuration.

    After an evaluation of N atoms, ``results`` holds:

    - ``energy`` and, equal to it, ``free_energy``: eV.
    - ``forces`` [N, 3] eV/Å: direct or conservative, as chosen; they drive the dynamics.
    - ``direct_forces``, ``conservative_forces`` [N, 3] eV/Å: both.
    - ``force_delta``: U, eV/Å; ``force_deltas`` [N]: u_i, eV/Å.
    - ``expected_errors`` [N] eV/Å: the force error of each atom predicted by the model itself, for
      models with such a head.
    - ``energy_uncertainty`` eV: the model's own, for models that state one.
    - ``stress`` [6] eV/Å^3, in ASE's sign and order, for structures periodic in three directions:
      the conservative stress, the strain derivative of the energy, from the same backward pass. It
      drives barostats even where direct forces drive the atoms; a direct stress that a model may
      predict (Orb and some metatomic models do) is not used.

    With ``every=k`` every k-th evaluation is exact, beginning with the first. The evaluations in
    between are a forward pass without gradient: their ``results`` lack U, u_i and conservative
    forces. In molecular dynamics each step is one evaluation, and the exact ones are steps 0, k,
    2k, ... (see `count_from` for runs that do not start at 0). Requesting a property that was not
    computed raises an error instead of computing it. There is no stress with ``every`` above 1.
    Where the energy takes a forward pass of its own (models of ``forcedelta tune --reach energy``), these
    evaluations also lack the energy; requesting it computes it.

    With ``every="adaptive"`` the work along the path decides which evaluations are exact
    (`forcedelta.sentinel.Sentinel`); the others are forward passes, as above. ``results`` then also
    holds ``estimated_force_delta``, eV/Å: what the forward pass alone tells about U, NaN at the
    start. In a run with hooks the thresholds of its guards count, and `monitoring` is in its result.

    With ``forces="mts"`` and ``inner=m`` the evaluations of steps 0, m, 2m, ... are exact, and those
    in between are forward passes. ``forces`` are the direct ones at each of them: an integrator of
    `forcedelta.integrators` adds the difference to the conservative forces every m steps.

    A model of charged and open-shell molecules takes the total charge and the spin multiplicity
    from ``atoms.info["charge"]`` and ``atoms.info["spin"]``.

    During a run, positions that are not finite or a collapsed cell give NaN instead of an error, so
    a guard sees the explosion; ``problem`` holds the reason. The first evaluation of a structure
    raises instead.

    >>> from ase.build import molecule
    >>> atoms = molecule("CH3CHO")
    >>> atoms.calc = ForceDeltaCalculator("acac")
    >>> forces = atoms.get_forces()
    >>> atoms.calc.results["force_delta"], atoms.calc.results["force_deltas"].shape
    (0.9, (7,))

    Attributes:
        model: the `LoadedModel`.
        inner: inner steps per outer step of multiple time steps; 1 without them.
        model_info: name, weights_hash, library, versions and settings, for files.
        problem: the reason why the results are NaN; None if they are not.
        force_delta_due: whether the last evaluation was exact.
        energy_due: whether it was to give the energy.
        sentinel: the `Sentinel`, which takes part in runs with hooks; None without ``every="adaptive"``.
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
        "energy_uncertainty",
    ]

    def __init__(
        self,
        model: str | Path | ForceDelta | LoadedModel,
        forces: Literal["direct", "conservative", "mts"] = "direct",
        every: Every = 1,
        device: str = "cpu",
        dtype: Literal["float32", "float64"] = "float32",
        *,
        inner: int = 1,
        architecture: str | None = None,
        trust: bool = False,
    ) -> None:
        """Loads the model.

        Args:
            model: a registered name (``forcedelta models``), the path of a weights file, or a model
                in memory.
            forces: which forces ``results["forces"]`` holds; "mts" for multiple time steps.
            every: exact U at every N-th evaluation, or "adaptive"; above 1 only with direct forces.
            device: torch device, such as "cpu" or "cuda".
            dtype: of positions and weights.
            inner: inner steps per outer step, 2 or more with "mts".
            architecture, trust: see `forcedelta.load_model`.

        Raises:
            ForceDeltaError: arguments out of range, or a model that cannot be loaded.
        """
        super().__init__()
        if forces not in ("direct", "conservative", "mts"):
            raise ForceDeltaError(
                f"forces must be 'direct', 'conservative' or 'mts', not {forces!r}"
            )
        every = check_every(every, forces)
        check_inner(forces, inner, every)
        if dtype not in DTYPES:
            raise ForceDeltaError(f"dtype must be 'float32' or 'float64', not {dtype!r}")
        where = usable_device(device)
        self.model = load_model(model, DTYPES[dtype], where, architecture=architecture, trust=trust)
        self.forces = forces
        self.every = every
        self.inner = int(inner)
        self.problem: str | None = None
        self.force_delta_due = False
        self.energy_due = True
        self.model_info: dict[str, Any] = model_info(
            self.model, {"ase": ase.__version__},
            forces=forces, every=self.every, inner=self.inner, device=str(where), dtype=dtype,
        )  # fmt: skip
        self.parameters.update(
            model=self.model.name, forces=forces, every=self.every, inner=self.inner, dtype=dtype
        )
        self._evaluator = Evaluator(self.model, DTYPES[dtype], where)
        self.sentinel = Sentinel() if every == ADAPTIVE else None
        self._count = 0
        self._numbers: NDArray[np.integer] = np.empty(0, int)
        self._pbc: NDArray[np.bool_] = np.empty(0, bool)

    @property
    def evaluations(self) -> int:
        """Forward passes of the model so far."""
        return self._evaluator.passes

    @property
    def monitoring(self) -> dict[str, int] | None:
        """Counts of adaptive monitoring (`Sentinel.counts`); None without it."""
        return None if self.sentinel is None else self.sentinel.counts()

    def count_from(self, step: int) -> None:
        """Assigns the next evaluation to ``step``; those at ``step % every == 0`` are exact.

        With multiple time steps those at ``step % inner == 0``. Adaptive monitoring does not count.
        """
        self._count = step

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """Inputs of the model in ``atoms`` that differ from the configuration of ``results``.

        Compared bit by bit, whatever ``tol``: an order of magnitude faster than ASE's own comparison,
        which also covers charges and magnetic moments; runs at every ``get_forces`` and
        ``get_potential_energy``.
        """
        known = self.atoms
        if known is None or (self.sentinel is not None and self.sentinel.resuming):
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
        """Evaluates the model once and stores the ``results``.

        Raises:
            ForceDeltaError: a structure that is empty, not finite or without a usable cell, or whose
                elements or periodicity the model does not support.
            PropertyUnavailableError: a property that this evaluation does not give.
        """
        if atoms is None:
            atoms = self.atoms
            if atoms is None:
                raise ForceDeltaError("no structure to calculate: pass atoms")
        elif self.check_state(atoms):  # a direct call; get_property has set the atoms
            self.atoms, self.results = atoms.copy(), {}
        new = self._is_new(atoms)
        if new and self.sentinel is not None:
            self.sentinel.begin()
        again = bool(self.results)  # same configuration, but a property is missing
        if again:
            exact = "force_delta" in self.results
        elif self.sentinel is not None:
            exact = self.sentinel.due
        else:
            exact = self._count % (self.inner if self.forces == "mts" else int(self.every)) == 0
        stress = bool(atoms.pbc.all()) and self.model.stress and self.every == 1
        self._refuse(properties, atoms, exact, stress)
        if new:
            self._take_system(atoms)
        graph = self._graph(atoms, new)
        energy = self.sentinel is not None or not {"energy", "free_energy"}.isdisjoint(properties)

        def evaluate(exact: bool) -> Evaluation:
            if graph is None:
                return not_finite(len(atoms), exact, stress)
            if exact:
                return self._evaluator.evaluate(graph, stress)[0]
            return self._evaluator.forward(graph, energy)[0]

        if self.sentinel is None or again:
            found = evaluate(exact)
        else:
            found = evaluate_adaptively(
                self.sentinel, evaluate, atoms.positions, atoms.cell.array, atoms.pbc
            )
        self.force_delta_due = found.exact
        self.energy_due = found.energy_known
        self.results = self._results(found)
        if not again:  # the steps are counted, not the requests
            self._count += 1

    def _graph(self, atoms: Atoms, new: bool) -> Graph | None:
        """The model's arguments; None, with the `problem`, where a run has exploded."""
        self.problem = None
        try:
            return self._evaluator.graph_at(
                atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc,
                charge_and_spin(atoms, self.model),
            )  # fmt: skip
        except ForceDeltaError as error:
            if new:
                self._numbers = np.empty(0, int)
                raise
            self.problem = str(error)
            return None

    def _results(self, found: Evaluation) -> dict[str, Any]:
        """An evaluation under ASE's names."""
        conservative = self.forces == "conservative"
        driving = found.conservative_forces if conservative else found.direct_forces
        assert driving is not None
        energy = found.energy if found.energy_known else None
        results = {
            "energy": energy,
            "free_energy": energy,
            "direct_forces": found.direct_forces,
            "conservative_forces": found.conservative_forces,
            "force_deltas": found.force_deltas,
            "force_delta": found.force_delta,
            "stress": found.voigt_stress,
            "expected_errors": found.expected_errors,
            "energy_uncertainty": found.energy_uncertainty,
            "forces": driving.copy(),
            ESTIMATE: None if self.sentinel is None else self.sentinel.estimate,
        }
        return {name: value for name, value in results.items() if value is not None}

    def _refuse(self, properties: Sequence[str], atoms: Atoms, exact: bool, stress: bool) -> None:
        """Raises if the next evaluation does not give a property."""
        if "stress" in properties and not stress:
            if not atoms.pbc.all():
                reason = (
                    "stress needs a volume, and the structure is not periodic in three directions: "
                    "use a constant-volume ensemble"
                )
            elif not self.model.stress:
                reason = (
                    f"model '{self.model.name}' has no stress: use a constant-volume ensemble or "
                    "another model"
                )
            else:
                reason = (
                    f"stress needs the gradient at every step, and every={self.every!r}: use every=1 "
                    "for constant pressure"
                )
            raise PropertyUnavailableError(reason)
        if not exact:
            missing = [name for name in properties if name in _NEED_GRADIENT]
            if missing:
                raise PropertyUnavailableError(
                    f"{', '.join(missing)} was not computed at this evaluation "
                    f"({self._period}); read calc.results.get('{missing[0]}'), or use every=1"
                )

    @property
    def _period(self) -> str:
        """How many evaluations there are per exact one, as an argument."""
        return f"inner={self.inner}" if self.forces == "mts" else f"every={self.every!r}"

    def _is_new(self, atoms: Atoms) -> bool:
        """Whether elements or periodicity differ from the last evaluation."""
        return not (
            np.array_equal(atoms.numbers, self._numbers) and np.array_equal(atoms.pbc, self._pbc)
        )

    def _take_system(self, atoms: Atoms) -> None:
        """Check and remember elements and periodicity."""
        check_supported(atoms.numbers, atoms.pbc, self.model)
        self._numbers, self._pbc = atoms.numbers.copy(), atoms.pbc.copy()
