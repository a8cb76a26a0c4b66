"""Bad input: an error of one line for the user, never a number and never a traceback."""

import numpy as np
import pytest
import torch
from ase import Atoms

from forcedelta.conformance.base import ModelTests
from forcedelta.errors import ForceDeltaError
from forcedelta.force_delta import ForceDelta
from forcedelta.verify import agreement


class ErrorTests(ModelTests):
    """Structures that a model cannot be asked about, or just about."""

    def test_empty_structure_is_refused(self) -> None:
        """A structure without atoms."""
        self.refused(Atoms())

    def test_unknown_element_is_refused(self, atoms: Atoms) -> None:
        """An element that the model does not support."""
        model = self.probe(torch.float32).model
        wrong = atoms.copy()
        # no model knows the dummy atom X
        known = model.elements or frozenset(range(1, 119))
        wrong.numbers[-1] = min(set(range(119)) - known)
        self.refused(wrong)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_position_that_is_no_number_is_refused(self, atoms: Atoms, value: float) -> None:
        """A position that is NaN or infinite."""
        wrong = atoms.copy()
        wrong.positions[-1, 1] = value
        self.refused(wrong)

    def test_wrong_shapes_are_refused(self, atoms: Atoms) -> None:
        """Tensors whose shapes do not fit together."""
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
        """A periodic structure without a cell."""
        wrong = atoms.copy()
        wrong.pbc = True
        wrong.cell = None
        self.refused(wrong)

    def test_partial_periodicity_is_right_or_refused(self, periodic: Atoms) -> None:
        """A slab is what it is in a cell that is periodic in all directions, with vacuum."""
        probe = self.probe()
        slab = periodic.copy()
        slab.pbc = [True, True, False]
        try:
            result = self.calculate(slab, torch.float64)
        except ForceDeltaError as error:
            self.one_line(error)
            return
        apart = slab.copy()
        apart.pbc = True
        normal = np.cross(*apart.cell.array[:2])
        thickness = np.ptp(apart.positions @ normal) / np.linalg.norm(normal)
        apart.cell[2] = normal / np.linalg.norm(normal) * (thickness + 2.0 * probe.model.cutoff)
        expected = self.calculate(apart, torch.float64)
        found = agreement.change(expected, result)
        self.check(found, slab, self.tolerances.same, lambda name, value: None)

    def test_lonely_atom(self, atoms: Atoms) -> None:
        """What is left when a run flies apart: numbers, or an error for the user."""
        lonely = atoms[:1]
        lonely.info.update(atoms.info)
        if lonely.pbc.any():
            lonely.cell = np.eye(3) * 3.0 * self.probe().model.cutoff
        try:
            found = self.calculate(lonely, torch.float64)
        except ForceDeltaError as error:
            self.one_line(error)
            return
        assert np.isfinite(found.energy)
        assert np.isfinite(found.direct_forces).all()
        assert np.abs(found.conservative_forces).max() <= self.tolerances.same

    @pytest.mark.parametrize("missing", ["charge", "spin"])
    def test_missing_charge_or_spin_is_refused(self, atoms: Atoms, missing: str) -> None:
        """A structure without charge or multiplicity, for models that take them."""
        if not getattr(self.probe().model.module, "takes_charge_spin", False):
            pytest.skip("the model takes neither charge nor spin")
        wrong = atoms.copy()
        wrong.info.pop(missing, None)
        self.refused(wrong)
