"""Exported metatomic models of any kind: lists, units, variants, inputs, and what is refused."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from systems import acetaldehyde

from forcedelta import Evaluator, ForceDelta, ForceDeltaError, guarded_run, load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.calibration.signals import frame_signals
from forcedelta.graph import Graphs
from forcedelta.models import LoadedModel
from forcedelta.models.catalogue import LoadRequest
from forcedelta.models.metatomic import exported
from md_hooks import Trajectory

with warnings.catch_warnings():
    # metatomic is TorchScript, which torch deprecates
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
    pytest.importorskip("metatomic_ase", reason="needs metatomic")
    from metatomic.torch import ModelOutput
    from metatomic_ase import MetatomicCalculator
    from metatomic_pairs import save

pytestmark = [
    pytest.mark.usefixtures("silent"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

Save = Callable[..., Path]

SAME = 1e-12
DOUBLE = torch.float64
CPU = torch.device("cpu")
MIXED = ((4.0, True), (2.5, False), (1.6, True))  # direct forces are of the first
SEVERAL = ((2.5, False), (4.0, True), (1.6, True), (4.0, False), (3.1, False))


@pytest.fixture
def saved(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Save:
    """Exports a model; metatomic says on stderr what it thinks of odd units and older names."""

    def make(name: str = "pairs", **options: Any) -> Path:
        path = save(tmp_path / f"{name}.pt", **options)
        capfd.readouterr()
        return path

    return make


def crystal() -> Atoms:
    """Four copper atoms in a cell smaller than the largest cutoff, one of them outside of it."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.positions[1] += atoms.cell[0] - 2 * atoms.cell[2]
    return atoms


def slab() -> Atoms:
    atoms = crystal()
    atoms.pbc = [True, False, True]
    return atoms


def results(model: LoadedModel, structures: list[Atoms]) -> dict[str, torch.Tensor]:
    return ForceDelta(model.module)(*Graphs(model, DOUBLE, CPU).batch(structures), stress=True)


@pytest.mark.parametrize("make", [acetaldehyde, crystal, slab])
@pytest.mark.parametrize(
    "lists", [((4.0, True),), ((3.0, False),), SEVERAL], ids=["full", "half", "several"]
)
def test_lists_are_those_of_the_library(
    make: Callable[[], Atoms], lists: tuple[tuple[float, bool], ...], saved: Save
) -> None:
    """Full and half ones of several cutoffs, against neighbours of vesin."""
    path = saved(lists=lists)
    model = load_model(path, DOUBLE)
    assert model.cutoff == max(cutoff for cutoff, _ in lists)
    atoms = make()
    found = results(model, [atoms])
    atoms.calc = MetatomicCalculator(path)
    assert found["energy"][0] == pytest.approx(atoms.get_potential_energy(), rel=SAME)
    assert found["energy"][0] > 0.5
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 0.1
    assert np.abs(found["conservative_forces"].numpy() - forces).max() < SAME
    if atoms.pbc.all():
        assert np.abs(found["stress"][0].numpy() - atoms.get_stress(voigt=False)).max() < SAME


@pytest.mark.parametrize("make", [acetaldehyde, crystal])
def test_direct_forces_are_those_of_the_library(make: Callable[[], Atoms], saved: Save) -> None:
    """Which takes the net force off."""
    path = saved(lists=((2.5, True), (3.0, False)))
    atoms = make()
    found = results(load_model(path, DOUBLE), [atoms])["direct_forces"].numpy()
    atoms.calc = MetatomicCalculator(path, non_conservative="forces")
    assert np.abs(found - atoms.get_forces()).max() < SAME
    assert np.abs(found).max() > 0.01


def test_units_are_converted(saved: Save) -> None:
    """The same numbers said in nm and kJ/mol are another model; both are told in eV and Å."""
    atoms = crystal()
    plain = results(load_model(saved("a"), DOUBLE), [atoms])
    path = saved("b", lists=((0.3, True),), length="nm", energy="kJ/mol", force="kJ/mol/nm")
    model = load_model(path, DOUBLE)
    assert model.cutoff == pytest.approx(3.0)
    found = results(model, [atoms])
    kj = 0.01036427  # eV
    assert found["energy"][0] / plain["energy"][0] == pytest.approx(kj, rel=1e-6)
    for key, factor in (("conservative_forces", kj), ("direct_forces", kj / 100)):
        assert torch.allclose(found[key], plain[key] * factor, rtol=1e-6, atol=1e-12), key
    for key, how in (("conservative_forces", False), ("direct_forces", "forces")):
        atoms.calc = MetatomicCalculator(path, non_conservative=how)
        assert np.abs(found[key].numpy() - atoms.get_forces()).max() < SAME, key


