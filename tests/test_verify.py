"""Measurements against functions whose derivatives and jumps are known, and verdicts."""

from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from broken_models import (
    Averaging,
    DetachedPart,
    Nearest,
    Noisy,
    Oriented,
    Sound,
    WrongSign,
    loaded,
)
from systems import Springs, acetaldehyde, small_crystal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from forcedelta import ForceDelta, ForceDeltaError, LoadedModel, load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.verify import agreement, judge_behaviour
from forcedelta.verify.cost import cost
from forcedelta.verify.derivatives import gradient_error, stress_error
from forcedelta.verify.inspection import Inspection, Inspector
from forcedelta.verify.jumps import hidden_jump, neighbour_change
from forcedelta.verify.probe import Probe
from forcedelta.verify.rigid import rigid_parts

EXAMPLE = Path(__file__).parents[1] / "examples" / "acetylacetone.xyz"

pytestmark = pytest.mark.usefixtures("silent")


class Stretched(Springs):
    """E = sum 1/2 |r|^2, but F_c says -(1 + share) r."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = super().forward(*graph)
        return energy + self.share * (energy - energy.detach()), direct


class Steps(Sound):
    """The energy jumps by 1 meV where the first bond of acetaldehyde is 0.02 Å longer."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = self.network(*graph)
        longer = (graph[0][1] - graph[0][0]).norm() > acetaldehyde().get_distance(0, 1) + 0.02
        return energy + 1e-3 * longer, direct


def probe_of(module: torch.nn.Module, dtype: torch.dtype = torch.float64) -> Probe:
    return Probe(load_model(ForceDelta(module), dtype), dtype)


def some_atoms(count: int = 5, seed: int = 0) -> Atoms:
    positions = np.random.default_rng(seed).uniform(-2, 2, (count, 3))
    return Atoms(f"H{count}", positions)


@pytest.mark.parametrize("directions", [4, 60])
@pytest.mark.parametrize("fixed", [False, True])
def test_error_of_a_gradient_is_known(directions: int, fixed: bool) -> None:
    """Off by share r: with all coordinates the error is share times the RMS of a coordinate."""
    atoms = some_atoms(10)
    found = gradient_error(probe_of(Stretched(0.25)), atoms, fixed, directions)
    expected = 0.25 * np.sqrt(np.mean((atoms.positions - atoms.positions[0]) ** 2))
    assert found.complete == (directions == 60)
    if found.complete:
        assert found.error == pytest.approx(expected, rel=1e-6)
    assert found.relative == pytest.approx(0.25, rel=1e-6)
    assert found.uncertainty < 1e-6
    assert found.verdict(0.01) == "wrong"


