"""EquiformerV2 against the library: its graph, its energies and forces; batches; dtypes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from eqv2_files import write_checkpoint
from systems import acetaldehyde, graph_of, small_crystal

from forcedelta import ForceDelta
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.models.eqv2.catalogue import FAMILY
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.registry import load_model

if FAMILY.problem():
    pytest.skip(f"EquiformerV2: {FAMILY.problem()}", allow_module_level=True)

FLOAT32 = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eqv2")
    write_checkpoint(path / "small.pt")
    write_checkpoint(path / "dens.pt", denoising=True, seed=1)
    return path


@pytest.fixture(scope="module", params=["small", "dens"])
def model(request: pytest.FixtureRequest, folder: Path) -> LoadedModel:
    return load_model(folder / f"{request.param}.pt", torch.float32, architecture="eqV2")


@pytest.fixture(scope="module")
def double(folder: Path) -> LoadedModel:
    return load_model(folder / "small.pt", torch.float64, architecture="eqV2")


def crystal() -> Atoms:
    """With the first atom at the origin and all within the cell, where the library puts them."""
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.positions -= atoms.positions[0]
    atoms.wrap(eps=0)
    return atoms


def tiny_crystal() -> Atoms:
    atoms = small_crystal()
    atoms.positions -= atoms.positions[0]
    atoms.wrap(eps=0)
    return atoms


def molecule_at_origin() -> Atoms:
    atoms = acetaldehyde()
    atoms.positions -= atoms.positions[0]
    return atoms


STRUCTURES = [molecule_at_origin, crystal, tiny_crystal]


@pytest.mark.parametrize("make", STRUCTURES)
def test_forces_are_the_librarys_to_the_last_bit(
    model: LoadedModel, make: Callable[[], Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same random numbers, and with the graph that the library makes itself."""
    atoms = make()
    atoms.calc = model.calculator()
    # torch rounds otherwise when it records what weights do, as the library lets it
    atoms.calc.network.requires_grad_(False)
    monkeypatch.setattr(model.module.frames, "tilt", torch.eye(3))
    with torch.random.fork_rng():
        torch.manual_seed(model.module.frame_seed)
        energy = atoms.get_potential_energy()
    result = ForceDelta(model.module)(*graph_of([atoms], torch.float32, model.cutoff))
    assert np.array_equal(result["direct_forces"].numpy(), atoms.get_forces())
    assert abs(float(result["energy"]) - energy) < 1e-6 * abs(energy)  # its sum is float32
    assert np.abs(atoms.get_forces()).max() > 0.01


def test_calculator_agrees_with_the_librarys(model: LoadedModel) -> None:
    """Anywhere in space, from other random frames: but for the noise of these."""
    atoms = crystal()
    atoms.positions += [7.3, -40.0, 11.1]
    ours, theirs = atoms.copy(), atoms.copy()
    ours.calc, theirs.calc = ForceDeltaCalculator(model), model.calculator()
    assert abs(ours.get_potential_energy() - theirs.get_potential_energy()) < 5e-3
    scale = np.abs(theirs.get_forces()).max()
    assert np.abs(ours.get_forces() - theirs.get_forces()).max() < 0.05 * scale


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("neighbours", [3, 20])
@pytest.mark.parametrize("make", STRUCTURES)
def test_edges_are_those_of_the_library(
    folder: Path, tmp_path: Path, make: Callable[[], Atoms], neighbours: int, strict: bool
) -> None:
    from fairchem.core.common.utils import radius_graph_pbc
    from fairchem.core.datasets import data_list_collater
    from fairchem.core.preprocessing import AtomsToGraphs

    atoms = make()
    model = load_model(folder / "small.pt", torch.float32, architecture="eqV2")
    model.module.neighbours, model.module.strict = neighbours, strict
    graph = graph_of([atoms], torch.float32, model.cutoff)
    index, shift = model.module.select(graph[0], *graph[2:])
    convert = AtomsToGraphs(r_energy=False, r_forces=False, r_edges=False, r_pbc=True).convert
    batch = data_list_collater([convert(atoms)], otf_graph=True)
    expected, offsets, _ = radius_graph_pbc(batch, model.cutoff, neighbours, strict)
    assert torch.equal(index.flip(0), expected)
    assert torch.equal(shift, offsets)
    assert model.module.select(graph[0], graph[2], index, shift, graph[5])[0].equal(index)
    if atoms.pbc.all():
        assert index.shape[1] < graph[3].shape[1]


