"""A model gives the same answers and costs the same passes wherever it is evaluated.

The calculator, the OpenMM evaluator, an audit, the measurements of a check and the errors of a
training are five users of one evaluation.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from torch.nn.modules.module import register_module_forward_hook

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.audit import audit
from forcedelta.evaluation import Evaluator
from forcedelta.models import LoadedModel, load_model
from forcedelta.models.network import DirectForceNetwork
from forcedelta.training.data import to_batch
from forcedelta.training.quality import measure
from forcedelta.verify.probe import Probe, displaced
from md_hooks import Trajectory

MOLECULE = Path(__file__).parents[1] / "examples" / "acetylacetone.xyz"
SAME = {"float64": 1e-9, "float32": 1e-4}
"""Relative: OpenMM's nm and a batch round differently."""
PER_ATOM = ("direct_forces", "conservative_forces", "force_deltas")


class Passes:
    """Forward passes of the embedded networks, and backward passes."""

    forwards = 0
    backwards = 0

    def taken(self) -> tuple[int, int]:
        """Those since the last call."""
        taken = self.forwards, self.backwards
        self.forwards = self.backwards = 0
        return taken


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passes]:
    counted, gradient = Passes(), torch.autograd.grad

    def backward(*args: Any, **kwargs: Any) -> Any:
        counted.backwards += 1
        return gradient(*args, **kwargs)

    def forward(part: Any, args: Any, output: Any) -> None:
        counted.forwards += isinstance(part, DirectForceNetwork)

    monkeypatch.setattr(torch.autograd, "grad", backward)
    handle = register_module_forward_hook(forward)
    yield counted
    handle.remove()


def structures_of(name: str) -> list[Atoms]:
    """Ten distorted structures in all; the primitive cells are shorter than the cutoff."""
    if name != "mlearn":
        molecule = ase.io.read(MOLECULE)
        return [displaced(molecule, size, seed) for seed, size in enumerate((0.05, 0.1, 0.2))]
    crystals = [bulk("Si"), bulk("Ge", cubic=True), bulk("Li", cubic=True), bulk("Mo", cubic=True)]
    return [displaced(crystal, 0.08, seed) for seed, crystal in enumerate(crystals)]