def test_few_directions_estimate_the_error_of_all() -> None:
    atoms = some_atoms(10)
    probe = probe_of(Stretched(0.25))
    estimates = [gradient_error(probe, atoms, directions=6, seed=s).error ** 2 for s in range(40)]
    exact = gradient_error(probe, atoms, directions=60).error
    assert np.sqrt(np.mean(estimates)) == pytest.approx(exact, rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_right_gradients_are_right(dtype: torch.dtype) -> None:
    probe = Probe(loaded(Sound, dtype), dtype)
    found = gradient_error(probe, acetaldehyde(), directions=6)
    assert found.error <= 3 * found.uncertainty
    assert found.verdict(1e-6 if dtype == torch.float64 else 1e-2) == "right"


@pytest.mark.parametrize("seed", range(16))
def test_noise_is_not_taken_for_a_wrong_gradient(seed: int) -> None:
    """Nor for a right one: with 0.1 meV of noise a share of 1e-3 cannot be told."""
    probe = Probe(loaded(Noisy, torch.float64), torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = gradient_error(probe, acetaldehyde(), directions=6, seed=seed)
    assert found.uncertainty > 1e-4 * found.size
    assert found.error < 3 * found.uncertainty
    assert found.verdict(1e-6) == "hidden"


def test_gradient_where_neighbours_change_at_every_step() -> None:
    """A model of nearest neighbours has the right gradient in between."""
    probe = Probe(loaded(Nearest, torch.float64), torch.float64)
    for fixed in (False, True):
        assert gradient_error(probe, small_crystal(), fixed).verdict(1e-6) == "right"


def test_stress_where_neighbours_change_at_every_step() -> None:
    probe = Probe(loaded(Nearest, torch.float64), torch.float64)
    assert stress_error(probe, small_crystal()).verdict(1e-6) == "right"


def test_jump_is_found_with_its_size() -> None:
    probe = Probe(loaded(Steps, torch.float64), torch.float64)
    found = [hidden_jump(probe, acetaldehyde(), seed=seed) for seed in range(6)]
    sizes = [jump.energy for jump in found]
    assert max(sizes) == pytest.approx(1e-3, rel=1e-3)
    assert all(size < 1e-9 or size == pytest.approx(1e-3, rel=1e-3) for size in sizes)


def test_swap_of_neighbours_is_told_from_a_pair_at_the_cutoff() -> None:
    nearest = Probe(loaded(Nearest, torch.float64), torch.float64)
    swap = neighbour_change(nearest, acetaldehyde())
    assert swap is not None
    assert swap.swap
    assert swap.energy > 1e-5
    sound = Probe(loaded(Sound, torch.float64), torch.float64)
    crossing = neighbour_change(sound, acetaldehyde(), reach=5.0, apart=True)
    assert crossing is not None
    assert not crossing.swap
    assert crossing.pairs == 2
    assert crossing.energy < 1e-9


def test_no_neighbour_changes() -> None:
    probe = Probe(loaded(Sound, torch.float64), torch.float64)
    assert neighbour_change(probe, Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])) is None


def test_net_force_and_torque_by_hand() -> None:
    """F_c = -r about the first atom; F_nc = 0."""
    atoms = Atoms("H2", [[0, 0, 0], [2.0, 0, 0]])
    parts = rigid_parts(atoms, probe_of(Springs()).evaluate(atoms))
    assert parts.net_direct == 0
    assert parts.net_conservative == pytest.approx(2.0)
    assert parts.torque_conservative == pytest.approx(0.0)
    assert parts.force_delta == pytest.approx(2.0 / np.sqrt(6))
    assert parts.without_mean == pytest.approx(1.0 / np.sqrt(3))
    assert (
        rigid_parts(small_crystal(), probe_of(Springs()).evaluate(small_crystal())).torque_direct
        is None
    )


def test_size_of_a_broken_symmetry() -> None:
    probe = Probe(loaded(Oriented, torch.float64), torch.float64)
    found = agreement.rotation(probe, acetaldehyde())
    largest = np.abs(probe.evaluate(acetaldehyde()).direct_forces).max()
    assert 1e-4 * largest < found.direct < largest
    assert found.conservative < 1e-10


def test_frames_are_put_back() -> None:
    class Framed(Sound):
        frame_seed = 3

        def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
            energy, direct = self.network(*graph)
            return energy + 1e-3 * self.frame_seed, direct

    model = loaded(Framed, torch.float64)
    found = agreement.frame_noise(Probe(model, torch.float64), acetaldehyde(), seeds=4)
    assert found is not None
    assert found.energy == pytest.approx(4e-3)
    assert model.module.frame_seed == 3