def test_a_batch_is_its_structures_in_any_order(saved: Save) -> None:
    """Also with the atoms of several structures mixed, and a lone atom among them."""
    model = load_model(saved(lists=MIXED), DOUBLE)
    structures = [acetaldehyde(), crystal(), Atoms("O"), slab(), acetaldehyde(1)]
    together = results(model, structures)
    for key, value in together.items():
        alone = torch.cat([results(model, [atoms])[key] for atoms in structures])
        assert torch.allclose(value, alone, rtol=SAME, atol=SAME, equal_nan=True), key
    positions, numbers, cell, index, shift, batch = Graphs(model, DOUBLE, CPU).batch(structures)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    edges = torch.randperm(index.shape[1], generator=torch.Generator().manual_seed(1))
    mixed = ForceDelta(model.module)(
        positions[order],
        numbers[order],
        cell,
        torch.argsort(order)[index][:, edges],
        shift[edges],
        batch[order],
    )
    for key in ("energy", "force_delta"):
        assert torch.allclose(mixed[key], together[key], rtol=SAME, atol=SAME)
    for key in ("conservative_forces", "direct_forces"):
        assert torch.allclose(mixed[key], together[key][order], rtol=SAME, atol=SAME), key


def test_charge_and_spin(saved: Save) -> None:
    inputs = {
        "charge": ModelOutput(unit="e", sample_kind="system"),
        "spin_multiplicity": ModelOutput(unit="", sample_kind="system"),
    }
    path = saved(inputs=inputs)
    model = load_model(path, DOUBLE)
    assert model.takes_charge_spin
    structures = []
    for charge, spin in ((0, 1), (1, 2), (-2, 3)):
        atoms = acetaldehyde()
        atoms.info |= {"charge": charge, "spin": spin}
        structures.append(atoms)
    found = results(model, structures)
    for k, atoms in enumerate(structures):
        atoms.calc = MetatomicCalculator(path)
        assert found["energy"][k] == pytest.approx(atoms.get_potential_energy(), rel=SAME)
    assert len({round(float(energy), 6) for energy in found["energy"]}) == 3
    calculator = ForceDeltaCalculator(model, dtype="float64")
    with pytest.raises(ForceDeltaError, match="total charge and the spin multiplicity"):
        calculator.get_potential_energy(acetaldehyde())


def test_what_a_model_says_about_itself(saved: Save) -> None:
    model = load_model(saved(), DOUBLE)
    assert model.name == "pairs"
    assert model.symbols == ["H", "C", "O", "Cu"]
    assert model.library.startswith("metatomic-torch 0.1.")
    assert model.metadata["authors"] == ["A. Author"]
    assert model.metadata["references"] == {"model": ["a paper"]}
    again = load_model(saved("other_name"), DOUBLE)
    other = load_model(saved("other", energy="meV"), DOUBLE)
    assert again.weights_hash == model.weights_hash != other.weights_hash
    with pytest.raises(ForceDeltaError, match=r"use path='python'"):
        model.script()


@pytest.mark.parametrize(
    "outputs",
    [
        ("energy", "non_conservative_force"),
        ("energy/pbe", "non_conservative_force/pbe", "energy/r2scan"),
        ("energy", "non_conservative_forces"),
    ],
    ids=["plain", "variant", "older name"],
)
def test_names_of_outputs(outputs: tuple[str, ...], saved: Save) -> None:
    path = saved(outputs=outputs)
    model = load_model(path, DOUBLE)
    atoms = acetaldehyde()
    energy = results(model, [atoms])["energy"][0]
    plain = load_model(saved("plain"), DOUBLE)
    assert energy == results(plain, [atoms])["energy"][0]


def test_one_of_several_variants(saved: Save, capfd: pytest.CaptureFixture[str]) -> None:
    outputs = tuple(
        f"{name}/{kind}"
        for kind in ("pbe", "r2scan")
        for name in ("energy", "non_conservative_force")
    )
    path = saved(outputs=outputs)
    with pytest.raises(ForceDeltaError, match=r"'pbe', 'r2scan'\): choose one with .*variant="):
        load_model(path, DOUBLE)
    request = LoadRequest("pairs", path, None, DOUBLE, CPU)
    assert exported.load(request, "r2scan").metadata["outputs"]["energy"] == "energy/r2scan"
    with pytest.raises(ForceDeltaError, match="no variant 'scan'"):
        exported.load(request, "scan")
    capfd.readouterr()  # metatomic would like descriptions of the variants


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ("energy",)}, "no non-conservative forces"),
        ({"outputs": ("energy/a", "non_conservative_force")}, "no non-conservative forces"),
        ({"outputs": ("non_conservative_force",)}, "no output 'energy'"),
        ({"length": ""}, "the unit of length is ''"),
        ({"energy": ""}, "the unit of energy is ''"),
        ({"force": ""}, "the unit of non_conservative_force is ''"),
        (
            {"inputs": {"mass": ModelOutput(unit="u", sample_kind="atom")}},
            "needs 'mass' of the structure",
        ),
        (
            {"inputs": {"charge": ModelOutput(unit="e", sample_kind="atom")}},
            "needs 'charge' of the structure",
        ),
        ({"dtype": "float32"}, "exported for float32, but float64 was requested"),
        ({"devices": ("cuda",)}, "runs on 'cuda', but cpu was requested"),
        ({"lists": ()}, "requests no neighbour list"),
    ],
)
def test_models_that_are_refused(
    options: dict[str, Any], message: str, saved: Save, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(**options)
    with pytest.raises(ForceDeltaError, match=message) as caught:
        load_model(path, DOUBLE)
    assert str(path) in str(caught.value)
    capfd.readouterr()  # metatomic itself mentions missing units, too


def test_another_module_that_says_it_is_one(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    lists = {"metatomic-version": "0.1.19", "extensions": "[]", "extensions-deps": "[]"}
    extra = lists | {"model-metadata": "{}", "torch-version": torch.__version__}
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path), _extra_files=extra)
    with pytest.raises(ForceDeltaError, match="lacks the method capabilities"):
        load_model(path, DOUBLE)


