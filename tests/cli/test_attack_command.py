"""``forcedelta attack``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixInternals

from md_hooks import Trajectory

Command = Callable[..., tuple[int, str, str]]
FEW = ["--starts", "2", "--steps", "3", "--picks", "0"]


@pytest.fixture
def water(files: Path) -> list[str]:
    return ["attack", str(files / "water.xyz"), "--model", str(files / "wet.safetensors")]


def test_table_and_file(forcedelta: Command, water: list[str]) -> None:
    code, out, _ = forcedelta(*water, *FEW)
    assert code == 0
    assert "largest U" in out
    assert "all steps made" in out
    assert "2 paths with 8 structures" in out
    assert len(ase.io.read("attack.h5", ":")) == 8


def test_json_has_every_path(forcedelta: Command, water: list[str]) -> None:
    code, out, _ = forcedelta(*water, *FEW, "--json")
    assert code == 0
    found = json.loads(out)
    assert [path["path"] for path in found["paths"]] == [0, 1]
    assert found["frames"] == 8
    assert found["method"] == "second derivatives"


def test_readers_of_a_run_read_it(forcedelta: Command, water: list[str]) -> None:
    forcedelta(*water, *FEW)
    code, out, _ = forcedelta("watch", "attack.h5", "--once")
    assert code == 0
    assert "step 7" in out
    assert forcedelta("plot", "attack.h5", "--out", "a.png")[0] == 0
    code, _, err = forcedelta("run", "--restart", "--out", "attack.h5", "--steps", "5")
    assert code == 2
    assert "is the file of an attack, not of a run" in err
    code, _, err = forcedelta("audit", "--restart", "--out", "attack.h5")
    assert code == 2
    assert "is the file of a run, not of an audit" in err


def test_picks_are_labelled_as_they_are(forcedelta: Command, water: list[str]) -> None:
    pytest.importorskip("tblite")
    pytest.importorskip("dscribe")
    forcedelta(*water, "--starts", "3", "--steps", "5", "--picks", "4")
    code, _, err = forcedelta("recalc", "attack-picks.xyz", "--calculator", "tblite")
    assert code == 0, err
    labelled = ase.io.read("labelled.xyz", ":")
    assert len(labelled) == 4
    for atoms in labelled:
        assert atoms.info["path"] in (0, 1, 2)
        assert atoms.info["move"] > 0
        assert atoms.info["epsilon"] > 0


def test_restart_needs_nothing_but_the_file(forcedelta: Command, water: list[str]) -> None:
    forcedelta(*water, *FEW)
    before = len(Trajectory("attack.h5"))
    code, out, err = forcedelta("attack", "--restart")
    assert code == 0, err
    assert "8 structures" in out
    assert len(Trajectory("attack.h5")) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--strain"], "not periodic in three directions"),
        (["--torsion", "0-1-2"], "give four atoms"),
        (["--torsion", "0-1-2-9"], "four different atoms"),
        (["--torsion", "1-0-2-3", "--strain"], "pass only one"),
        (["--torsion", "all"], "has no bond to turn about"),
        (["--alpha", "0", "--beta", "0"], "nothing would move"),
        (["--cap", "7"], "cap is 7"),
        (["--closest", "0"], "closest is 0"),
        (["--closest", "1"], "at the start: pass a smaller --closest"),
        (["--steps", "0"], "steps is 0"),
        (["--out", "no/a.h5"], "make the folder"),
        (["--device", "cuda:77"], "cannot be used here"),
        (["--charge", "1"], "takes neither charge nor spin"),
    ],
)
def test_wrong_settings(
    forcedelta: Command, water: list[str], flags: list[str], words: str
) -> None:
    code, _, err = forcedelta(*water, *FEW, *flags)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not Path("attack.h5").exists()


def _one() -> Atoms:
    return Atoms("H")


def _no_cell() -> Atoms:
    return Atoms("Si2", [[0, 0, 0], [1.4, 1.4, 1.4]], pbc=True)


def _foreign() -> Atoms:
    return Atoms("AuH", [[0, 0, 0], [0, 0, 1.5]])


def _ring_held() -> Atoms:
    atoms = molecule("H2O")
    atoms.set_constraint(FixInternals(bonds=[[0.97, [0, 1]]]))
    return atoms


@pytest.mark.parametrize(
    ("make", "words"),
    [(_one, "is one atom"), (_no_cell, "cell"), (_foreign, "does not support Au")],
)
def test_wrong_structures(
    forcedelta: Command, files: Path, make: Callable[[], Atoms], words: str
) -> None:
    make().write("odd.xyz")
    model = "solid" if words == "cell" else "wet"
    code, _, err = forcedelta("attack", "odd.xyz", "--model", str(files / f"{model}.safetensors"))
    assert code == 2
    assert words in err


def test_constraints_that_cannot_be_kept(forcedelta: Command, files: Path) -> None:
    ase.io.write("held.traj", _ring_held())
    code, _, err = forcedelta("attack", "held.traj", "--model", str(files / "wet.safetensors"))
    assert code == 2
    assert "cannot keep the constraint FixInternals" in err


def test_output_is_not_an_input(forcedelta: Command, water: list[str], files: Path) -> None:
    code, _, err = forcedelta(*water, *FEW, "--out", str(files / "water.xyz"), "--overwrite")
    assert code == 2
    assert "is the structure itself" in err
    code, _, err = forcedelta("attack", "--model", "acac")
    assert code == 2
    assert "no structure" in err
    forcedelta(*water, *FEW)
    code, _, err = forcedelta(*water, *FEW)
    assert code == 2
    assert "--restart to continue it" in err


def test_report_shows_the_paths(forcedelta: Command, water: list[str]) -> None:
    forcedelta(*water, *FEW)
    code, _, err = forcedelta("plot", "attack.h5", "--out", "a.html")
    assert code == 0, err
    page = Path("a.html").read_text(encoding="utf-8")
    assert "along the paths of the attack" in page
    assert "path 1 ended after 3 steps: all steps made" in page
    assert Path("a.png").stat().st_size > 10_000


def test_picks_of_another_attack_are_not_replaced(forcedelta: Command, water: list[str]) -> None:
    Path("attack-picks.xyz").write_text("mine")
    code, _, err = forcedelta(*water, "--starts", "1", "--steps", "2")
    assert code == 2
    assert "attack-picks.xyz exists" in err
    assert Path("attack-picks.xyz").read_text() == "mine"
    assert not Path("attack.h5").exists()