def test_batch_equals_single_structures(double: LoadedModel) -> None:
    """But for the noise of the frames, which edges draw in their order."""
    structures = [acetaldehyde(1), crystal(), Atoms("O", [[1.0, 2, 3]]), small_crystal()]
    force_delta = ForceDelta(double.module)
    together = force_delta(*graph_of(structures, cutoff=double.cutoff), stress=True)
    alone = [
        force_delta(*graph_of([atoms], cutoff=double.cutoff), stress=True) for atoms in structures
    ]
    first = alone[0]  # the first structure draws the same numbers in both
    for key in ("direct_forces", "conservative_forces"):
        assert (together[key][:7] - first[key]).abs().max() < 1e-12, key
        expected = torch.cat([result[key] for result in alone])
        assert (together[key] - expected).abs().max() < 0.05 * expected.abs().max(), key
    energies = torch.cat([result["energy"] for result in alone])
    assert (together["energy"] - energies).abs().max() < 5e-3
    assert torch.isnan(together["stress"][[0, 2]]).all()
    assert torch.isfinite(together["stress"][[1, 3]]).all()


def test_an_atom_alone(double: LoadedModel) -> None:
    """No edges: the library itself fails here."""
    result = ForceDelta(double.module)(*graph_of([Atoms("O")], cutoff=double.cutoff))
    assert torch.isfinite(result["energy"]).all()
    assert float(result["conservative_forces"].abs().max()) == 0
    assert float(result["direct_forces"].abs().max()) < 1e-12


def test_translation_and_permutation(double: LoadedModel) -> None:
    """Bit by bit up to float64 where the edges keep their order, else but for the noise."""
    atoms = acetaldehyde()
    expected = ForceDelta(double.module)(*graph_of([atoms], cutoff=double.cutoff))
    moved = atoms.copy()
    moved.positions += [3.0, -40.0, 7.0]
    result = ForceDelta(double.module)(*graph_of([moved], cutoff=double.cutoff))
    for key in expected:
        assert torch.allclose(result[key], expected[key], atol=1e-9), key
    order = np.random.default_rng(0).permutation(len(atoms))
    result = ForceDelta(double.module)(*graph_of([atoms[order]], cutoff=double.cutoff))
    scale = float(expected["direct_forces"].abs().max())
    difference = result["direct_forces"] - expected["direct_forces"][order]
    assert float(difference.abs().max()) < 0.05 * scale


def test_float32_agrees_with_float64(folder: Path, double: LoadedModel) -> None:
    """With frames from numbers of one dtype: their sequences differ, so the noise is let in."""
    single = load_model(folder / "small.pt", torch.float32, architecture="eqV2")
    low = ForceDelta(single.module)(*graph_of([crystal()], torch.float32, single.cutoff))
    high = ForceDelta(double.module)(*graph_of([crystal()], cutoff=double.cutoff))
    assert low["energy"].dtype == high["energy"].dtype == torch.float64
    assert abs(float(low["energy"] - high["energy"])) < 5e-3
    for key in ("direct_forces", "conservative_forces"):
        assert low[key].dtype == torch.float32
        assert (low[key] - high[key]).abs().max() < 0.05 * high[key].abs().max(), key


def test_the_state_of_torch_is_left_alone(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    before = torch.get_default_dtype(), torch.is_grad_enabled()
    model = load_model(folder / "small.pt", torch.float64, architecture="eqV2")
    ForceDelta(model.module)(*graph_of([molecule("CO2")], cutoff=model.cutoff))
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.usefixtures("silent")
def test_nothing_is_printed(folder: Path) -> None:
    model = load_model(folder / "small.pt", torch.float32, architecture="eqV2")
    ForceDelta(model.module)(*graph_of([molecule("CO2")], torch.float32, model.cutoff))


def test_stress_head_of_the_library_runs_with_the_lent_scatter() -> None:
    """Only the comparison calls it; what it takes from torch_scatter is torch_geometric's."""
    import sys

    assert "torch_scatter" not in sys.modules
    from fairchem.core.models.equiformer_v2.heads import rank2

    source = torch.arange(12.0).reshape(4, 3)
    index = torch.tensor([0, 1, 1, 0])
    assert torch.equal(
        rank2.scatter(source, index, dim=0, reduce="mean"),
        torch.stack([(source[0] + source[3]) / 2, (source[1] + source[2]) / 2]),
    )
    assert torch.equal(
        rank2.scatter(source.T, index, reduce="sum"),
        torch.stack([source[0] + source[3], source[1] + source[2]], 1),
    )
