"""No code of a file runs unless the user trusts it: TorchScript, C++ extensions, pickles."""

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from systems import CUTOFF, acetaldehyde, small_network
from torch import Tensor, nn

from forcedelta import ForceDeltaError, load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.cli import status
from forcedelta.models.torchscript import DESCRIPTION
from forcedelta.openmm import add_force_delta
from forcedelta.openmm.export import export
from forcedelta.openmm.torch_monitor import load_exported

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

DOUBLE = torch.float64
GIVEN = {"cutoff": CUTOFF, "dtype": "float64", "elements": ["H", "C", "O", "Si"]}
MARK = "MARK"  # the file that code which must not run writes into the working directory
Write = Callable[..., Path]


class Writes(nn.Module):
    """A model that leaves a file behind, in one of many ways."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_network()

    def spoil(self, positions: Tensor) -> Tensor:
        torch.save(positions, "MARK")
        return positions

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        positions = self.spoil(positions)
        return self.network(positions, numbers, cell, edge_index, edge_shift, batch)


class Reads(Writes):
    def spoil(self, positions: Tensor) -> Tensor:
        return positions + 0 * torch.from_file("secret", False, 1, dtype=torch.float64)


class Prints(Writes):
    def spoil(self, positions: Tensor) -> Tensor:
        print(positions)
        return positions


class InAFork(Writes):
    def spoil(self, positions: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(_save, positions))


class InAnotherMethod(Writes):
    def spoil(self, positions: Tensor) -> Tensor:
        return positions

    @torch.jit.export
    def other(self, positions: Tensor) -> None:
        torch.save(positions, "MARK")


def _save(positions: Tensor) -> Tensor:
    torch.save(positions, "MARK")
    return positions


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(module: nn.Module, name: str = DESCRIPTION) -> Path:
        path = tmp_path / "model.pt"
        extra = {name: json.dumps(GIVEN)}
        torch.jit.save(torch.jit.script(module.eval()), str(path), _extra_files=extra)
        return path

    return make


def rewritten(path: Path, change: Callable[[str], str]) -> Path:
    """A copy of a file of torch.jit.save in which somebody has edited the code."""
    out = path.with_name("edited.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            if "/code/" in name and name.endswith(".py"):
                content = change(content.decode()).encode()
            if not name.endswith(".debug_pkl"):
                new.writestr(name.replace(path.stem, out.stem, 1), content)
    return out


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (Writes, "torch.save"),
        (Reads, "torch.from_file"),
        (Prints, "print"),
        (InAFork, "torch.save"),
        (InAnotherMethod, "torch.save"),
    ],
)
def test_code_that_does_more_than_compute(
    module: type[nn.Module], names: str, write: Write
) -> None:
    path = write(module())
    with pytest.raises(ForceDeltaError, match=rf"its code uses {names}\b.*--trust") as caught:
        load_model(path, DOUBLE)
    assert str(path) in str(caught.value)
    load_model(path, DOUBLE, trust=True)
    assert not Path(MARK).exists()


def test_the_compiled_code_is_looked_at_as_well(write: Write, monkeypatch) -> None:
    """Whatever the text looks like: the second of the two looks alone."""
    monkeypatch.setattr("forcedelta.models.scripted_code._check_text", lambda path: None)
    for module, operator in ((Writes(), "aten::save"), (Prints(), "prim::Print")):
        with pytest.raises(ForceDeltaError, match=rf"its code uses {operator}, in \w+, which"):
            load_model(write(module), DOUBLE)


EDITS = {
    "a default value": lambda text: text.replace(
        "batch: Tensor)", 'batch: Tensor, more: None=torch.save([1], "MARK"))', 1
    ),
    "another name": lambda text: text.replace("torch.save(", "ops.aten.save("),
    "spaces and a comment": lambda text: text.replace("torch.save(", 'torch . save # "\n('),
    "between strings": lambda text: text.replace("torch.save(", """'"'; torch.save("""),
    "a string that is put together": lambda text: text.replace(
        "torch.save(", 'getattr(torch, "sa" "ve")('
    ),
    "a string with escapes": lambda text: text.replace(
        "torch.save(", 'getattr(torch, "s\\x61ve")('
    ),
    "operators of another library": lambda text: text.replace("torch.save(", "ops.c10d.send("),
    "a class of another library": lambda text: text.replace(
        "torch.save(", "__torch__.torch.classes.dist_rpc.WorkerInfo("
    ),
}


@pytest.mark.parametrize("edit", list(EDITS))
def test_code_that_was_edited_by_hand(edit: str, write: Write) -> None:
    path = rewritten(write(Writes()), EDITS[edit])
    with pytest.raises(ForceDeltaError) as caught:
        load_model(path, DOUBLE)
    assert "its code uses" in str(caught.value) or "not written by torch" in str(caught.value)
    assert not Path(MARK).exists()


class Holder(nn.Module):
    """With a state of its own, so that there is one to be set."""

    @torch.jit.export
    def __getstate__(self) -> Tensor:
        return torch.ones([1])

    @torch.jit.export
    def __setstate__(self, state: Tensor) -> None:
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_code_that_runs_while_the_file_is_loaded(write: Write) -> None:
    path = rewritten(
        write(Holder()),
        lambda text: text.replace(
            "    self.training = False\n",
            '    self.training = False\n    torch.save(state, "MARK")\n',
        ),
    )
    with pytest.raises(ForceDeltaError, match=r"torch\.save.*--trust"):
        load_model(path, DOUBLE)
    assert not Path(MARK).exists()
    with pytest.raises(ForceDeltaError, match="the module takes"):
        load_model(path, DOUBLE, trust=True)
    assert Path(MARK).exists()  # so it would have run


def test_objects_of_other_libraries(write: Write) -> None:
    """Named in the pickle of the file: C++ code sets their state."""
    path = write(small_network())
    out = path.with_name("edited.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/data.pkl"):
                content = content.replace(
                    b"c__torch__.systems\n", b"c__torch__.torch.classes.xnnpack\n"
                ).replace(
                    b"\x80\x02", b"\x80\x02c__torch__.torch.classes.dist_rpc\nWorkerInfo\n0", 1
                )
            new.writestr(name.replace("model", "edited", 1), content)
    with pytest.raises(ForceDeltaError, match=r"object of the class dist_rpc\.WorkerInfo"):
        load_model(out, DOUBLE)


def test_every_way_to_a_model_asks(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(Writes())
    ase.io.write("start.xyz", acetaldehyde())
    labelled = acetaldehyde()
    labelled.info["energy"], labelled.arrays["forces"] = 0.0, labelled.positions
    ase.io.write("labelled.xyz", [labelled] * 3, format="extxyz")
    model = ["--model", str(path), "--dtype", "float64"]
    for command in (
        ["run", "start.xyz", *model, "--steps", "1", "--out", "run.h5"],
        ["audit", "start.xyz", *model, "--out", "audit.h5"],
        ["check", str(path), "start.xyz", "--dtype", "float64"],
        ["export", str(path), "--dtype", "float64", "--out", "out.pt"],
        ["calibrate", "labelled.xyz", *model, "--tolerance", "0.1", "--out", "c.json"],
    ):
        assert status(command) == 2, command
        printed = capsys.readouterr()
        assert "--trust" in printed.err
        assert printed.err.count("\n") == 1
    with pytest.raises(ForceDeltaError, match="trust=True"):
        ForceDeltaCalculator(path, dtype="float64")
    system = openmm.System()
    for _ in range(7):
        system.addParticle(1.0)
    numbers = acetaldehyde().numbers
    with pytest.raises(ForceDeltaError, match="trust=True"):
        add_force_delta(system, path, numbers, dtype="float64")
    assert not Path(MARK).exists()

    add_force_delta(system, path, numbers, dtype="float64", trust=True)
    atoms = acetaldehyde()
    atoms.calc = ForceDeltaCalculator(path, dtype="float64", trust=True)
    atoms.get_potential_energy()
    assert Path(MARK).exists()


def test_the_potential_of_openmm_ml_asks(write: Write) -> None:
    openmmml = pytest.importorskip("openmmml")
    app = pytest.importorskip("openmm.app")
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for atom in acetaldehyde():
        topology.addAtom(atom.symbol, app.Element.getBySymbol(atom.symbol), residue)
    path = write(Writes())
    potential = openmmml.MLPotential("forcedelta", model=path, dtype="float64")
    with pytest.raises(ForceDeltaError, match="trust=True"):
        potential.createSystem(topology)
    assert potential.createSystem(topology, trust=True).getNumForces() > 0


def test_exported_modules_are_looked_at_and_pass(tmp_path: Path) -> None:
    export("acac", tmp_path / "acac.pt")
    export("mlearn", tmp_path / "mlearn.pt", dtype="float64")
    for name in ("acac", "mlearn"):
        module, facts = load_exported(tmp_path / f"{name}.pt")
        assert facts["name"] == name
        assert module is not None
    path = rewritten(
        tmp_path / "acac.pt",
        lambda text: text.replace(
            "def update(self",
            'def update_(self) -> None:\n    torch.save([1], "MARK")\n  def update(self',
        ),
    )
    with pytest.raises(ForceDeltaError, match=r"torch\.save.*trust=True"):
        load_exported(path)


def test_exported_orb_models_pass(tmp_path: Path) -> None:
    orb_networks = pytest.importorskip("orb_networks", exc_type=ImportError)
    for kind in orb_networks.KINDS:
        path = tmp_path / f"{kind}.pt"
        given: Any = {"charge": 0, "spin": 1} if kind == "omol" else {}
        export(orb_networks.small(kind), path, dtype="float64", **given)
        assert load_exported(path)[1]["name"] == f"small {kind}"


class Pickled:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return open, (MARK, "w")


@pytest.mark.parametrize("architecture", ["orb-v3-direct-20", "pet", "fairchem", "eqV2"])
def test_checkpoints_that_are_pickles(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    torch.save({"config": {"model": {}}, "state_dict": {}, "more": Pickled()}, path)
    with pytest.raises(ForceDeltaError):
        load_model(path, architecture=architecture)
    assert not Path(MARK).exists()


EXTENSION = """
#include <stdio.h>
__attribute__((constructor)) static void loaded(void) { fclose(fopen("MARK", "w")); }
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("listed", ["extensions", "extensions-deps"])
def test_extensions_of_metatomic_models(
    listed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real library beside the model, whose constructor writes a file."""
    pytest.importorskip("metatomic.torch")
    from metatomic_pairs import save

    (tmp_path / "extensions").mkdir()
    (tmp_path / "evil.c").write_text(EXTENSION)
    name = f"evil_{listed[-4:]}"  # a library is loaded once into a process
    library = f"lib{name}.so"
    command = ["gcc", "-shared", "-fPIC", "-o", f"extensions/{library}", "evil.c"]
    subprocess.run(command, check=True)
    path = save(tmp_path / "plain.pt")
    load_model(path, DOUBLE)  # asks for none
    assert not Path(MARK).exists()
    needy = tmp_path / "needy.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(needy, "w", zipfile.ZIP_STORED) as new:
        for record in old.namelist():
            content = old.read(record)
            if record.endswith(f"/extra/{listed}"):
                content = json.dumps([{"name": name, "path": library}]).encode()
            new.writestr(record.replace("plain", "needy", 1), content)
    with pytest.raises(ForceDeltaError, match=rf"compiled extensions \('{name}'\).*--trust"):
        load_model(needy, DOUBLE)
    ase.io.write("start.xyz", acetaldehyde())
    assert status(["check", str(needy), "start.xyz", "--dtype", "float64"]) == 2
    assert f"compiled extensions ('{name}')" in capsys.readouterr().err
    assert not Path(MARK).exists()
    load_model(needy, DOUBLE, trust=True)
    assert Path(MARK).exists()


def test_metatomic_models_with_code_that_uses_files(tmp_path: Path) -> None:
    pytest.importorskip("metatomic.torch")
    from metatomic_pairs import save

    path = save(tmp_path / "pairs.pt")
    change = "  def requested_inputs(self"
    edited = rewritten(
        path,
        lambda text: text.replace(
            change, '  def more(self) -> None:\n    torch.save([1], "MARK")\n' + change
        ),
    )
    with pytest.raises(ForceDeltaError, match=r"torch\.save.*--trust"):
        load_model(edited, DOUBLE)
