"""fairchem-core 2: the process around, energies and forces, charges, limits of neighbours."""

import logging
import os
import random
from pathlib import Path
from typing import Any

import fairchem_checkpoints as checkpoints
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from fairchem_models import KINDS, evaluated, load, needs_library, radical, write_each

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.graph import Graphs
from forcedelta.models.fairchem.library import import_library


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_each(tmp_path_factory.mktemp("fairchem"))


# -- the process around --------------------------------------------------------------------------


@needs_library
@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_outside_of_the_model_changes(
    kind: str, dtype: torch.dtype, files: dict[str, Path]
) -> None:
    """Nothing is printed; log handlers and levels, numbers of all generators, kernels stay."""

    def state() -> list[Any]:
        return [
            list(logging.getLogger().handlers),
            list(logging.getLogger().filters),
            logging.getLogger().level,
            logging.getLogger("torch").level,
            logging.getLogger("torch._dynamo").level,
            torch._logging._internal.log_state.artifact_names.copy(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.random.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            random.getstate(),
            os.environ.copy(),
        ]

    before = state()
    model = load(files[kind], dtype)
    evaluated(model, radical())
    assert state() == before


@needs_library
def test_attention_kernels_of_the_user_stay(files: dict[str, Path]) -> None:
    model = load(files["allscaip"], torch.float32)
    flash, efficient = (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
    )
    torch.backends.cuda.enable_flash_sdp(not flash)
    torch.backends.cuda.enable_mem_efficient_sdp(not efficient)
    try:
        evaluated(model, radical())
        assert torch.backends.cuda.flash_sdp_enabled() != flash
        assert torch.backends.cuda.mem_efficient_sdp_enabled() != efficient
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)
        torch.backends.cuda.enable_mem_efficient_sdp(efficient)


# -- energies and forces -------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_same_in_both_precisions(kind: str, files: dict[str, Path]) -> None:
    single, double = load(files[kind], torch.float32), load(files[kind], torch.float64)
    assert single.weights_hash == double.weights_hash
    assert evaluated(double, radical())["conservative_forces"].dtype == torch.float64


@needs_library
def test_other_weights_have_another_hash(files: dict[str, Path], tmp_path: Path) -> None:
    other = checkpoints.write(tmp_path / "other.pt", *KINDS["esen"], seed=1)
    assert load(other).weights_hash != load(files["esen"]).weights_hash


@needs_library
@pytest.mark.parametrize("kind", KINDS)
def test_scales_and_references(kind: str, files: dict[str, Path]) -> None:
    """By hand: what the heads give, times the scale, plus the elements' references."""
    model, atoms = load(files[kind]), radical()
    raw: dict[str, Any] = {}
    module: Any = model.module
    module.network.register_forward_hook(lambda network, inputs, output: raw.update(output))
    found = evaluated(model, atoms)
    references = sum(checkpoints.reference_energy(number) for number in atoms.numbers)
    energy = raw["energy"]["energy"].item() * checkpoints.ENERGY_SCALE + references
    assert found["energy"].item() == pytest.approx(energy, abs=1e-9)
    forces = raw["forces"]["forces"].detach() * checkpoints.FORCE_SCALE
    torch.testing.assert_close(found["direct_forces"], forces, rtol=1e-12, atol=0)


@needs_library
def test_escaip_is_what_the_library_makes_of_it(files: dict[str, Path]) -> None:
    """fairchem's predict unit cannot load EScAIP, so that there is no calculator to compare with."""
    import_library()
    from fairchem.core.datasets.atomic_data import AtomicData
    from fairchem.core.units.mlip_unit.utils import load_inference_model

    atoms = radical()
    with torch.no_grad():
        averaged, checkpoint = load_inference_model(
            str(files["escaip"]),
            {"backbone": {"use_compile": False, "use_padding": False}},
            use_ema=True,
        )
        network = averaged.module.eval()
        network.setup_tasks(checkpoint.tasks_config)
        data = AtomicData.from_ase(atoms, task_name="omol")
        output = network(data)
    model = load(files["escaip"], torch.float32)
    assert model.calculator is None
    found = evaluated(model, atoms)
    forces = output["forces"]["forces"] * checkpoints.FORCE_SCALE
    torch.testing.assert_close(found["direct_forces"], forces, rtol=1e-4, atol=1e-5)
    energy = network.tasks["energy"].element_references.undo_refs(
        data, network.tasks["energy"].normalizer.denorm(output["energy"]["energy"])
    )
    assert found["energy"].item() == pytest.approx(energy.item(), abs=1e-4)


@needs_library
@pytest.mark.parametrize("kind", ["esen", "allscaip"])
def test_charge_and_spin_change_the_energy_and_are_required(
    kind: str, files: dict[str, Path]
) -> None:
    model = load(files[kind])
    neutral, cation, quartet = (
        evaluated(model, radical(charge, spin))["energy"].item()
        for charge, spin in ((0, 2), (1, 1), (0, 4))
    )
    assert len({round(neutral, 6), round(cation, 6), round(quartet, 6)}) == 3
    atoms = radical()
    del atoms.info["charge"]
    atoms.calc = ForceDeltaCalculator(model, dtype="float64")
    with pytest.raises(ForceDeltaError, match="needs the total charge and the spin"):
        atoms.get_forces()


