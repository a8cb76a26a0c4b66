"""Files for `bad_inputs.py`: a valid one of each kind, and many invalid ones."""

import contextlib
import functools
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import Trajectory, write
from torch import Tensor

from md_hooks.h5md import layout

GOOD = Atoms("OH2", [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
CELL = np.diag([9.0, 9.0, 9.0])


def _moving(change: Any = None, **cell: Any) -> Atoms:
    atoms = GOOD.copy()
    atoms.set_momenta(np.full((3, 3), 0.01))
    for name, value in cell.items():
        setattr(atoms, name, value)
    if change is not None:
        change(atoms)
    return atoms


def _mass(value: float) -> Any:
    return lambda atoms: atoms.set_masses([16, value, 1])


def _entry(array: str, value: float) -> Any:
    def change(atoms: Atoms) -> None:
        atoms.arrays[array][1, 2] = value

    return change


def _element(number: int) -> Any:
    def change(atoms: Atoms) -> None:
        atoms.numbers[1] = number

    return change


_ATOMS = {
    **{f"mass{value}.traj": _moving(_mass(value)) for value in (0.0, -1.0, np.nan, np.inf, 1e-308)},
    **{
        f"{array}{value}.traj": _moving(_entry(array, value))
        for array in ("momenta", "positions") for value in (np.nan, np.inf, 1e308)
    },
    "element0.traj": _moving(_element(0)),
    "same.traj": _moving(lambda atoms: atoms.positions.__setitem__(1, atoms.positions[0])),
    **{
        f"cell{k}.traj": _moving(cell=cell, pbc=True)
        for k, cell in enumerate([
            CELL * 0, CELL * 1e-9, CELL * 1e6, CELL * 1e300, CELL * np.nan,
            np.array([[9.0, 0, 0], [0, 9, 0], [9e5, 0, 9]]), np.array([[9.0, 0, 0], [0, 9, 0], [9, 9, 0]]),
        ])
    },
    "far.traj": _moving(lambda atoms: atoms.positions.__setitem__(1, 1e7)),
    "empty.traj": Atoms(),
}  # fmt: skip

_XYZ = {
    "claims.xyz": "10000000\n\nH 0 0 0\n",
    "claims_more.xyz": "999999999999999999\n\nH 0 0 0\n",
    "negative.xyz": "-3\n\nH 0 0 0\n",
    "digits.xyz": "9" * 5000 + "\n\nH 0 0 0\n",
    "noatoms.xyz": "0\n\n",
    "words.xyz": "1\n\nH a b c\n",
    "columns.xyz": "2\n\nH 0 0\nH 0\n",
    "unknown.xyz": "1\n\nQq 0 0 0\n",
    "nan.xyz": "1\n\nH 0 0 nan\n",
    "lattice.xyz": '1\nLattice="a b c"\nH 0 0 0\n',
    "lattice4.xyz": '1\nLattice="1 2 3 4"\nH 0 0 0\n',
    "huge.xyz": "1\n\nH 1e400 0 0\n",
    "text.cif": "data_\nloop_\n_atom\n",
    "text.pdb": "ATOM  x\n",
    "POSCAR": "a\n1\nb\n",
    "text.json": "{",
    "text.gro": "a\n99999999\n",
}
STRUCTURES = {**{name: False for name in (*_ATOMS, *_XYZ)}, "nothing.xyz": False, "fifo": False,
              "/dev/zero": False, "folder": False, "loop": False, "noise": False, "empty": False}  # fmt: skip
"""Structure files, and whether they are valid."""

_KEYS = (
    "temperature",
    "steps",
    "model",
    "overwrite",
    "seed",
    "stop_above",
    "out",
    "ensemble",
    "threads",
)
_VALUES = [
    '"300"',
    "[1, 2]",
    "{a = 1}",
    "2020-01-01",
    "true",
    "nan",
    "-5",
    "1e308",
    "9" * 5000,
    '""',
]
_FINE = {("model", '"300"'), ("overwrite", "true"), ("out", '"300"'), ("stop_above", '"300"')}
_TOML_TEXT = {
    **{
        f"{key}{k}.toml": f"{key} = {value}\n"
        for key in _KEYS for k, value in enumerate(_VALUES) if (key, value) not in _FINE
    },
    "deep.toml": "a = " + "[" * 5000,
    "deep2.toml": "a = " + "{b=" * 5000,
    "both.toml": "ramp-to = 400\nramp_to = 500\n",
    "twice.toml": "steps = 3\nsteps = 4\n",
    "typo.toml": "temprature = 300\n",
    "no.toml": "this is no TOML\n",
    "control.toml": 'out = "a\\u001b[31m.h5"\n',
    "nul.toml": 'model = "a\\u0000b"\n',
}  # fmt: skip
TOML = [
    *_TOML_TEXT,
    "latin.toml",
    "fifo",
    "/dev/zero",
    "folder",
    "loop",
    "nothing.toml",
    "noise",
    "large.toml",
]

CALIBRATION: dict[str, Any] = {
    "format": "forcedelta calibration 1", "unit": "eV/Å", "on": "force_delta", "threshold": 0.1,
    "tolerance": 0.1, "risk": 0.05, "confidence": 0.9, "guarantee": "words",
    "model": {"name": "acac", "weights_hash": "0" * 16}, "labels": {}, "passing": {}, "ranking": {},
    "thresholds": [], "versions": {},
}  # fmt: skip
_WRONG = {
    "threshold": ["x", None, True, float("nan"), float("inf"), -1, 1e308, [], {}, "9"],
    "tolerance": ["x", None, float("nan"), -1, [1]],
    "risk": ["x", None, float("nan"), 2, -1],
    "confidence": [None, 7, "0.9"],
    "guarantee": [None, 3, ["a"]],
    "model": ["acac", None, [], {}, {"name": 3, "weights_hash": "a"}, {"name": "acac"}],
    "labels": [None, "x", []],
    "thresholds": [None, "x", {}],
    "unit": ["kJ", None, 3],
    "format": ["2", None],
    "on": ["x", None],
}
_CALIBRATION_TEXT = {
    **{
        f"{key}{k}.json": json.dumps({**CALIBRATION, key: value})
        for key, values in _WRONG.items() for k, value in enumerate(values)
    },
    **{
        f"without_{key}.json": json.dumps({k: v for k, v in CALIBRATION.items() if k != key})
        for key in CALIBRATION
    },
    "list.json": "[]", "null.json": "null", "number.json": "3", "no.json": "no JSON", "void.json": "",
    "deep.json": "[" * 100000, "digits.json": '{"threshold": ' + "9" * 5000 + "}",
}  # fmt: skip
CALIBRATIONS = [
    *_CALIBRATION_TEXT,
    "fifo.json",
    "zero.json",
    "folder.json",
    "loop.json",
    "nothing.json",
    "latin.json",
]

RECORDED = ["bare.h5", "cut.h5", "flipped.h5", "foreign.h5", "settings.h5", "types.h5"]


class Pairs(torch.nn.Module):
    """A pair energy, with direct forces that differ slightly from its gradient."""

    def forward(
        self, positions: Tensor, numbers: Tensor, cell: Tensor, edge_index: Tensor,
        edge_shift: Tensor, batch: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `forcedelta.models.torchscript`."""
        centre, other = edge_index[0], edge_index[1]
        offset = torch.einsum("ei,eij->ej", edge_shift, cell[batch[centre]])
        vector = positions[other] - positions[centre] + offset
        pair = torch.exp(-(vector * vector).sum(dim=1))
        energy = torch.zeros(cell.shape[0], dtype=positions.dtype, device=positions.device)
        energy = energy.index_add(0, batch[centre], pair)
        forces = torch.zeros_like(positions).index_add(0, centre, -3.9 * vector * pair.unsqueeze(1))
        return energy, forces


@functools.cache
def _run() -> bytes:
    """A short run, as a file."""
    from forcedelta.cli import status

    with tempfile.TemporaryDirectory() as name:
        structure, out = Path(name, "s.xyz"), Path(name, "run.h5")
        write(structure, GOOD)
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            code = status([
                "run", str(structure), "--model", "acac", "--steps", "3", "--seed", "1", "--out", str(out),
                "--record-every", "1",
            ])  # fmt: skip
        assert code == 0
        return out.read_bytes()


@functools.cache
def _any_model() -> bytes:
    """A TorchScript model of pairs of atoms of any element."""
    metadata = json.dumps({"cutoff": 4.0, "dtype": "float32"})
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Pairs()), buffer, _extra_files={"model.json": metadata})
    return buffer.getvalue()


def prepare(folder: Path) -> None:
    """Write all files into a folder."""
    write(folder / "good.xyz", GOOD)
    (folder / "any.pt").write_bytes(_any_model())
    for name, atoms in _ATOMS.items():
        with Trajectory(folder / name, "w") as file:
            file.write(atoms)
    for name, text in {**_XYZ, **_TOML_TEXT, **_CALIBRATION_TEXT}.items():
        (folder / name).write_text(text)
    (folder / "latin.toml").write_bytes(b'model = "\xe9"\n')
    (folder / "latin.json").write_bytes(b'{"guarantee": "\xe9"}')
    (folder / "large.toml").write_bytes(b"#" * 20_000_000)
    (folder / "text.txt").write_text("a text\n")
    (folder / "empty").touch()
    (folder / "noise").write_bytes(np.random.default_rng(0).bytes(5000))
    labelled = GOOD.copy()
    labelled.calc = SinglePointCalculator(labelled, energy=0.0, forces=np.zeros((3, 3)))
    write(folder / "labelled.xyz", labelled)
    for name in ("folder", "folder.json", "locked"):
        (folder / name).mkdir()
    (folder / "locked/file").touch()
    os.mkfifo(folder / "fifo")
    os.mkfifo(folder / "fifo.json")
    (folder / "zero.json").symlink_to("/dev/zero")
    for name in ("loop", "loop.json"):
        (folder / name).symlink_to(name)
    _recorded(folder)
    (folder / "locked").chmod(0o500)


def _recorded(folder: Path) -> None:
    content = _run()
    for name in ("run.h5", "settings.h5", "types.h5"):
        (folder / name).write_bytes(content)
    (folder / "cut.h5").write_bytes(content[: len(content) // 2])
    flipped = bytearray(content)
    for place in range(0, 4000, 7):
        flipped[place] ^= 0xFF
    (folder / "flipped.h5").write_bytes(bytes(flipped))
    with h5py.File(folder / "bare.h5", "w"):
        pass
    with h5py.File(folder / "foreign.h5", "w") as file:
        file.create_group("h5md/creator").attrs["name"] = "somebody"
    _settings(folder / "settings.h5", {"steps": "rm -rf", "timestep": "quick", "model": 3})
    _settings(folder / "types.h5", ["no", "table"])


def _settings(path: Path, settings: Any) -> None:
    """Other settings in the record of a run."""
    with h5py.File(path, "r+") as file:
        for key, run in file[layout.RUNS].items():
            file[layout.CHECKSUMS].attrs.pop(f"runs/{key}/info", None)
            info = json.loads(run.attrs["info"])
            info["settings"] = (
                {**info["settings"], **settings} if isinstance(settings, dict) else settings
            )
            run.attrs["info"] = json.dumps(info)
