"""The tests that every model has to pass; see the package for how to use them."""

import numpy as np
import pytest
import torch
from ase import Atoms

from forcedelta.conformance.base import Record, named
from forcedelta.conformance.engines import EngineTests
from forcedelta.conformance.errors import ErrorTests
from forcedelta.force_delta_gradient import Method
from forcedelta.verify import agreement
from forcedelta.verify.counting import Count, count_passes
from forcedelta.verify.derivatives import gradient_error, stress_error
from forcedelta.verify.force_delta_slope import slope_error
from forcedelta.verify.jumps import hidden_jump, neighbour_change
from forcedelta.verify.probe import displaced
from forcedelta.verify.torch_state import changed, torch_state


class Conformance(EngineTests, ErrorTests):
    """Base of a test class for one model; `load` is all that has to be written.

    Attributes:
        structures: those of kinds that the model was not made for are to be left out, and only
            those.
        tolerances: of this model.
        directions: finite differences go along so many random directions, or along all
            coordinates of structures that have no more.
    """

    # -- loading -----------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_loading_changes_no_setting_of_torch(self, dtype: torch.dtype) -> None:
        """Default dtype, threads, random state and the like are as before."""
        self.probe(dtype)
        assert self._changed_by_loading[dtype] == []

    def test_parameters_are_frozen(self) -> None:
        """No parameter requires a gradient, and no part is in training mode."""
        module = self.probe().model.module
        free = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        assert free == [], "requires_grad_(False) is missing"
        training = [
            name or "the module" for name, child in module.named_modules() if child.training
        ]
        assert training == [], "eval() is missing"

    def test_structures_cover_what_the_model_was_made_for(self) -> None:
        """Molecules, crystals and short cells, unless ``periodic`` excludes them."""
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
        """F_c against finite differences of E, with neighbours rebuilt at each displacement and kept."""
        tolerance = self.tolerances.derivative
        found = gradient_error(
            self.probe(),
            atoms,
            fixed=graph == "fixed",
            directions=self.directions,
            fine=tolerance / 3,
        )
        self.check_derivative(found, tolerance, "eV/Å", record_property)

    def test_stress_is_the_strain_derivative(
        self, periodic: Atoms, record_property: Record
    ) -> None:
        """The conservative stress against finite differences of E by strain."""
        if not self.probe().model.stress:
            pytest.skip("the model has no stress")
        tolerance = self.tolerances.stress
        found = stress_error(self.probe(), periodic, fine=tolerance / 3)
        self.check_derivative(found, tolerance, "eV/Å^3", record_property)

    @pytest.mark.parametrize("method", ["second derivatives", "differences"])
    def test_gradient_of_the_force_delta(
        self, atoms: Atoms, method: Method, record_property: Record
    ) -> None:
        """By positions, and by strain where the model has a stress."""
        probe = self.probe()
        first_order = bool(getattr(probe.model.module, "first_order_only", False))
        if first_order and method == "second derivatives":
            pytest.skip("the model has first derivatives only")
        for strain in (False, True):
            if strain and not (probe.model.stress and atoms.pbc.all()):
                continue
            found = slope_error(probe, atoms, method, strain)
            record_property("strain" if strain else "positions", found)
            assert found <= self.tolerances.slope

    def test_neighbours_come_and_go_without_a_jump(
        self, atoms: Atoms, record_property: Record
    ) -> None:
        """Also without one that the model's `select` does not tell of."""
        probe = self.probe()
        jumps = [neighbour_change(probe, atoms, seed=seed) for seed in range(3)]
        if not atoms.pbc.any():  # smaller than the cutoff, perhaps
            jumps.append(neighbour_change(probe, atoms, 2.0 * probe.model.cutoff, apart=True))
        jumps.append(hidden_jump(probe, atoms, reach=0.3, intervals=24))
        found = [jump for jump in jumps if jump is not None]
        assert len(found) > 1, "no neighbour comes or goes: take another structure"
        for jump in found:
            for name, value in named(jump.change):
                record_property(name, float(value))
            assert np.isfinite(jump.energy)
            if self.tolerances.jump is not None:
                assert jump.energy <= self.tolerances.jump, jump

    # -- symmetries --------------------------------------------------------------------------

    def test_permutation(self, atoms: Atoms, record_property: Record) -> None:
        """Results do not depend on the order of the atoms."""
        self.check(
            agreement.permutation(self.probe(), atoms), atoms, self.tolerances.same, record_property
        )

    def test_translation(self, atoms: Atoms, record_property: Record) -> None:
        """Results do not depend on the origin."""
        self.check(
            agreement.translation(self.probe(), atoms), atoms, self.tolerances.same, record_property
        )

    def test_rotation(self, atoms: Atoms, record_property: Record) -> None:
        """E and U do not depend on the orientation, and forces turn with the structure."""
        found = agreement.rotation(self.probe(), atoms)
        self.check(found, atoms, self.tolerances.rotation, record_property)

    def test_images_of_atoms(self, periodic: Atoms, record_property: Record) -> None:
        """Atoms may lie outside of the cell, and are not wrapped."""
        self.check(
            agreement.wrapping(self.probe(), periodic),
            periodic,
            self.tolerances.same,
            record_property,
        )

    # -- evaluations -------------------------------------------------------------------------

    def test_repeated_evaluation(self, atoms: Atoms, record_property: Record) -> None:
        """The same structure gives the same results again."""
        found = agreement.repetition(self.probe(), atoms)
        self.check(found, atoms, self.tolerances.same, record_property)

    def test_other_structures_between_leave_no_trace(self, record_property: Record) -> None:
        """A structure gives the same results after others."""
        probe = self.probe()
        first = [probe.evaluate(atoms) for atoms in self.structures]
        for atoms in self.structures:
            probe.evaluate(displaced(atoms, seed=7))
        for atoms, before in zip(self.structures, first, strict=True):
            found = agreement.change(before, probe.evaluate(atoms))
            self.check(found, atoms, self.tolerances.same, record_property)

    def test_random_frames(self, atoms: Atoms, record_property: Record) -> None:
        """Results hardly depend on random local frames, for models that have them."""
        found = agreement.frame_noise(self.probe(), atoms)
        if found is None:
            pytest.skip("the model has no random frames")
        self.check(found, atoms, self.tolerances.frame, record_property)

    def test_batch_equals_single(self, record_property: Record) -> None:
        """All structures in one batch give the results of each alone."""
        together = list(self.structures)
        together += [displaced(atoms, seed=3) for atoms in together]
        found = agreement.batching(self.probe(), together)
        smallest = min(together, key=len)
        self.check(found, smallest, self.tolerances.same, record_property)

    def test_float32_agrees_with_float64(self, atoms: Atoms, record_property: Record) -> None:
        """Single precision agrees with double precision."""
        found = agreement.precision(self.probe(torch.float32), self.probe(), atoms)
        self.check(found, atoms, self.tolerances.precision, record_property)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_agrees_with_the_calculator_of_the_library(
        self, atoms: Atoms, dtype: torch.dtype, record_property: Record
    ) -> None:
        """E and direct forces are those of the library's own ASE calculator."""
        probe = self.probe(dtype)
        calculator = self.calculator(probe.model)
        if calculator is None:
            pytest.skip("the library has no calculator of its own")
        found = agreement.library(probe, calculator, atoms)
        self.check(found, atoms, self.tolerances.library, record_property)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_evaluation_changes_no_setting_of_torch(self, atoms: Atoms, dtype: torch.dtype) -> None:
        """As for loading."""
        probe = self.probe(dtype)
        before = torch_state()
        probe.evaluate(atoms)
        probe.energy(probe.graph(atoms))
        assert changed(before, torch_state()) == []

    def test_one_forward_and_one_backward(self, atoms: Atoms) -> None:
        """One exact evaluation calls each part of the network once."""
        assert count_passes(self.probe(), atoms) == Count(forwards=1, backwards=1, repeated=())

    def test_no_gradients_of_parameters(self, atoms: Atoms) -> None:
        """The backward pass goes to positions and strain only."""
        probe = self.probe()
        probe.evaluate(atoms)
        with_gradient = [n for n, p in probe.model.module.named_parameters() if p.grad is not None]
        assert with_gradient == []

    def test_arguments_are_left_alone(self, atoms: Atoms) -> None:
        """The tensors of the graph are not written to."""
        graph = self.probe().graph(atoms)
        before = [tensor.clone() for tensor in graph]
        self.probe().evaluate_graph(graph)
        assert all(torch.equal(a, b) for a, b in zip(before, graph, strict=True))

    def test_selecting_twice_selects_the_same(self, atoms: Atoms) -> None:
        """A model's own choice of pairs is stable, for models that have one."""
        probe = self.probe()
        if not probe.selects:
            pytest.skip("the model sees all pairs")
        graph = probe.graph(atoms)
        once = probe.selected(graph)
        twice = probe.selected((*graph[:3], *once, *graph[5:]))
        assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
        assert 0 < once[0].shape[1] <= graph[3].shape[1]

    def test_expected_errors_of_the_model(self, atoms: Atoms) -> None:
        """One error per atom, eV/Å, not negative, for models that predict them."""
        probe = self.probe()
        if not getattr(probe.model.module, "gives_expected_errors", False):
            pytest.skip("the model has no expected errors of its own")
        with torch.no_grad():
            expected = probe.model.module(*probe.graph(atoms))[2]
        assert expected.shape == (len(atoms),)
        assert bool((expected >= 0).all())