@needs_library
@pytest.mark.parametrize(
    ("charge", "spin", "message"),
    [
        (101, 2, "a total charge is outside the range .* from -100 to 100"),
        (-101, 2, "a total charge is outside"),
        (0, 101, "a spin multiplicity is outside the range .* from 0 to 100"),
    ],
)
def test_charges_without_an_embedding(
    charge: int, spin: int, message: str, files: dict[str, Path]
) -> None:
    model = load(files["esen"])
    graph = Graphs(model, torch.float64, torch.device("cpu")).batch([radical()])
    state = torch.tensor([[charge, spin]], dtype=torch.float64)
    with pytest.raises(ForceDeltaError, match=message):
        ForceDelta(model.module)(*graph[:6], state)


@needs_library
def test_a_single_atom_is_refused(files: dict[str, Path]) -> None:
    atoms = Atoms("H", info={"charge": 0, "spin": 2})
    with pytest.raises(ForceDeltaError, match="a single atom without a cell"):
        evaluated(load(files["esen"]), atoms)


@needs_library
@pytest.mark.parametrize("direction", [[1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]])
def test_bonds_along_the_axes(direction: list[int], files: dict[str, Path]) -> None:
    """Frames of edges are singular there in other networks."""
    model = load(files["esen"])
    step = 1e-4

    def dimer(length: float) -> dict[str, Any]:
        atoms = Atoms("N2", [[0, 0, 0], np.array(direction) * length])
        atoms.info.update(charge=0, spin=1)
        return evaluated(model, atoms)

    slope = (dimer(1.1 + step)["energy"] - dimer(1.1 - step)["energy"]).item() / (2 * step)
    forces = dimer(1.1)["conservative_forces"]
    expected = torch.tensor(direction, dtype=torch.float64) * -slope
    torch.testing.assert_close(forces[1], expected, rtol=1e-6, atol=1e-8)


@needs_library
def test_random_numbers_of_a_thermostat_are_not_used_up(files: dict[str, Path]) -> None:
    model = load(files["esen"], torch.float32)
    first = evaluated(model, radical())
    torch.rand(5)
    again = evaluated(model, radical())
    assert all(torch.equal(first[key], again[key]) for key in first)


@needs_library
def test_the_nearest_neighbours_are_those_of_the_library(tmp_path: Path) -> None:
    config = checkpoints.esen("oc25", max_neighbors=10)
    model = load(checkpoints.write(tmp_path / "few.pt", config, "oc25"), torch.float32)
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.2, seed=3)
    graph = Graphs(model, torch.float32, torch.device("cpu")).batch([atoms])
    selected, _ = model.module.select(*graph[:1], *graph[2:])  # type: ignore[operator]
    counts = torch.bincount(selected[0])
    assert len(selected[0]) < 0.3 * graph[3].shape[1]
    assert counts.min() >= 11
    assert counts.max() < 20
    assert model.calculator is not None
    expected = atoms.copy()
    expected.calc = model.calculator()
    found = evaluated(model, atoms)
    assert found["energy"].item() == pytest.approx(expected.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(found["direct_forces"], expected.get_forces(), atol=1e-5)


@needs_library
def test_forces_and_stress_with_few_neighbours_are_derivatives(tmp_path: Path) -> None:
    """Steps that are too small for neighbours to swap."""
    config = checkpoints.esen("oc25", max_neighbors=10)
    model = load(checkpoints.write(tmp_path / "few.pt", config, "oc25"))
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.2, seed=3)
    graphs = Graphs(model, torch.float64, torch.device("cpu"))
    graph = graphs.batch([atoms])
    found = ForceDelta(model.module)(*graph, stress=True)
    generator = np.random.default_rng(0)

    def slope(directions: np.ndarray, strain: np.ndarray, step: float = 1e-5) -> float:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * step * directions
            moved.set_cell(atoms.cell.array @ (np.eye(3) + sign * step * strain), scale_atoms=True)
            energies.append(evaluated(model, moved)["energy"].item())
        return (energies[0] - energies[1]) / (2 * step)

    for _ in range(3):
        way = generator.normal(size=(4, 3))
        expected = -(found["conservative_forces"].numpy() * way).sum()
        assert slope(way, np.zeros((3, 3))) == pytest.approx(expected, abs=1e-7)
        strain = generator.normal(size=(3, 3))
        strain += strain.T
        expected = atoms.get_volume() * (found["stress"][0].numpy() * strain).sum()
        assert slope(np.zeros((4, 3)), strain) == pytest.approx(expected, abs=1e-6)


@needs_library
def test_elements(tmp_path: Path, files: dict[str, Path]) -> None:
    """OMol25: H to Bi. Else those with a reference energy, or an embedding where there is none."""
    assert load(files["esen"]).elements == frozenset(range(1, 84))
    tasks = [
        checkpoints.task("energy", "energy", "oc25"),
        checkpoints.task("forces", "forces", "oc25"),
    ]
    references = tasks[0]["element_references"]["element_references"]["_args_"][0]
    references[2] = references[10] = 1e-16  # as a fit leaves it
    config = checkpoints.esen("oc25")
    some = load(checkpoints.write(tmp_path / "some.pt", config, "oc25", tasks))
    assert some.elements == frozenset(range(1, 84)) - {2, 10}
    assert (some.periodic, some.takes_charge_spin) == (True, False)
    del tasks[0]["element_references"]
    free = load(checkpoints.write(tmp_path / "free.pt", config, "oc25", tasks))
    assert free.elements == frozenset(range(1, 100))
