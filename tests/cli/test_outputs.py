"""What a command writes is none of what it reads, and replaces nothing unasked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import ase.io
import pytest
from ase.build import molecule

from forcedelta.calibration.result import Calibration
from forcedelta.cli import status
from forcedelta.errors import ForceDeltaError
from forcedelta.models.files import load_network
from forcedelta.outputs import Named, check_outputs, refuse_existing
from md_hooks import Trajectory


@pytest.fixture(scope="module")
def originals(files, tmp_path_factory) -> Path:
    """A folder with one of each kind of input."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(files / "water.xyz", folder)
    shutil.copy(files / "wet.safetensors", folder)
    model = {"name": "wet", "weights_hash": load_network(files / "wet.safetensors").weights_hash}
    Calibration(1.0, 1.0, 0.05, 0.9, "none", model, {}, {}, {}, []).write(folder / "c.json")
    (folder / "run.toml").write_text("steps = 3\n")
    ase.io.write(folder / "move.xyz", [molecule("H2O") for _ in range(3)])
    run = ["run", folder / "water.xyz", "--model", folder / "wet.safetensors", "--steps", "3"]
    assert status([*map(str, run), "--out", str(folder / "done.h5")]) == 0
    return folder


@pytest.fixture
def inputs(originals, here) -> Path:
    """The working directory, with a copy of them."""
    shutil.copytree(originals, here, dirs_exist_ok=True)
    return here


RUN = ["run", "water.xyz", "--model", "wet.safetensors", "--overwrite"]
AUDIT = ["audit", "move.xyz", "--model", "wet.safetensors", "--overwrite"]
CASES = [
    ([*RUN, "--steps", "3"], "--out", "water.xyz"),
    ([*RUN, "--steps", "3"], "--out", "wet.safetensors"),
    ([*RUN, "--config", "run.toml"], "--out", "run.toml"),
    ([*RUN, "--steps", "3", "--stop-above", "c.json"], "--out", "c.json"),
    ([*RUN, "--steps", "3", "--flag-above", "c.json"], "--flags", "c.json"),
    ([*RUN, "--steps", "3"], "--flags", "water.xyz"),
    ([*RUN, "--steps", "3", "--out", "new.h5"], "--flags", "new.h5"),
    (AUDIT, "--out", "move.xyz"),
    (AUDIT, "--out", "wet.safetensors"),
    (AUDIT, "--flags", "move.xyz"),
    (AUDIT, "--report", "move.xyz"),
    ([*AUDIT, "--topology", "water.xyz"], "--out", "water.xyz"),
    ([*AUDIT, "--stop-above", "c.json"], "--out", "c.json"),
    ([*AUDIT, "--out", "new.h5"], "--report", "new.h5"),
    ([*AUDIT, "--flags", "new.xyz"], "--report", "new.xyz"),
    ([*AUDIT, "done.h5", "--out", "many"], "--report", "many/move.h5"),
    (["plot", "done.h5", "--overwrite"], "--out", "done.h5"),
    (["export", "wet.safetensors", "--overwrite"], "--out", "wet.safetensors"),
    (["calibrate", "move.xyz", "--tolerance", "1", "--overwrite"], "--out", "move.xyz"),
    (["calibrate", "move.xyz", "--tolerance", "1", "--overwrite"], "--plot", "move.xyz"),
    (["calibrate", "move.xyz", "--tolerance", "1", "--out", "new"], "--plot", "new"),
    (["calibrate", "move.xyz", "--tolerance", "1", "--model", "wet.safetensors", "--overwrite"],
     "--out", "wet.safetensors"),
    (["recalc", "done.h5", "--calculator", "tblite"], "--out", "done.h5"),
    (["recalc", "move.xyz", "--calculator", "tblite", "--settings", "run.toml"], "--out", "run.toml"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["same", "dots", "absolute", "link", "hard link"])
@pytest.mark.parametrize(("command", "flag", "file"), CASES)
def test_no_output_replaces_an_input_or_another_output(
    forcedelta, inputs, command, flag, file, spelling
):
    name = file
    if spelling == "dots":
        name = f"../{inputs.name}/./{file}"
    elif spelling == "absolute":
        name = str(inputs / file)
    elif spelling != "same":
        name = "another-name" + Path(file).suffix
        if spelling == "link":
            os.symlink(file, name)
        elif Path(file).exists():
            os.link(file, name)
        else:
            pytest.skip("there is nothing to link to yet")
    Path("many").mkdir()
    before = {path: path.read_bytes() for path in inputs.iterdir() if path.is_file()}
    code, out, err = forcedelta(*command, flag, name)
    assert code == 2, out
    assert err.count("\n") == 1
    assert "the same file" in err or "itself" in err
    assert Path(name).name in err
    assert {path: path.read_bytes() for path in inputs.iterdir() if path.is_file()} == before


def test_the_picture_beside_a_report_is_an_output_too(forcedelta, inputs):
    shutil.copy("done.h5", "run.png")  # a run may be called anything
    code, _, err = forcedelta("plot", "run.png", "--out", "run.html", "--overwrite")
    assert code == 2
    assert "the report's picture run.png is the run itself (run.png)" in err
    assert forcedelta("plot", "run.png")[0] == 2  # whose picture would be itself
    assert len(Trajectory("run.png")) > 0
    code, _, err = forcedelta(*AUDIT, "--out", "a.png", "--report", "a.html")
    assert code == 2
    assert "the same file" in err


def test_a_journal_of_ones_own_is_no_foreign_input(forcedelta, inputs):
    Path("live.xyz.journal").write_text("")
    code, _, err = forcedelta(
        "recalc", "live.xyz.journal", "--calculator", "x", "--out", "live.xyz"
    )
    assert code == 2
    assert "itself" not in err
    os.mkdir("live.xyz.jobs")
    shutil.move("move.xyz", "live.xyz.jobs/move.xyz")
    command = ["recalc", "live.xyz.jobs/move.xyz", "--calculator", "x", "--out", "live.xyz"]
    assert "lies in the folder of jobs of --out live.xyz.jobs" in forcedelta(*command)[2]


def test_files_that_are_not_there_are_compared_by_folder_and_name(here):
    Path("a").mkdir()
    Path("link").symlink_to("a")
    Path("dangling").symlink_to("a/new")
    for other in ("link/new", "./a/new", str(here / "a" / "new"), "dangling"):
        with pytest.raises(ForceDeltaError, match="are the same file"):
            check_outputs([Named("--out", "a/new"), Named("--flags", other)], [])
    check_outputs([Named("--out", "a/new"), Named("--flags", "new")], [Named("model", "a/new")])


# --- nothing is replaced unasked -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        (["plot", "done.h5"], "done.png"),
        (["plot", "done.h5", "--out", "a.png"], "a.png"),
        (["plot", "done.h5", "--out", "a.html"], "a.html"),
        (["plot", "done.h5", "--out", "a.html"], "a.png"),
        (["audit", "move.xyz", "--model", "wet.safetensors", "--report", "a.html"], "a.html"),
        (["audit", "move.xyz", "--model", "wet.safetensors", "--report", "a.html"], "a.png"),
        (["calibrate", "move.xyz", "--tolerance", "1", "--out", "a.json"], "a.json"),
        (["calibrate", "move.xyz", "--tolerance", "1", "--plot", "a.png"], "a.png"),
        (["export", "wet.safetensors", "--out", "a.pt"], "a.pt"),
    ],
)
def test_a_file_that_exists_is_kept(forcedelta, inputs, command, kept):
    Path(kept).write_text("mine")
    code, _, err = forcedelta(*command)
    assert code == 2
    assert f"{kept} exists: pass --overwrite" in err
    assert Path(kept).read_text() == "mine"
    assert not Path("audit.h5").exists()  # it is said before hours of work
    if command[0] == "plot":
        assert forcedelta(*command, "--overwrite")[0] == 0
        assert Path(kept).read_bytes() != b"mine"


