"""Damaged and malicious model files: one line each, never a traceback, a hang or another model."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from systems import CUTOFF, acetaldehyde, graph_of, small_network
from torch import Tensor, nn

from forcedelta import ForceDelta, ForceDeltaError, LoadedModel, load_model
from forcedelta.models.files import save_network
from forcedelta.models.hashing import hash_of_tensors
from forcedelta.models.registry import embedded_models
from forcedelta.models.torchscript import DESCRIPTION

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

METADATA = {
    "name": "toy", "training_set": "none", "source": "none", "level_of_theory": "none",
    "periodic": None, "regime": "untrained", "tests": {}, "licence": "MIT",
}  # fmt: skip
LONG = "9" * 5000
DEEP = "[" * 100_000
Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Tensor]], None]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "toy.safetensors"
    save_network(path, small_network(torch.float32), METADATA)
    return path


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    facts = {DESCRIPTION: json.dumps({"cutoff": CUTOFF, "dtype": "float32"})}
    torch.jit.save(torch.jit.script(small_network(torch.float32).eval()), path, _extra_files=facts)
    return path


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ForceDeltaError) as caught:
        load_model(path, **options)
    text = str(caught.value)
    assert str(path) in text
    assert len(text) < 1000
    return text


def damages(content: bytes, seed: int, count: int) -> list[bytes]:
    """Flipped bytes anywhere and in the first and last kB, runs of zeros, and cut ends."""
    random = np.random.default_rng(seed)
    made = []
    for k in range(count):
        damaged = bytearray(content)
        kind = k % 4
        reach = len(content) if kind in (0, 3) else min(1024, len(content))
        place = int(random.integers(reach))
        place = len(content) - 1 - place if kind == 2 else place
        if kind == 3:
            damaged = (
                damaged[:place]
                if k % 8 == 3
                else damaged[:place] + bytes(100) + damaged[place + 100 :]
            )
        else:
            damaged[place] ^= int(random.integers(1, 256))
        made.append(bytes(damaged))
    return made


def test_damaged_weights_never_pass(network: Path) -> None:
    """As the file has a checksum: another file is refused, or holds the same weights."""
    content, whole = network.read_bytes(), load_model(network).weights_hash
    refusals = 0
    for damaged in damages(content, seed=0, count=200):
        network.write_bytes(damaged)
        try:
            assert load_model(network).weights_hash == whole
        except ForceDeltaError:
            refusals += 1
    assert refusals > 180


@pytest.mark.parametrize("name", sorted(embedded_models()))
def test_embedded_weights_are_those_that_were_written(name: str, tmp_path: Path) -> None:
    content = embedded_models()[name].read_bytes()
    path = tmp_path / "copy.safetensors"
    size = struct.unpack("<Q", content[:8])[0] + 8
    for damaged in damages(content[size:], seed=1, count=8):
        path.write_bytes(content[:size] + damaged)
        refused(path)


def test_damaged_torchscript(scripted: Path) -> None:
    """The archive has checksums of its own; what they do not cover changes no result."""
    refusals = 0
    content = scripted.read_bytes()
    graph = graph_of([acetaldehyde()], torch.float32)
    expected = ForceDelta(load_model(scripted).module)(*graph)["energy"]
    for damaged in damages(content, seed=2, count=120):
        scripted.write_bytes(damaged)
        try:
            found = ForceDelta(load_model(scripted).module)(*graph)["energy"]
        except ForceDeltaError:
            refusals += 1
        else:
            assert torch.equal(found, expected)
    assert refusals > 60


def rewrite(path: Path, change: Change) -> None:
    """The file with another header or other tensors, and the checksum that goes with them."""
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    given, metadata = json.loads(header["hyperparameters"]), json.loads(header["metadata"])
    change(given, metadata, tensors)
    stated = given.pop("text", None) or json.dumps(given)
    told = metadata.pop("text", None) or json.dumps(metadata)
    checksum = hash_of_tensors(tensors, stated)
    header = {"hyperparameters": stated, "metadata": told, "checksum": checksum}
    path.write_bytes(save(tensors, header))


def given(**values: Any) -> Change:
    return lambda hyperparameters, metadata, tensors: hyperparameters.update(values)


def told(**values: Any) -> Change:
    return lambda hyperparameters, metadata, tensors: metadata.update(values)


def tensor(key: str, value: Any) -> Change:
    def change(hyperparameters: Any, metadata: Any, tensors: dict[str, Tensor]) -> None:
        tensors[key] = value(tensors[key])

    return change


HEADERS: dict[str, tuple[Change, str]] = {
    "deep metadata": (told(text=DEEP), "nested too deeply"),
    "a long number in the metadata": (told(text=f'{{"name": {LONG}}}'), "not readable JSON"),
    "metadata that are a list": (told(text="[1]"), "an object"),
    "deep hyperparameters": (given(text=DEEP), "nested too deeply"),
    "a long number": (given(text=f'{{"features": {LONG}}}'), "not readable JSON"),
    "no hyperparameters": (given(text="{}"), "do not match the hyperparameters"),
    "unknown ones": (given(colour="red"), "do not match the hyperparameters"),
    "a huge network": (given(features=10**9), "do not match the hyperparameters"),
    "a number beyond all": (given(layers=10**300), "do not match the hyperparameters"),
    "many layers": (given(layers=10**9), "do not match the hyperparameters"),
    "many more layers": (given(force_layers=10**9, tensors=1), "do not match the hyperparameters"),
    "no layers": (given(layers=0), "whole number"),
    "text": (given(features="64"), "whole number"),
    "truth": (given(layers=True), "whole number"),
    "no elements": (given(elements=[]), "atomic numbers"),
    "elements that do not exist": (given(elements=[1, 119]), "atomic numbers"),
    "an element twice": (given(elements=[1, 1, 6, 8]), "atomic numbers"),
    "other elements": (given(elements=[1, 6, 7, 14]), "differ in elements or cutoff"),
    "another cutoff": (given(cutoff=4.75), "differ in elements or cutoff"),
    "a cutoff of 1e9": (given(cutoff=1e9), "a cutoff from"),
    "a cutoff of 1e-9": (given(cutoff=1e-9), "a cutoff from"),
    "a cutoff of NaN": (given(cutoff=float("nan")), "a positive cutoff"),
    "a negative cutoff": (given(cutoff=-1), "a positive cutoff"),
    "a cutoff in words": (told(cutoff="5"), "the cutoff in Å"),
    "symbols that do not exist": (told(elements=["H", "Qq"]), "element symbols"),
    "periodic in words": (told(periodic="yes"), "periodic as true or false"),
    "a level that is no text": (told(level_of_theory={"a": 1}), "level_of_theory as text"),
    "NaN": (tensor("energy_scale", lambda value: value * float("nan")), "not finite"),
    "integers": (tensor("energy_scale", lambda value: value.to(torch.int8)), "int8"),
    "complex numbers": (tensor("energy_scale", lambda value: value.to(torch.complex64)), "complex64"),
    "another shape": (tensor("embedding.weight", lambda value: value[:2]), "has the shape"),
    "another shape within": (tensor("force_head.weight", lambda v: v[:, :2]), "do not match the hyper"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(HEADERS))
def test_headers_that_are_refused(case: str, network: Path) -> None:
    change, message = HEADERS[case]
    rewrite(network, change)
    assert message in refused(network)


def test_a_header_longer_than_the_file(network: Path) -> None:
    content = network.read_bytes()
    for length in (0, 2**63 - 1, 2**64 - 1, len(content), 100_000_001):
        network.write_bytes(struct.pack("<Q", length) + content[8:])
        assert "not a complete safetensors file" in refused(network)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP, "nested too deeply"),
        (f'{{"cutoff": {LONG}}}', "not readable JSON"),
        ('{"cutoff": 1e9, "dtype": "float32"}', "a cutoff from 0.1 to 50 Å, not 1000000000.0"),
        ('{"cutoff": 1e-9, "dtype": "float32"}', "a cutoff from 0.1 to 50 Å"),
        (f'{{"cutoff": {LONG[:400]}, "dtype": "float32"}}', "a cutoff from 0.1 to 50 Å"),
        ('{"cutoff": Infinity, "dtype": "float32"}', "a positive cutoff"),
        ('{"cutoff": 3, "dtype": ["float32"]}', "the dtype 'float32' or 'float64'"),
        ('{"cutoff": 3, "dtype": "float32", "elements": {"H": 1}}', "element symbols"),
        ('{"cutoff": 3, "dtype": "float32", "elements": ["H", "X"]}', "element symbols"),
    ],
)  # fmt: skip
def test_facts_of_torchscript_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(small_network().eval()), path, _extra_files={DESCRIPTION: text})
    assert message in refused(path)


class Answer(nn.Module):
    """What a model might return instead of energies and forces."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        energy = positions.sum().reshape(1)
        if self.kind == "complex":
            return torch.complex(energy, energy), positions
        if self.kind == "complex forces":
            return energy, torch.complex(positions, positions)
        if self.kind == "integers":
            return energy, positions.to(torch.int64)
        if self.kind == "an integer energy":
            return energy.to(torch.int64), positions
        if self.kind == "scalar":
            return energy[0], positions
        if self.kind == "too many forces":
            return energy, torch.cat([positions, positions])
        if self.kind == "another device":
            return energy, torch.zeros(positions.shape, device="meta")
        if self.kind == "error":
            raise ValueError("no such structure")
        return energy, positions[1000]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("complex", "real floating-point energies .* not torch.complex64"),
        ("complex forces", "real floating-point energies"),
        ("integers", "not torch.float32 and torch.int64"),
        ("an integer energy", "not torch.int64"),
        ("scalar", "shape"),
        ("too many forces", "shape"),
        ("another device", "on cpu and meta"),
        ("error", "the code of the model failed: .*no such structure"),
        ("out of range", "the code of the model failed: .*1000"),
    ],
)
def test_answers_that_are_refused(kind: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    facts = {DESCRIPTION: json.dumps({"cutoff": CUTOFF, "dtype": "float32"})}
    torch.jit.save(torch.jit.script(Answer(kind)), path, _extra_files=facts)
    model = load_model(path)
    with pytest.raises(ForceDeltaError, match=message) as caught:
        ForceDelta(model.module)(*graph_of([acetaldehyde()], torch.float32))
    assert "\n" not in str(caught.value)


class NoForward(nn.Module):
    @torch.jit.export
    def other(self, x: Tensor) -> Tensor:
        return x


def test_torchscript_without_forward(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    facts = {DESCRIPTION: json.dumps({"cutoff": CUTOFF, "dtype": "float32"})}
    torch.jit.save(torch.jit.script(NoForward()), path, _extra_files=facts)
    assert "no method forward" in refused(path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"cutoff": 1e9}, "a cutoff from"),
        ({"cutoff": float("nan")}, "a positive cutoff"),
        ({"elements": frozenset()}, "atomic numbers"),
        ({"elements": frozenset({0, 1})}, "atomic numbers"),
        ({"periodic": "no"}, "periodic as true or false"),
    ],
)
def test_models_in_memory_are_held_to_the_same(facts: dict[str, Any], message: str) -> None:
    whole = {"elements": None, "cutoff": CUTOFF, "periodic": None} | facts
    model = LoadedModel(small_network(torch.float32), "mine", "0" * 16, library="tests", **whole)
    with pytest.raises(ForceDeltaError, match=f"model 'mine' must give {message}"):
        load_model(model)


def test_anything_else_is_no_model(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    for content in (b"", b"PK\x03\x04", b"PK\x03\x04PTMF" * 50, b"\x00" * 500, buffer.getvalue()):
        path = tmp_path / "anything.pt"
        path.write_bytes(content)
        refused(path)
