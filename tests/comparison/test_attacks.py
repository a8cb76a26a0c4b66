"""Structures on paths of attacks: labelled extended XYZ, and recorded files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from paths_of_water import attacked, label
from scipy.stats import spearmanr

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.comparison.attack import attack_score, starts
from forcedelta.comparison.compare import compare
from forcedelta.comparison.structures import Structure, read_structures
from md_hooks import Frame, HookChain, Recorder, RunInfo
from md_hooks.session import Session


def structure(path: str | None, move: int | None, group: str = "a", **more) -> Structure:
    return Structure(
        "file", 0, group, np.array([1]), np.zeros((1, 3)), np.zeros((3, 3)), "H", np.zeros((1, 3)), None, path, move,
        None if path is None else f"{group} {path}", np.nan if move is None else move, **more,
    )  # fmt: skip


def test_a_path_starts_at_its_smallest_move():
    rows = [structure("p", 3), structure(None, None), structure("p", 1), structure("p", 2, "b")]
    assert starts(rows).tolist() == [2, -1, 2, 3]


def test_scores_of_paths_and_systems_by_hand():
    """Two systems: U follows the error along the first, and opposes it along the second."""
    rows = [structure(p, m, g) for g, p in (("a", "p"), ("a", "q"), ("b", "p")) for m in range(4)]
    error = np.array([1.0, 2, 3, 4, 1.5, 2.5, 3.5, 4.5, 5, 6, 7, 8])
    u = np.array([1.0, 2, 3, 4, 1.5, 2.5, 3.5, 4.5, 9, 8, 7, 6])
    predictors = {"force_delta": u, "energy": -u, "force_rms": np.ones(12)}
    found = attack_score(rows, {"m": predictors}, {"m": error})
    a, b = found.systems
    assert (a.system, a.path, a.moves, a.start_error) == ("a", None, 8, 1.25)
    assert a.spearman["force_delta"] == pytest.approx(1)
    assert b.spearman["force_delta"] == pytest.approx(-1)
    assert b.spearman["force_rms"] is None
    assert b.better == ["energy", "move"]
    assert [one.moves for one in found.each] == [4, 4, 4]
    assert found.each[2].spearman["start_error"] is None
    overall = found.ranking["m"]["force_delta"]["spearman"].value
    assert overall == pytest.approx(spearmanr(u, error).statistic)
    # fewer than three systems: the relation with the error at the start is that of the paths
    assert found.over == "paths"
    own = [1, 1, -1]
    assert found.start_spearman["m"] == pytest.approx(spearmanr([1, 1.5, 5], own).statistic)


@pytest.mark.slow
def test_labelled_attacks(forcedelta, files):
    code, out, _ = forcedelta(
        "compare", files / "attack.xyz", files / "cold.xyz", "--model", files / "one.safetensors", "--model",
        files / "two.safetensors", "--report", "r.html", "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0
    attack = found["attack"]
    assert (attack["structures"], attack["paths"]) == (18, 3)
    # 24 without a path and the 3 starts
    assert (found["structures"], found["settled"]) == (42, 27)
    own = [one for one in attack["each"] if one["model"] == "one"]
    assert all(one["spearman"]["force_delta"] == pytest.approx(1) for one in own)
    assert attack["ranking"]["one"]["force_delta"]["spearman"]["value"] > 0.99
    assert Path("r-starts.png").exists()
    code, out, _ = forcedelta("compare", files / "attack.xyz", files / "cold.xyz")
    assert code == 0
    assert "27 structures that no attack has moved" in out
    assert "number of the move" in out


def test_attacks_without_labels(files, here):
    frames = attacked(2, 4)
    ase.io.write("bare.xyz", frames)
    found = compare("bare.xyz", files / "one.safetensors", "out")
    assert found.attack is None
    assert found.settled == 2


def test_paths_of_a_recorded_file(here):
    """An attack's own file has path and move among its series."""
    frames = attacked(2, 3)
    session = Session(HookChain([Recorder("attack.h5", every=1, replay=True)]), replay=True)
    session.open(RunInfo(model={"name": "none"}))
    for step, atoms in enumerate(frames):
        session.show(
            _frame(step, atoms, {name: float(atoms.info[name]) for name in ("path", "move")})
        )
    session.close()
    read = read_structures(Path("attack.h5")).structures
    assert [(one.path, one.move) for one in read[2:4]] == [("path 0", 2), ("path 1", 0)]
    assert all(one.forces is None for one in read)


def _frame(step: int, atoms: Atoms, extra: dict[str, float]) -> Frame:
    zeros = np.zeros((len(atoms), 3))
    return Frame(
        step=step, time=0.0, numbers=atoms.numbers, positions=atoms.positions, velocities=None,
        masses=atoms.get_masses(), cell=atoms.cell.array, pbc=atoms.pbc, energy=0.0, forces=zeros,
        temperature=None, force_delta=0.1, direct_forces=zeros, conservative_forces=zeros,
        force_deltas=np.full(len(atoms), 0.1), extra=extra,
    )  # fmt: skip


def test_labels_of_two_attacks_in_one_file(files, here):
    """Paths of the same number from different attacks are different paths."""
    calculator = ForceDeltaCalculator(files / "one.safetensors")
    both = label(attacked(1, 4), calculator, source="first.h5")
    both += label(attacked(1, 4, seed=9), calculator, source="second.h5")
    ase.io.write("both.xyz", both)
    shutil.copy("both.xyz", "again.xyz")
    read = read_structures(Path("both.xyz")).structures
    assert len({one.path for one in read}) == 2
    assert compare("both.xyz", files / "two.safetensors", "out").attack.paths == 2
