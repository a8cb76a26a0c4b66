"""The exported module, called as TorchForce calls it, against the model in Python."""

import json

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from simulations import MorsePairs, cluster, crystal, loaded, triclinic

from forcedelta import ForceDelta, ForceDeltaError, load_model
from forcedelta.models.network import DirectForceNetwork
from forcedelta.openmm.evaluator import RememberingEvaluator
from forcedelta.openmm.export import AHEAD, DESCRIPTION, FULL, OTHER, PLAIN, export
from forcedelta.openmm.force import add_force_delta
from forcedelta.openmm.units import EV, EV_PER_ANGSTROM

pytestmark = [
    # torch deprecates TorchScript, which TorchForce is made for
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]


def network() -> DirectForceNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = DirectForceNetwork([14], 4.0, features=16, channels=4, layers=2)
    return made.double().requires_grad_(False).eval()


def exported(tmp_path, model, dtype="float64"):
    path = tmp_path / "model.pt"
    export(model, path, dtype=dtype)
    return torch.jit.load(str(path))


def outside() -> object:
    """A crystal with atoms several cells away from where they were."""
    atoms = triclinic()
    atoms.positions[3] += 2 * atoms.cell[0] - 3 * atoms.cell[2]
    atoms.positions[5] -= 4 * atoms.cell[1]
    return atoms


def flown() -> object:
    """A cluster with an atom that has flown off."""
    atoms = cluster()
    atoms.positions[2] += 500.0
    return atoms


def call(module, atoms, request):
    arguments = [torch.tensor(atoms.positions / 10)]
    if atoms.pbc.all():
        arguments.append(torch.tensor(atoms.cell.array / 10))
    energy, forces = module(*arguments, torch.tensor(request))
    return float(energy), forces.numpy()


@pytest.mark.parametrize("model", ["network", "pairs"])
@pytest.mark.parametrize("make", [cluster, crystal, triclinic, outside, flown])
def test_the_module_is_the_model(make, model, tmp_path):
    atoms = make()
    reference = ForceDelta(network()) if model == "network" else loaded(MorsePairs())
    module = exported(tmp_path, reference)
    count = len(atoms)
    module.bind(torch.arange(count), torch.tensor(atoms.numbers), False)
    evaluator = RememberingEvaluator(
        load_model(reference, torch.float64), atoms.numbers, bool(atoms.pbc.all()), "direct",
        torch.float64, torch.device("cpu"),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(6):
        box = atoms.cell.array / 10 if atoms.pbc.all() else None
        expected = evaluator.evaluate(atoms.positions / 10, box, True)
        energy, direct = call(module, atoms, FULL)
        assert energy == pytest.approx(expected.energy * EV, rel=1e-12)
        np.testing.assert_allclose(direct / EV_PER_ANGSTROM, expected.direct_forces, atol=1e-11)
        evaluations, other = call(module, atoms, OTHER)
        np.testing.assert_allclose(
            other / EV_PER_ANGSTROM, expected.conservative_forces, atol=1e-11
        )
        assert evaluations == evaluator.evaluations
        atoms.positions += rng.normal(scale=0.1, size=(count, 3))


def test_a_box_that_changes(tmp_path):
    atoms = crystal()
    module = exported(tmp_path, loaded(MorsePairs()))
    module.bind(torch.arange(8), torch.tensor(atoms.numbers), False)
    evaluator = RememberingEvaluator(
        loaded(), atoms.numbers, True, "direct", torch.float64, torch.device("cpu")
    )
    for factor in (1.0, 0.99, 1.2, 0.8):
        atoms.set_cell(atoms.cell * factor, scale_atoms=True)
        expected = evaluator.evaluate(atoms.positions / 10, atoms.cell.array / 10, False)
        assert call(module, atoms, PLAIN)[0] == pytest.approx(expected.energy * EV, rel=1e-12)


def test_what_is_remembered_is_not_evaluated_again(tmp_path):
    module = exported(tmp_path, loaded(MorsePairs()))
    one, two = crystal(), crystal()
    two.rattle(0.01, seed=9)
    module.bind(torch.arange(8), torch.tensor(one.numbers), False)

    def evaluations() -> int:
        return round(call(module, one, OTHER)[0])

    for atoms, request, expected in [
        (one, PLAIN, 1), (one, PLAIN, 1), (one, AHEAD, 1), (one, FULL, 2), (one, PLAIN, 2),
        (two, AHEAD, 3), (two, FULL, 3), (one, FULL, 3), (two, PLAIN, 3),
    ]:  # fmt: skip
        call(module, atoms, request)
        assert evaluations() == expected


def test_conservative_forces_drive(tmp_path):
    atoms = crystal()
    module = exported(tmp_path, loaded(MorsePairs()))
    module.bind(torch.arange(8), torch.tensor(atoms.numbers), False)
    _, direct = call(module, atoms, FULL)
    _, conservative = call(module, atoms, OTHER)
    module.bind(torch.arange(8), torch.tensor(atoms.numbers), True)
    np.testing.assert_allclose(call(module, atoms, PLAIN)[1], conservative, rtol=1e-12)
    np.testing.assert_allclose(call(module, atoms, OTHER)[1], direct, rtol=1e-12)


def test_a_part_of_the_particles(tmp_path):
    atoms = cluster()
    module = exported(tmp_path, loaded(MorsePairs()))
    chosen = [5, 0, 2]
    module.bind(torch.tensor(chosen), torch.tensor(atoms.numbers[chosen]), False)
    _, forces = call(module, atoms, PLAIN)
    assert set(np.flatnonzero(np.abs(forces).sum(axis=1))) == set(chosen)


def test_nan_in_nan_out(tmp_path):
    module = exported(tmp_path, loaded(MorsePairs()))
    atoms = cluster()
    module.bind(torch.arange(8), torch.tensor(atoms.numbers), False)
    atoms.positions[3, 1] = np.nan
    energy, forces = call(module, atoms, FULL)
    assert np.isnan(energy)
    assert np.isnan(forces).all()


def test_what_cannot_be_exported(tmp_path):
    class Unscriptable(MorsePairs):
        def forward(self, *arguments):
            return super().forward(*arguments)

    with pytest.raises(ForceDeltaError, match=r"TorchScript does not accept .* path='python'"):
        export(loaded(Unscriptable()), tmp_path / "no.pt", dtype="float64")
    with pytest.raises(ForceDeltaError, match="cannot be written"):
        export(loaded(MorsePairs()), tmp_path / "no" / "no.pt", dtype="float64")
    assert not list(tmp_path.iterdir())


def test_the_file_says_what_it_is(tmp_path):
    facts = export(loaded(MorsePairs()), tmp_path / "model.pt", dtype="float64")
    extra = {DESCRIPTION: ""}
    torch.jit.load(str(tmp_path / "model.pt"), _extra_files=extra)
    assert json.loads(extra[DESCRIPTION]) == facts
    assert facts["name"] == "morse-pairs"
    assert facts["elements"] == [1, 6, 14]


def test_the_path_without_openmmtorch(tmp_path):
    try:
        import openmmtorch  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("openmmtorch is there")
    with pytest.raises(ForceDeltaError, match=r"separate environment, pip install .*torch"):
        add_force_delta(openmm.System(), "model.pt", [14], path="torchscript")