def test_a_report_is_made_again_by_the_audit_that_goes_on(forcedelta, inputs):
    command = ["audit", "move.xyz", "--model", "wet.safetensors", "--report", "a.html"]
    assert forcedelta(*command, "--stop", "2")[0] == 0
    first = Path("a.html").read_text()
    assert forcedelta(*command, "--stop", "3", "--restart")[0] == 0
    assert Path("a.html").read_text() != first
    Path("a.html").write_text("mine")
    assert "a.html exists" in forcedelta(*command, "--stop", "3", "--restart")[2]


# --- audits --------------------------------------------------------------------------------------


def test_audits_into_what_is_none(forcedelta, inputs):
    def refused(*command):
        code, _, err = forcedelta("audit", *command)
        assert code == 2
        assert err.count("\n") == 1
        return err

    model = ["--model", "wet.safetensors"]
    before = Path("done.h5").read_bytes()
    assert "the file of a run" in refused("--restart", "--out", "done.h5")
    assert "the file of a run" in refused("move.xyz", *model, "--restart", "--out", "done.h5")
    assert "cannot be made a folder" in refused("move.xyz", "done.h5", *model, "--out", "c.json")
    assert "cannot be made a folder" in refused("move.xyz", "done.h5", *model, "--out", "c.json/a")
    assert Path("done.h5").read_bytes() == before
    assert Path("c.json").is_file()


@pytest.mark.parametrize("overwrite", [False, True])
def test_names_and_links_that_no_file_can_have_are_refused(tmp_path, overwrite):
    """The name of a picture is made from that of the run, which may be longer."""
    link = tmp_path / "link.png"
    link.symlink_to("none/run.png")
    for path, why in (
        (tmp_path / f"{'x' * 252}.png", "File name too long"),
        (link, "make the folder .*none first"),
    ):
        with pytest.raises(ForceDeltaError, match=why):
            refuse_existing("--out", path, overwrite)


def test_the_functions_refuse_too(files, here):
    from forcedelta import ForceDeltaError, guarded_run, label

    (here / "w.xyz").write_bytes((files / "water.xyz").read_bytes())
    model = files / "wet.safetensors"
    with pytest.raises(ForceDeltaError, match=r"w\.xyz"):
        guarded_run("w.xyz", model, 3, out="w.xyz", overwrite=True)
    with pytest.raises(ForceDeltaError, match=r"w\.xyz"):
        label("w.xyz", "tblite", out="w.xyz")
    assert (here / "w.xyz").read_bytes() == (files / "water.xyz").read_bytes()