class Products(TorchDispatchMode):
    """Counts matrix products, forwards and backwards."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return function(*args, **(kwargs or {}))


def test_cost_has_the_order_that_it_must_have() -> None:
    """Told by the matrix products that each way takes, not by the time of this machine."""
    probe = Probe(load_model("acac"), torch.float32)
    with Products() as products:
        library = ForceDeltaCalculator("acac")
        found = cost(probe, acetaldehyde(), library, clock=lambda: products.count)
    assert 1.5 < found.over_forward < 3.0
    assert found.calculator == found.exact
    assert found.over_library == 1.0


def inspect(kind: type[Sound], atoms: Atoms) -> Inspection:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for the model that draws random numbers
        inspector = Inspector(lambda dtype: loaded(kind, dtype), atoms, quick=True)
        for step in inspector.steps:
            inspector.run(step)
    return inspector.result()


@pytest.mark.parametrize(
    ("kind", "key", "level", "words"),
    [
        (DetachedPart, "gradient_rebuilt", "bad", "not the gradient of the energy"),
        (Oriented, "rotation", "caveat", "not rotation invariant"),
        (Noisy, "repetition", "caveat", "draws random numbers"),
        (Nearest, "neighbours", "caveat", "energy jumps"),
        (Averaging, "batch", "caveat", "no property of a structure"),
    ],
)
def test_what_is_wrong_is_said(kind: type[Sound], key: str, level: str, words: str) -> None:
    result = inspect(kind, acetaldehyde())
    finding = next(finding for finding in result.findings if finding.key == key)
    assert finding.level == level
    assert words in finding.why
    assert finding.why in result.reasons
    assert result.verdict == ("not usable" if level == "bad" else "usable with caveats")


def test_symmetric_structures_hide_nothing() -> None:
    """All forces vanish in the ideal crystal, also the wrong ones."""
    crystal = bulk("Si", cubic=True)
    assert inspect(DetachedPart, crystal).verdict == "not usable"
    assert (
        np.abs(
            Probe(loaded(Sound, torch.float64), torch.float64).evaluate(crystal).direct_forces
        ).max()
        < 1e-9
    )


def test_heads_that_are_one() -> None:
    class Same(Sound):
        def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                positions = graph[0].detach().requires_grad_()
                energy, _ = self.network(positions, *graph[1:])
                (gradient,) = torch.autograd.grad(energy.sum(), positions)
            return self.network(*graph)[0], -gradient

    result = inspect(Same, acetaldehyde())
    assert result.verdict == "not usable"
    assert "no direct forces of its own" in result.reasons[0]


def test_wrong_sign() -> None:
    class Against(torch.nn.Module):
        def __init__(self, model: LoadedModel) -> None:
            super().__init__()
            self.network = model.module

        def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
            energy, direct = self.network(*graph)
            return energy, -direct

    def load(dtype: torch.dtype) -> LoadedModel:
        model = load_model("acac", dtype)
        return replace(model, module=Against(model))

    inspector = Inspector(load, ase.io.read(EXAMPLE), quick=True)
    finding = inspector.run(inspector.steps[0])[0]
    assert finding.level == "bad"
    assert "wrong sign" in finding.why


def test_another_model_than_the_library_s() -> None:
    def load(dtype: torch.dtype) -> LoadedModel:
        name = str(dtype).removeprefix("torch.")
        calculator = ForceDeltaCalculator(loaded(Sound, dtype), dtype=name)  # type: ignore[arg-type]
        return replace(loaded(WrongSign, dtype), calculator=lambda: calculator)

    inspector = Inspector(load, acetaldehyde(), quick=True)
    found = {f.key: f for step in inspector.steps for f in inspector.run(step)}
    assert found["library"].level == "bad"
    assert found["cost"].numbers["over_library"] > 0


def test_model_that_runs_in_float32_only() -> None:
    def load(dtype: torch.dtype) -> LoadedModel:
        if dtype == torch.float64:
            raise ForceDeltaError("float32 only; choose it")
        return load_model("acac", dtype)

    inspector = Inspector(load, acetaldehyde(), quick=True)
    assert inspector.exact.dtype == torch.float32
    found = {f.key: f for step in inspector.steps for f in inspector.run(step)}
    assert found["gradient_rebuilt"].level == "ok"
    assert "precision" not in found


def test_the_library_draws_random_frames_of_its_own() -> None:
    """What they change is no difference of two models; more than that is."""
    noise = agreement.Change(energy=1e-3, direct=0.01, conservative=0.01, force_delta=1e-3)
    apart = agreement.Change(energy=1.3e-3, direct=0.01)
    assert judge_behaviour.library(apart, noise, size=1.0, atoms=21).level == "ok"
    assert judge_behaviour.library(apart, agreement.Change(), size=1.0, atoms=21).level == "bad"
    other = agreement.Change(energy=1e-3, direct=0.06)
    assert judge_behaviour.library(other, noise, size=1.0, atoms=21).level == "bad"
