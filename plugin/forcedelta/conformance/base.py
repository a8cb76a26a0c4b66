"""What all tests of a model share: how it is loaded, on which structures, and how close is enough."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.conformance import structures as samples
from forcedelta.conformance.tolerances import Tolerances
from forcedelta.errors import ForceDeltaError
from forcedelta.evaluation import ExactEvaluation
from forcedelta.models.loaded import LoadedModel
from forcedelta.verify.agreement import Change
from forcedelta.verify.derivatives import DerivativeError
from forcedelta.verify.probe import Probe
from forcedelta.verify.torch_state import changed, torch_state

Record = Any  # pytest's record_property, a function of a name and a value


class ModelTests:
    """What a test class for a model says about it, and what its tests need."""

    structures: ClassVar[tuple[Atoms, ...]] = samples.standard()
    tolerances: ClassVar[Tolerances] = Tolerances()
    directions: ClassVar[int] = 24

    _probes: ClassVar[dict[torch.dtype, Probe]]
    _changed_by_loading: ClassVar[dict[torch.dtype, list[str]]]

    def load(self, dtype: torch.dtype) -> LoadedModel:
        """The model with weights of ``dtype``, on the CPU."""
        raise NotImplementedError

    def calculator(self, model: LoadedModel) -> Calculator | None:
        """The library's own ASE calculator for the same weights and dtype, or None."""
        return None if model.calculator is None else model.calculator()

    @classmethod
    def setup_class(cls) -> None:
        """Models are loaded once for the class and precision."""
        cls._probes, cls._changed_by_loading = {}, {}

    @classmethod
    def teardown_class(cls) -> None:
        """Give the memory back."""
        cls._probes.clear()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Runs the tests that take ``atoms`` for each structure, ``periodic`` for periodic ones."""
        for name in ("atoms", "periodic"):
            if name in metafunc.fixturenames:
                chosen = [a for a in self.structures if name == "atoms" or a.pbc.all()]
                metafunc.parametrize(name, chosen, ids=[str(a.symbols) for a in chosen])

    def probe(self, dtype: torch.dtype = torch.float64) -> Probe:
        """The model in this precision, loaded when it is first needed."""
        if dtype not in self._probes:
            before = torch_state()
            self._probes[dtype] = Probe(self.load(dtype), dtype)
            self._changed_by_loading[dtype] = changed(before, torch_state())
        return self._probes[dtype]

    def calculate(self, atoms: Atoms, dtype: torch.dtype) -> ExactEvaluation:
        """As a user does, through the calculator."""
        name = "float32" if dtype == torch.float32 else "float64"
        calculator = ForceDeltaCalculator(self.probe(dtype).model, dtype=name)  # type: ignore[arg-type]
        calculator.calculate(atoms)
        results = calculator.results
        return ExactEvaluation(
            results["energy"],
            results["direct_forces"],
            results["conservative_forces"],
            results["force_deltas"],
            results["force_delta"],
        )

    def refused(self, atoms: Atoms) -> None:
        """The model refuses a structure with an error of one line."""
        with pytest.raises(ForceDeltaError) as caught:
            self.calculate(atoms, torch.float32)
        self.one_line(caught.value)

    @staticmethod
    def one_line(error: ForceDeltaError) -> None:
        """An error for users: one line with some content."""
        assert "\n" not in str(error)
        assert len(str(error)) > 10

    @staticmethod
    def check_derivative(
        found: DerivativeError, tolerance: float, unit: str, record_property: Record
    ) -> None:
        """Record an error of a derivative, and bound its relative size."""
        record_property(f"error ({unit})", float(found.error))
        record_property("relative error", float(found.relative))
        record_property(f"uncertainty ({unit})", float(found.uncertainty))
        assert found.verdict(tolerance) == "right", found

    def check(
        self, found: Change, atoms: Atoms, tolerance: float | None, record_property: Record
    ) -> None:
        """Record a change of the results, and bound it unless ``tolerance`` is None."""
        for name, value in named(found):
            record_property(name, float(value))
            assert np.isfinite(value), name
        if tolerance is None:
            return
        evaluation = self.probe().evaluate(atoms)
        size = max(
            1.0,
            float(np.abs(evaluation.direct_forces).max()),
            float(np.abs(evaluation.conservative_forces).max()),
        )
        assert found.energy <= tolerance * len(atoms)
        assert found.direct <= tolerance * size
        assert found.conservative <= tolerance * size
        assert found.force_delta <= tolerance * size


def named(found: Change) -> Iterator[tuple[str, float]]:
    """The parts of a change with their names and units."""
    yield "energy (eV)", found.energy
    yield "direct forces (eV/Å)", found.direct
    yield "conservative forces (eV/Å)", found.conservative
    yield "U (eV/Å)", found.force_delta
