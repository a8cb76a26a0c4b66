"""TorchScript files as models: ours are loaded, others are told apart and refused with words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from systems import CUTOFF, acetaldehyde, graph_of, small_crystal, small_network
from torch import Tensor, nn

from forcedelta import ForceDelta, ForceDeltaError, load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.models.torchscript import DESCRIPTION
from forcedelta.openmm.export import export

pytestmark = [
    pytest.mark.usefixtures("silent"),
    # torch deprecates TorchScript
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

DOUBLE = torch.float64
GIVEN = {"cutoff": CUTOFF, "dtype": "float64", "elements": ["H", "C", "O", "Si"]}
Write = Callable[..., Path]


def scripted() -> Any:
    return torch.jit.script(small_network().eval())


def frozen() -> Any:
    return torch.jit.freeze(scripted())


class Attraction(nn.Module):
    """Without branches, so that it can be traced; direct forces of its own."""

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        i, j = edge_index[0], edge_index[1]
        offset = torch.bmm(edge_shift[:, None], cell[batch[i]])[:, 0]
        vectors = positions[j] - positions[i] + offset
        each = torch.exp(-(vectors**2).sum(1)) * numbers[i] * numbers[j]
        energy = torch.zeros_like(cell[:, 0, 0]).index_add(0, batch[i], each)
        pull = torch.zeros_like(positions).index_add(0, i, 8 * each[:, None] * vectors)
        return energy, -pull


def traced() -> Any:
    return torch.jit.trace(Attraction().eval(), graph_of([acetaldehyde()]))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(module: Any = None, facts: Any = GIVEN, name: str = DESCRIPTION) -> Path:
        path = tmp_path / "model.pt"
        extra = {name: facts if isinstance(facts, str) else json.dumps(facts)}
        torch.jit.save(module or scripted(), str(path), _extra_files=extra)
        return path

    return make


@pytest.mark.parametrize("make", [scripted, frozen, traced])
def test_it_is_the_model_in_it(make: Callable[[], Any], write: Write) -> None:
    """For other numbers of atoms, pairs and structures than it was traced with, too."""
    path = write(make(), {**GIVEN, "licence": "MIT"})
    model = load_model(path, DOUBLE)
    assert (model.name, model.cutoff, model.periodic) == ("model", CUTOFF, None)
    assert model.symbols == ["H", "C", "O", "Si"]
    assert model.metadata == {"licence": "MIT"}
    assert model.stress
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    original = Attraction() if make is traced else small_network()
    expected, found = ForceDelta(original), ForceDelta(model.module)
    for structures in ([acetaldehyde(1)], [small_crystal()], [small_crystal(1), acetaldehyde()]):
        graph = graph_of(structures)
        results = [found(*graph, stress=True) for _ in range(4)]
        for key, value in expected(*graph, stress=True).items():
            assert torch.allclose(results[0][key], value, rtol=1e-10, atol=1e-10, equal_nan=True)
            assert all(
                torch.allclose(result[key], results[0][key], rtol=0, atol=0, equal_nan=True)
                for result in results
            ), key


def test_with_ase_and_once_more_as_torchscript(write: Write, tmp_path: Path) -> None:
    path = write()
    atoms = acetaldehyde()
    atoms.calc = ForceDeltaCalculator(path, dtype="float64")
    energy = atoms.get_potential_energy()
    assert atoms.calc.model_info["weights_hash"] == load_model(path, DOUBLE).weights_hash
    export(path, tmp_path / "openmm.pt", dtype="float64")
    with pytest.raises(ForceDeltaError, match=r"written by 'forcedelta export' for OpenMM"):
        load_model(tmp_path / "openmm.pt", DOUBLE)
    assert energy == pytest.approx(small_network()(*graph_of([atoms]))[0].item(), rel=1e-10)


def test_elements_and_periodicity_of_the_facts(write: Write) -> None:
    calculator = ForceDeltaCalculator(write(facts={**GIVEN, "periodic": False}), dtype="float64")
    with pytest.raises(ForceDeltaError, match="does not support N"):
        calculator.get_potential_energy(Atoms("N2", [[0, 0, 0], [1.1, 0, 0]]))
    with pytest.raises(ForceDeltaError, match="made for molecules"):
        calculator.get_potential_energy(small_crystal())
    model = load_model(write(facts={"cutoff": 3, "dtype": "float64", "stress": False}), DOUBLE)
    assert model.elements is None
    assert not model.stress


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("{", "is not readable JSON"),
        ([3.0], "an object"),
        ({"dtype": "float64"}, "the cutoff in Å, not None"),
        ({**GIVEN, "cutoff": "5"}, "the cutoff in Å, not '5'"),
        ({**GIVEN, "cutoff": True}, "the cutoff in Å"),
        ({**GIVEN, "cutoff": 0}, "a positive cutoff"),
        ('{"cutoff": NaN, "dtype": "float64"}', "a positive cutoff"),
        ({"cutoff": 3.0}, "the dtype 'float32' or 'float64', not None"),
        ({**GIVEN, "dtype": "float32"}, "computes in float32, but float64 was requested"),
        ({**GIVEN, "elements": [1, 6]}, "element symbols"),
        ({**GIVEN, "elements": ["Xx"]}, "element symbols"),
        ({**GIVEN, "elements": []}, "element symbols"),
        ({**GIVEN, "periodic": "yes"}, "periodic as true or false"),
        ({**GIVEN, "stress": 1}, "stress as true or false"),
    ],
)
def test_facts_that_are_refused(facts: Any, message: str, write: Write) -> None:
    path = write(facts=facts)
    with pytest.raises(ForceDeltaError, match=message) as caught:
        load_model(path, DOUBLE)
    assert str(path) in str(caught.value)


class Other(nn.Module):
    def forward(self, positions: Tensor, numbers: Tensor) -> Tensor:
        return positions * numbers[:, None]


def test_files_that_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ForceDeltaError, match=r"takes \(Tensor, Tensor\) and returns Tensor"):
        load_model(write(torch.jit.script(Other())), DOUBLE)
    with pytest.raises(
        ForceDeltaError, match=r"is TorchScript without a description: .*model\.json"
    ):
        load_model(write(name="another.json"), DOUBLE)
    with pytest.raises(ForceDeltaError, match="--compile"):
        load_model(write(), DOUBLE, compile=True)
    path = write()
    whole = path.read_bytes()
    for share in (0.3, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ForceDeltaError, match="not a complete file"):
            load_model(path, DOUBLE)


def test_an_energy_without_a_way_back_is_found_out(write: Write) -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small_network()

        def forward(
            self,
            positions: Tensor,
            numbers: Tensor,
            cell: Tensor,
            edge_index: Tensor,
            edge_shift: Tensor,
            batch: Tensor,
        ) -> tuple[Tensor, Tensor]:
            return self.network(positions.detach(), numbers, cell, edge_index, edge_shift, batch)

    model = load_model(write(torch.jit.script(Cut().eval())), DOUBLE)
    with pytest.raises(ForceDeltaError, match="no conservative forces"):
        ForceDelta(model.module)(*graph_of([acetaldehyde()]))