def test_torch_compile_is_refused(saved: Save) -> None:
    with pytest.raises(ForceDeltaError, match="--compile"):
        load_model(saved(), DOUBLE, compile=True)


def test_a_truncated_file(saved: Save) -> None:
    path = saved()
    whole = path.read_bytes()
    for share in (0.3, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ForceDeltaError, match="not a complete file"):
            load_model(path, DOUBLE)


def test_a_missing_library_is_named(saved: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved()
    monkeypatch.setitem(sys.modules, "metatomic.torch", None)
    with pytest.raises(ForceDeltaError, match=r"pip install .*metatomic"):
        load_model(path, DOUBLE)


def test_elements_that_the_model_does_not_know(saved: Save) -> None:
    calculator = ForceDeltaCalculator(saved(), dtype="float64")
    with pytest.raises(ForceDeltaError, match="does not support N"):
        calculator.get_potential_energy(Atoms("N2", [[0, 0, 0], [1.1, 0, 0]]))


def test_check_prints_nothing_but_its_report(saved: Save, tmp_path: Path) -> None:
    """In a process of its own, where the library is imported for the first time."""
    acetaldehyde().write(tmp_path / "molecule.xyz")
    command = [str(Path(sys.executable).with_name("forcedelta")), "check"]
    files = [saved(dtype="float32"), tmp_path / "molecule.xyz"]
    done = subprocess.run(
        [*command, *files, "--quick", "--json"], capture_output=True, text=True, timeout=600
    )
    findings = {finding["key"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["library"]["level"] == "ok"
    assert findings["passes"]["level"] == "ok"


UNCERTAIN = ("energy", "energy_uncertainty", "non_conservative_force")


def test_an_uncertainty_of_the_energy_reaches_frames_and_files(saved: Save, tmp_path: Path) -> None:
    """The test model states its energy as the uncertainty, so that every value is known."""
    path = saved(outputs=UNCERTAIN, energy="meV")
    model = load_model(path, DOUBLE)
    structures = [acetaldehyde(0), crystal(), acetaldehyde(1)]
    found = results(model, structures)
    assert torch.equal(found["energy_uncertainty"], found["energy"])
    plain = load_model(saved("plain", energy="meV"), DOUBLE)
    for name, expected in results(plain, structures).items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0, equal_nan=True)
    evaluator = Evaluator(model, DOUBLE)
    exact = evaluator.evaluate(evaluator.graph_of(structures))
    direct = evaluator.forward(evaluator.graph_of(structures))
    assert [one.energy_uncertainty for one in exact] == [one.energy for one in exact]
    assert [one.energy_uncertainty for one in direct] == pytest.approx(
        [one.energy for one in exact]
    )
    out = tmp_path / "run.h5"
    guarded_run(
        structures[0], model, 4, out=out, temperature=10, every=2, dtype="float64", record_every=1
    )
    recorded = Trajectory(out)
    series = recorded.series
    assert np.allclose(series["energy_uncertainty"], series["potential_energy"], rtol=1e-12)
    frame = next(iter(recorded.frames()))
    assert frame.extra["energy_uncertainty"] == frame.energy
    signals = frame_signals(frame)
    assert signals is not None
    assert signals["energy_uncertainty"] == frame.energy / len(structures[0])


@pytest.mark.parametrize("variant", ["", "/pbe"])
def test_the_uncertainty_belongs_to_the_energy(variant: str, saved: Save) -> None:
    """That of another variant is another model's."""
    outputs = (f"energy{variant}", f"non_conservative_force{variant}", "energy_uncertainty/other")
    model = load_model(saved(outputs=outputs), DOUBLE)
    assert set(results(model, [acetaldehyde()])) == set(
        results(load_model(saved("plain"), DOUBLE), [acetaldehyde()])
    )
    own = (*outputs[:2], f"energy_uncertainty{variant}")
    assert "energy_uncertainty" in results(
        load_model(saved("own", outputs=own), DOUBLE), [acetaldehyde()]
    )
