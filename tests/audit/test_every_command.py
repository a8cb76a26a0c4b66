"""Every command on audits of every kind of stored file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from command_line import untrained_network
from matplotlib.image import imread
from shaken import moving

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.labelling.selection import open_candidates
from forcedelta.structures import read_structures
from md_hooks import Trajectory
from md_hooks.constraints import constraint_records
from md_hooks.recalculation import Label, labelled
from md_hooks.recalculation.labelled import write_all

FRAMES = 8
OTHERS = 9


def molecules(**fields: Callable[[int], float]) -> list[Atoms]:
    images = moving(FRAMES)
    for k, atoms in enumerate(images):
        atoms.info.update({name: value(k) for name, value in fields.items()})
    return images


def still() -> list[Atoms]:
    images = moving(FRAMES)
    for atoms in images:
        del atoms.arrays["momenta"]
    return images


def crystals() -> list[Atoms]:
    images = [bulk("Si", cubic=True) for _ in range(FRAMES)]
    for k, atoms in enumerate(images):
        atoms.rattle(0.01 * (k + 1), seed=k)
    return images


def extxyz() -> list[str]:
    ase.io.write("m.extxyz", molecules(step=lambda k: 20 * k, time=lambda k: 100.0 * k))
    return ["m.extxyz"]


def xyz() -> list[str]:
    ase.io.write("m.xyz", still(), format="xyz")
    return ["m.xyz"]


def different_molecules() -> list[str]:
    names = ["H2O", "CH4", "CH3OH", "CO2", "C2H6", "CH3CH2OH", "H2O", "C6H6"]
    frames = [molecule(name) for name in names]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
    ase.io.write("d.extxyz", frames)
    return ["d.extxyz"]


def all_fixed() -> list[str]:
    images = molecules()
    for atoms in images:
        atoms.set_constraint(FixAtoms(range(len(atoms))))
    ase.io.write("f.traj", images)
    return ["f.traj"]


def ase_trajectory() -> list[str]:
    ase.io.write("m.traj", molecules())
    return ["m.traj"]


def poscar() -> list[str]:
    ase.io.write("POSCAR", crystals()[3], format="vasp")
    return ["POSCAR"]


def xdatcar() -> list[str]:
    ase.io.write("XDATCAR", crystals(), format="vasp-xdatcar")
    return ["XDATCAR"]


def lammps() -> list[str]:
    text = ""
    for k, atoms in enumerate(crystals()):
        a, b, c = atoms.cell.lengths()
        text += f"ITEM: TIMESTEP\n{10 * k}\nITEM: NUMBER OF ATOMS\n{len(atoms)}\n"
        text += (
            f"ITEM: BOX BOUNDS pp pp pp\n0 {a}\n0 {b}\n0 {c}\nITEM: ATOMS id type element x y z\n"
        )
        text += "".join(f"{i + 1} 1 Si {at.x} {at.y} {at.z}\n" for i, at in enumerate(atoms))
    Path("s.lammpsdump").write_text(text)
    return ["s.lammpsdump"]


def _mdanalysis(ending: str, topology: str) -> None:
    mda = pytest.importorskip("MDAnalysis", reason="needs MDAnalysis")
    images = still()
    made = mda.Universe.empty(
        len(images[0]), n_residues=1, atom_resindex=[0] * len(images[0]), trajectory=True
    )
    symbols = images[0].get_chemical_symbols()
    for name, values in (
        ("elements", symbols),
        ("names", symbols),
        ("resnames", ["LIG"]),
        ("resids", [1]),
        ("masses", images[0].get_masses()),
    ):
        made.add_TopologyAttr(name, values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.atoms.positions = images[0].positions
        made.dimensions = [30, 30, 30, 90, 90, 90]
        made.atoms.write(topology)
        with mda.Writer(f"m.{ending}", len(symbols), multiframe=True) as out:
            for k, atoms in enumerate(images):
                made.trajectory.ts.frame = k
                made.trajectory.ts.time = 0.1 * k
                made.atoms.positions = atoms.positions
                out.write(made)


def pdb() -> list[str]:
    _mdanalysis("pdb", "start.pdb")
    return ["m.pdb"]


def gro_xtc() -> list[str]:
    _mdanalysis("xtc", "start.gro")
    ase.io.write("start.xyz", still()[0])  # a .gro names no elements
    return ["m.xtc", "--topology", "start.xyz"]


def pdb_dcd() -> list[str]:
    _mdanalysis("dcd", "start.pdb")
    return ["m.dcd", "--topology", "start.pdb"]


def our_audit() -> list[str]:
    from forcedelta.cli import status

    extxyz()
    assert status(["audit", "m.extxyz", "--model", "any.safetensors", "--out", "first.h5"]) == 0
    return ["first.h5"]


def our_run() -> list[str]:
    from forcedelta.cli import status

    ase.io.write("start.xyz", still()[0])
    run = ["run", "start.xyz", "--model", "any.safetensors", "--seed", "1", "--steps", "7"]
    assert status([*run, "--timestep", "0.5", "--record-every", "1"]) == 0
    return ["run.h5"]


FORMATS = [
    extxyz, xyz, different_molecules, all_fixed, ase_trajectory, poscar, xdatcar, lammps, pdb, gro_xtc,
    pdb_dcd, our_audit, our_run,
]  # fmt: skip
TIMED = {extxyz, gro_xtc, pdb_dcd, our_audit, our_run}
MOVING = {extxyz, all_fixed, ase_trajectory, our_audit, our_run}


@pytest.fixture(scope="module")
def any_model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("any") / "any.safetensors"
    return untrained_network(path, [1, 6, 8, 14], periodic=None, seed=3)


@pytest.fixture(scope="module")
def stored(any_model, tmp_path_factory):
    """The arguments that name a stored file of a format, with the folder that has it and its audit."""
    known: dict[Callable[[], list[str]], tuple[Path, list[str]]] = {}

    def make(kind: Callable[[], list[str]]) -> tuple[Path, list[str]]:
        from forcedelta.cli import status

        if kind not in known:
            folder = tmp_path_factory.mktemp(kind.__name__)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                Path("any.safetensors").symlink_to(any_model)
                arguments = kind()
                audit = ["audit", *arguments, "--model", "any.safetensors", "--flag-above", "0"]
                assert status([*audit, "--out", "a.h5"]) == 0
            known[kind] = folder, arguments
        return known[kind]

    return make


@pytest.fixture(params=FORMATS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def case(kind, stored, forcedelta, monkeypatch):
    """The folder of the audit, to be in; and what names the stored file."""
    folder, arguments = stored(kind)
    monkeypatch.chdir(folder)
    return arguments


def found_in_file(kind) -> bool:
    """Whether the audit has times: as the file has them."""
    if kind is pdb:  # a PDB has none, and its reader may count
        return bool(np.ptp(Trajectory("a.h5").series["time"]) > 0)
    return kind in TIMED


def no_nan(text: str) -> None:
    assert "nan" not in text.lower().split(), text


def test_watch(case, kind, forcedelta):
    code, out, err = forcedelta("watch", "a.h5", "--once")
    assert (code, err) == (0, "")
    state, numbers = out.splitlines()
    last = Trajectory("a.h5").series
    assert "finished" in state
    assert f"step {last['step'][-1]}" in numbers
    assert f"U {last['force_delta'][-1]:.3f} eV/Å" in numbers
    no_nan(numbers)
    assert (" fs" in numbers) == (found_times := found_in_file(kind))
    assert (" K" in numbers) == (kind in MOVING and kind is not all_fixed)
    code, out, _ = forcedelta("watch", "a.h5", "--json")
    found = json.loads(out)
    frame = Trajectory("a.h5").frame(-1)
    atom = found["worst_atom"]
    assert (code, frame.worst_atom) == (0, atom)
    assert found["worst_element"] == frame_symbol(frame, atom)
    assert (found["time"] is not None) == found_times


def frame_symbol(frame, atom: int) -> str:
    return Atoms(frame.numbers).symbols[atom]


def test_plot_and_report(case, kind, forcedelta):
    code, out, err = forcedelta("plot", "a.h5", "--out", "a.html")
    assert (code, out, err) == (0, "a.html\n", "")
    assert imread("a.png").std() > 0.02
    page = Path("a.html").read_text(encoding="utf-8").partition("<script>")[0]
    assert "nan" not in page.replace(">", " ").replace("<", " ").split()
    frames = len(Trajectory("a.h5").series["step"])
    assert page.count("data-row=") == frames  # all are flagged
    assert f"{frames} of {frames} frames are doubtful" in page
    assert ("time (fs)</th>" in page) == found_in_file(kind)


def test_restart(case, kind, forcedelta):
    """An audit that ended after some frames continues to the numbers of one in one go."""
    audit = ["audit", *case, "--model", "any.safetensors", "--flag-above", "0", "--out", "b.h5"]
    assert forcedelta(*audit, "--stop", 1 if kind is poscar else 3)[0] == 0
    code, _, err = forcedelta("audit", "--restart", "--stop", 100, "--out", "b.h5")
    assert code == 0, err
    whole, pieces = Trajectory("a.h5"), Trajectory("b.h5")
    assert len(pieces.series["step"]) == (1 if kind is poscar else FRAMES)
    for name in ("step", "time", "source_frame", "atoms", "worst_atom", "temperature"):
        np.testing.assert_array_equal(pieces.series[name], whole.series[name], err_msg=name)
    for name in ("force_delta", "potential_energy"):
        np.testing.assert_allclose(pieces.series[name], whole.series[name], rtol=1e-4)
    assert pieces.remarks() == whole.remarks()


def chosen(kind, number: int) -> list[str]:
    """Arguments of recalc, and the number of frames: a calculator of ASE that takes any element."""
    number = min(number, len(Trajectory("a.h5").series["step"]))
    return ["recalc", "a.h5", "--calculator", "lj", "--select", str(number), "--spacing", "0", "--by", "u",
            "--stop-above", "1e3"]  # fmt: skip


def check_frames(frames: list[Atoms], kind) -> None:
    recorded = {frame.step: frame for frame in Trajectory("a.h5").frames()}
    assert len(frames) == len({atoms.info["step"] for atoms in frames})
    for atoms in frames:
        frame = recorded[atoms.info["step"]]
        assert atoms.numbers.tolist() == frame.numbers.tolist()
        np.testing.assert_allclose(atoms.positions, frame.positions, atol=1e-6)
        np.testing.assert_allclose(atoms.cell, frame.cell, atol=1e-6)
        assert atoms.info["force_delta"] == pytest.approx(frame.force_delta)
        assert not atoms.has("momenta")
        assert constraint_records(atoms.constraints) == frame.constraints
        assert bool(atoms.constraints) == (kind is all_fixed)
        assert found_in_file(kind) or kind is poscar or "time" not in atoms.info


def test_recalc_and_calibrate(case, kind, forcedelta, other_labels):
    """Frames of the audit are chosen and labelled; with its predictions they calibrate U."""
    code, out, err = forcedelta(*chosen(kind, 4), "--dry-run", "--json")
    assert code == 0, err
    steps = [one["step"] for one in json.loads(out)["frames"]]
    assert len(steps) == (1 if kind is poscar else 4)
    source = open_candidates("a.h5")
    frames = source.read([source.steps.tolist().index(step) for step in steps])
    check_frames(frames, kind)
    write_all("labelled.xyz", [labels(atoms) for atoms in frames])
    arguments = ["calibrate", "labelled.xyz", other_labels, "--tolerance", 1e6]
    arguments += ["--risk", 0.2, "--confidence", 0.5]
    code, out, err = forcedelta(*arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["labels"]["count"] == len(steps) + OTHERS
    code, out, err = forcedelta(*arguments, "--model", "any.safetensors", "--json")
    assert code == 0, err
    assert json.loads(out)["threshold"] == pytest.approx(found["threshold"], rel=1e-3)


@pytest.mark.parametrize(
    "kind", [different_molecules, all_fixed, xdatcar], ids=lambda f: f.__name__
)
def test_labels(case, kind, forcedelta):
    code, _, err = forcedelta(*chosen(kind, 1), "--out", "one.xyz")
    assert code == 0, err
    [atoms] = ase.io.read("one.xyz", ":")
    assert not atoms.constraints  # programs that train call get_forces()
    check_frames(read_structures("one.xyz"), kind)
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.calc = LennardJones()
    np.testing.assert_allclose(atoms.get_forces(), bare.get_forces(), atol=1e-6)


def labels(atoms: Atoms, error: float = 0.0) -> Atoms:
    """A frame with a label, as recalc makes it."""
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.calc = LennardJones()
    energy, forces = bare.get_potential_energy(), bare.get_forces()
    return labelled(atoms, Label(energy, forces + error, None, 0.0), "lj")


@pytest.fixture(scope="module")
def other_labels(any_model, tmp_path_factory) -> Path:
    """Labels of further runs, as those of one run may be all alike; compressed crystals are far off."""
    path = tmp_path_factory.mktemp("others") / "others.xyz"
    calculator = ForceDeltaCalculator(any_model)
    compressed = crystals()[:3]
    for atoms in compressed:
        atoms.set_cell(0.4 * atoms.cell, scale_atoms=True)
    frames = []
    for k, atoms in enumerate([*moving(OTHERS - 3, seed=5), *compressed]):
        calculator.calculate(atoms, ["force_delta"])
        results = calculator.results
        atoms.info |= {
            "source": f"run {k}", "force_delta": results["force_delta"], "model_energy": results["energy"],
            "model": calculator.model.name, "weights_hash": f"hash:{calculator.model.weights_hash}",
        }  # fmt: skip
        for name in ("direct_forces", "conservative_forces", "force_deltas"):
            atoms.arrays[name] = results[name]
        frames.append(labels(atoms, 1e7 if atoms.pbc.all() else 0.0))
    write_all(path, frames)
    return path
