"""The tests that every model has to pass; see the package for how to use them."""

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
from forcedelta.force_delta import ForceDelta
from forcedelta.models.registry import LoadedModel
from forcedelta.verify import agreement
from forcedelta.verify.agreement import Change
from forcedelta.verify.counting import Count, count_passes
from forcedelta.verify.derivatives import DerivativeError, gradient_error, stress_error
from forcedelta.verify.jumps import hidden_jump, neighbour_change
from forcedelta.verify.probe import Evaluation, Probe, displaced
from forcedelta.verify.torch_state import changed, torch_state

Record = Any  # pytest's record_property, a function of a name and a value


class Conformance:
    """Base of a test class for one model; `load` is all that has to be written.

    Attributes:
        structures: those of kinds that the model was not made for are to be left out, and only
            those.
        tolerances: of this model.
        directions: finite differences go along so many random directions, or along all
            coordinates of structures that have no more.
    """

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

    # -- machinery ---------------------------------------------------------------------------

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

    # -- loading -----------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_loading_changes_no_setting_of_torch(self, dtype: torch.dtype) -> None:
        self.probe(dtype)
        assert self._changed_by_loading[dtype] == []

    def test_parameters_are_frozen(self) -> None:
        module = self.probe().model.module
        free = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        assert free == [], "requires_grad_(False) is missing"
        training = [
            name or "the module" for name, child in module.named_modules() if child.training
        ]
        assert training == [], "eval() is missing"

    def test_structures_cover_what_the_model_was_made_for(self) -> None:
        model, kinds = self.probe().model, set()
        for atoms in self.structures:
            kinds.add("molecule" if not atoms.pbc.any() else "crystal")
            if atoms.pbc.all() and min(atoms.cell.lengths()) < model.cutoff:
                kinds.add("cell shorter than the cutoff")
        wanted = {"molecule"} if model.periodic is not True else set()
        if model.periodic is not False:
            wanted |= {"crystal", "cell shorter than the cutoff"}
        assert wanted <= kinds

    # -- derivatives -------------------------------------------------------------------------

    @pytest.mark.parametrize("graph", ["rebuilt", "fixed"])
    def test_conservative_forces_are_the_gradient(
        self, atoms: Atoms, graph: str, record_property: Record
    ) -> None:
        found = gradient_error(
            self.probe(), atoms, fixed=graph == "fixed", directions=self.directions
        )
        self._check_derivative(found, self.tolerances.derivative, "eV/Å", record_property)

    def test_stress_is_the_strain_derivative(
        self, periodic: Atoms, record_property: Record
    ) -> None:
        if not self.probe().model.stress:
            pytest.skip("the model has no stress")
        found = stress_error(self.probe(), periodic)
        self._check_derivative(found, self.tolerances.stress, "eV/Å^3", record_property)

    def test_neighbours_come_and_go_without_a_jump(
        self, atoms: Atoms, record_property: Record
    ) -> None:
        """Also without one that the model's `select` does not tell of."""
        probe = self.probe()
        reach = 2.0 * probe.model.cutoff
        jumps = [neighbour_change(probe, atoms, reach, apart=not atoms.pbc.any())]
        jumps.append(hidden_jump(probe, atoms))
        for jump in jumps:
            assert jump is not None
            for name, value in _named(jump.change):
                record_property(name, value)
            assert np.isfinite(jump.energy)
            if self.tolerances.jump is not None:
                assert jump.energy <= self.tolerances.jump, jump

    # -- symmetries --------------------------------------------------------------------------

    def test_permutation(self, atoms: Atoms, record_property: Record) -> None:
        self._check(
            agreement.permutation(self.probe(), atoms), atoms, self.tolerances.same, record_property
        )

    def test_translation(self, atoms: Atoms, record_property: Record) -> None:
        self._check(
            agreement.translation(self.probe(), atoms), atoms, self.tolerances.same, record_property
        )

    def test_rotation(self, atoms: Atoms, record_property: Record) -> None:
        found = agreement.rotation(self.probe(), atoms)
        self._check(found, atoms, self.tolerances.rotation, record_property)

    def test_images_of_atoms(self, periodic: Atoms, record_property: Record) -> None:
        """Atoms may lie outside of the cell, and are not wrapped."""
        self._check(
            agreement.wrapping(self.probe(), periodic),
            periodic,
            self.tolerances.same,
            record_property,
        )

    # -- evaluations -------------------------------------------------------------------------

    def test_repeated_evaluation(self, atoms: Atoms, record_property: Record) -> None:
        found = agreement.repetition(self.probe(), atoms)
        self._check(found, atoms, self.tolerances.same, record_property)

    def test_other_structures_between_leave_no_trace(self, record_property: Record) -> None:
        probe = self.probe()
        first = [probe.evaluate(atoms) for atoms in self.structures]
        for atoms in self.structures:
            probe.evaluate(displaced(atoms, seed=7))
        for atoms, before in zip(self.structures, first, strict=True):
            found = agreement.change(before, probe.evaluate(atoms))
            self._check(found, atoms, self.tolerances.same, record_property)

    def test_random_frames(self, atoms: Atoms, record_property: Record) -> None:
        found = agreement.frame_noise(self.probe(), atoms)
        if found is None:
            pytest.skip("the model has no random frames")
        self._check(found, atoms, self.tolerances.frame, record_property)

    def test_batch_equals_single(self, record_property: Record) -> None:
        together = list(self.structures)
        together += [displaced(atoms, seed=3) for atoms in together]
        found = agreement.batching(self.probe(), together)
        smallest = min(together, key=len)
        self._check(found, smallest, self.tolerances.same, record_property)

    def test_float32_agrees_with_float64(self, atoms: Atoms, record_property: Record) -> None:
        found = agreement.precision(self.probe(torch.float32), self.probe(), atoms)
        self._check(found, atoms, self.tolerances.precision, record_property)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_agrees_with_the_calculator_of_the_library(
        self, atoms: Atoms, dtype: torch.dtype, record_property: Record
    ) -> None:
        probe = self.probe(dtype)
        calculator = self.calculator(probe.model)
        if calculator is None:
            pytest.skip("the library has no calculator of its own")
        found = agreement.library(probe, calculator, atoms)
        self._check(found, atoms, self.tolerances.library, record_property)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_evaluation_changes_no_setting_of_torch(self, atoms: Atoms, dtype: torch.dtype) -> None:
        probe = self.probe(dtype)
        before = torch_state()
        probe.evaluate(atoms)
        probe.energy(probe.graph(atoms))
        assert changed(before, torch_state()) == []

    def test_one_forward_and_one_backward(self, atoms: Atoms) -> None:
        assert count_passes(self.probe(), atoms) == Count(forwards=1, backwards=1, repeated=())

    def test_no_gradients_of_parameters(self, atoms: Atoms) -> None:
        probe = self.probe()
        probe.evaluate(atoms)
        with_gradient = [n for n, p in probe.model.module.named_parameters() if p.grad is not None]
        assert with_gradient == []

    def test_arguments_are_left_alone(self, atoms: Atoms) -> None:
        graph = self.probe().graph(atoms)
        before = [tensor.clone() for tensor in graph]
        self.probe().evaluate_graph(graph)
        assert all(torch.equal(a, b) for a, b in zip(before, graph, strict=True))

    def test_selecting_twice_selects_the_same(self, atoms: Atoms) -> None:
        probe = self.probe()
        if not probe.selects:
            pytest.skip("the model sees all pairs")
        graph = probe.graph(atoms)
        once = probe.selected(graph)
        twice = probe.selected((*graph[:3], *once, *graph[5:]))
        assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
        assert 0 < once[0].shape[1] <= graph[3].shape[1]

    def test_expected_errors_of_the_model(self, atoms: Atoms) -> None:
        probe = self.probe()
        if not getattr(probe.model.module, "gives_expected_errors", False):
            pytest.skip("the model has no expected errors of its own")
        with torch.no_grad():
            expected = probe.model.module(*probe.graph(atoms))[2]
        assert expected.shape == (len(atoms),)
        assert bool((expected >= 0).all())

    # -- errors ------------------------------------------------------------------------------

    def test_empty_structure_is_refused(self) -> None:
        self._refused(Atoms())

    def test_unknown_element_is_refused(self, atoms: Atoms) -> None:
        model = self.probe(torch.float32).model
        wrong = atoms.copy()
        # no model knows the dummy atom X
        known = model.elements or frozenset(range(1, 119))
        wrong.numbers[-1] = min(set(range(119)) - known)
        self._refused(wrong)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_position_that_is_no_number_is_refused(self, atoms: Atoms, value: float) -> None:
        wrong = atoms.copy()
        wrong.positions[-1, 1] = value
        self._refused(wrong)

    def test_wrong_shapes_are_refused(self, atoms: Atoms) -> None:
        probe = self.probe()
        graph = probe.graph(atoms)
        wrong = {
            "positions": (graph[0][:, :2], *graph[1:]),
            "numbers": (graph[0], graph[1][:-1], *graph[2:]),
            "cell": (*graph[:2], graph[2][0], *graph[3:]),
            "edges": (*graph[:4], graph[4][:, :2], *graph[5:]),
        }
        for arguments in wrong.values():
            with pytest.raises(ForceDeltaError):
                ForceDelta(probe.model.module)(*arguments)

    def test_missing_cell_is_refused(self, atoms: Atoms) -> None:
        wrong = atoms.copy()
        wrong.pbc = True
        wrong.cell = None
        self._refused(wrong)

    def test_partial_periodicity_is_right_or_refused(self, periodic: Atoms) -> None:
        """A slab is what it is in a cell that is periodic in all directions, with vacuum."""
        probe = self.probe()
        slab = periodic.copy()
        slab.pbc = [True, True, False]
        try:
            result = self._calculate(slab, torch.float64)
        except ForceDeltaError as error:
            self._one_line(error)
            return
        apart = slab.copy()
        apart.pbc = True
        normal = np.cross(*apart.cell.array[:2])
        thickness = np.ptp(apart.positions @ normal) / np.linalg.norm(normal)
        apart.cell[2] = normal / np.linalg.norm(normal) * (thickness + 2.0 * probe.model.cutoff)
        expected = self._calculate(apart, torch.float64)
        found = agreement.change(expected, result)
        self._check(found, slab, self.tolerances.same, lambda name, value: None)

    def test_lonely_atom(self, atoms: Atoms) -> None:
        """What is left when a run flies apart: numbers, or an error for the user."""
        lonely = atoms[:1]
        lonely.info.update(atoms.info)
        if lonely.pbc.any():
            lonely.cell = np.eye(3) * 3.0 * self.probe().model.cutoff
        try:
            found = self._calculate(lonely, torch.float64)
        except ForceDeltaError as error:
            self._one_line(error)
            return
        assert np.isfinite(found.energy)
        assert np.isfinite(found.direct).all()
        assert np.abs(found.conservative).max() <= self.tolerances.same

    @pytest.mark.parametrize("missing", ["charge", "spin"])
    def test_missing_charge_or_spin_is_refused(self, atoms: Atoms, missing: str) -> None:
        if not getattr(self.probe().model.module, "takes_charge_spin", False):
            pytest.skip("the model takes neither charge nor spin")
        wrong = atoms.copy()
        wrong.info.pop(missing, None)
        self._refused(wrong)

    # -- helpers -----------------------------------------------------------------------------

    def _calculate(self, atoms: Atoms, dtype: torch.dtype) -> Evaluation:
        """As a user does, through the calculator."""
        name = "float32" if dtype == torch.float32 else "float64"
        calculator = ForceDeltaCalculator(self.probe(dtype).model, dtype=name)  # type: ignore[arg-type]
        calculator.calculate(atoms)
        results = calculator.results
        return Evaluation(
            results["energy"],
            results["direct_forces"],
            results["conservative_forces"],
            results["force_delta"],
        )

    def _refused(self, atoms: Atoms) -> None:
        with pytest.raises(ForceDeltaError) as caught:
            self._calculate(atoms, torch.float32)
        self._one_line(caught.value)

    @staticmethod
    def _one_line(error: ForceDeltaError) -> None:
        assert "\n" not in str(error)
        assert len(str(error)) > 10

    @staticmethod
    def _check_derivative(
        found: DerivativeError, tolerance: float, unit: str, record_property: Record
    ) -> None:
        record_property(f"error ({unit})", found.error)
        record_property("relative error", found.relative)
        record_property(f"uncertainty ({unit})", found.uncertainty)
        assert found.verdict(tolerance) == "right", found

    def _check(
        self, found: Change, atoms: Atoms, tolerance: float | None, record_property: Record
    ) -> None:
        for name, value in _named(found):
            record_property(name, value)
            assert np.isfinite(value), name
        if tolerance is None:
            return
        evaluation = self.probe().evaluate(atoms)
        size = max(
            1.0,
            float(np.abs(evaluation.direct).max()),
            float(np.abs(evaluation.conservative).max()),
        )
        assert found.energy <= tolerance * len(atoms)
        assert found.direct <= tolerance * size
        assert found.conservative <= tolerance * size
        assert found.force_delta <= tolerance * size


def _named(found: Change) -> Iterator[tuple[str, float]]:
    yield "energy (eV)", found.energy
    yield "direct forces (eV/Å)", found.direct
    yield "conservative forces (eV/Å)", found.conservative
    yield "U (eV/Å)", found.force_delta