@pytest.fixture(params=["acac", "acac-direct", "mlearn"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(name: str, dtype: str) -> LoadedModel:
    return load_model(name, getattr(torch, dtype))


@pytest.fixture
def structures(name: str) -> list[Atoms]:
    return structures_of(name)


@pytest.fixture
def expected(model: LoadedModel, dtype: str, structures: list[Atoms], passes: Passes) -> list[Any]:
    evaluator = Evaluator(model, getattr(torch, dtype))
    found = [evaluator.batch([atoms])[0] for atoms in structures]
    assert passes.taken() == (len(structures), len(structures))
    return found


def agree(found: Any, expected: Any, tolerance: float, with_stress: bool = True) -> None:
    scale = max(1.0, float(np.abs(expected.direct_forces).max()))
    for name in PER_ATOM:
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=0, atol=tolerance * scale
        )
    assert found.energy == pytest.approx(expected.energy, rel=tolerance)
    assert found.force_delta == pytest.approx(expected.force_delta, rel=tolerance)
    if with_stress and expected.stress is not None:
        stress = expected.voigt_stress if found.stress.ndim == 1 else expected.stress
        np.testing.assert_allclose(found.stress, stress, rtol=0, atol=tolerance * scale)


def test_calculator(
    model: LoadedModel, dtype: Any, structures: list[Atoms], expected: list[Any], passes: Passes
) -> None:
    calculator = ForceDeltaCalculator(model, dtype=dtype)
    for atoms, one in zip(structures, expected, strict=True):
        calculator.calculate(atoms)
        results = calculator.results
        for name in PER_ATOM:
            assert np.array_equal(results[name], getattr(one, name))
        assert (results["energy"], results["force_delta"]) == (one.energy, one.force_delta)
        if one.stress is not None:
            assert np.array_equal(results["stress"], one.voigt_stress)
        assert passes.taken() == (1, 1)


def test_calculator_between_exact_evaluations(
    model: LoadedModel, dtype: Any, structures: list[Atoms], expected: list[Any], passes: Passes
) -> None:
    calculator = ForceDeltaCalculator(model, dtype=dtype, every=2)
    calculator.calculate(structures[0])
    assert passes.taken() == (1, 1)
    calculator.calculate(structures[1])
    assert passes.taken() == (1, 0)
    assert not set(calculator.results) & {"force_delta", "conservative_forces", "stress"}
    scale = max(1.0, float(np.abs(expected[1].direct_forces).max()))
    np.testing.assert_allclose(
        calculator.results["direct_forces"],
        expected[1].direct_forces,
        rtol=0,
        atol=SAME[dtype] * scale,
    )


def test_openmm(
    model: LoadedModel, dtype: str, structures: list[Atoms], expected: list[Any], passes: Passes
) -> None:
    pytest.importorskip("openmm")
    from forcedelta.openmm.evaluator import RememberingEvaluator

    for atoms, one in zip(structures, expected, strict=True):
        periodic = bool(atoms.pbc.all())
        evaluator = RememberingEvaluator(
            model, atoms.numbers, periodic, "direct", getattr(torch, dtype), torch.device("cpu")
        )
        box = atoms.cell.array / 10 if periodic else None
        found = evaluator.evaluate(atoms.positions / 10, box, full=True)
        agree(found, one, SAME[dtype], with_stress=False)
        assert passes.taken() == (1, 1)
        assert evaluator.evaluate(atoms.positions / 10, box, full=False) is found
        assert passes.taken() == (0, 0)


def test_audit(
    model: LoadedModel,
    dtype: Any,
    structures: list[Atoms],
    expected: list[Any],
    passes: Passes,
    tmp_path: Path,
) -> None:
    ase.io.write(tmp_path / "frames.xyz", structures)
    audit(tmp_path / "frames.xyz", model, tmp_path / "audit.h5", dtype=dtype)
    assert passes.taken() == (1, 1)  # one batch
    frames = list(Trajectory(tmp_path / "audit.h5").frames(range(len(structures))))
    for frame, one in zip(frames, expected, strict=True):
        agree(frame, one, 2e-4 if dtype == "float32" else 1e-6)  # a file of text, and float32


def test_check(
    model: LoadedModel, dtype: str, structures: list[Atoms], expected: list[Any], passes: Passes
) -> None:
    probe = Probe(model, getattr(torch, dtype))
    for atoms, one in zip(structures, expected, strict=True):
        agree(probe.evaluate(atoms, stress=bool(atoms.pbc.all())), one, SAME[dtype])
        assert passes.taken() == (1, 1)
    together = probe.evaluate_graph(probe.graph(structures))
    assert passes.taken() == (1, 1)
    for found, one in zip(together, expected, strict=True):
        agree(found, one, SAME[dtype], with_stress=False)


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_training(
    model: LoadedModel, structures: list[Atoms], expected: list[Any], passes: Passes
) -> None:
    parts = []
    for atoms, one in zip(structures, expected, strict=True):
        labelled = atoms.copy()
        labelled.calc = SinglePointCalculator(
            labelled, energy=one.energy, forces=one.conservative_forces
        )
        parts.append(to_batch(labelled, model.cutoff))
    assert isinstance(model.module, DirectForceNetwork)
    errors = measure(model.module, parts)
    assert passes.taken() == (len(structures), len(structures))
    # labelled with F_c, the true error of the direct forces is U
    np.testing.assert_allclose(errors.force_delta, [one.force_delta for one in expected], rtol=1e-4)
    np.testing.assert_allclose(errors.epsilon, errors.force_delta, rtol=1e-3)
