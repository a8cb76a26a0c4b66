"""A screen that was killed goes on where it was, and equals one that was not."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk

from forcedelta import ForceDeltaError, screen
from forcedelta.screening import evaluate, work
from forcedelta.screening.evaluate import StructureEvaluator


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "UNIT_STRUCTURES", 2)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The structures that are evaluated."""
    seen: list[str] = []
    rows = StructureEvaluator.rows

    def counting(self, structures):
        seen.extend(f"{Path(one.file).name} {one.frame}" for one in structures)
        return rows(self, structures)

    monkeypatch.setattr(StructureEvaluator, "rows", counting)
    return seen


def test_a_continued_screen_equals_an_uninterrupted_one(here, files, solid, small_units, counted):
    screen(files / "crystals.xyz", solid, "whole.csv")
    screen(files / "crystals.xyz", solid, "cut.csv")
    record = Path("cut.rows.jsonl")
    lines = record.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4  # the head and three units
    Path("cut.csv").unlink()
    for kept in (lines[0], lines[0][:20], b"", b"".join(lines[:2]) + lines[2][:-30]):
        record.write_bytes(kept)
        counted.clear()
        result = screen(files / "crystals.xyz", solid, "cut.csv", mode="restart")
        assert len(counted) == (4 if len(kept) > len(lines[0]) else 6)
        assert result.reason == "finished"
        assert Path("cut.csv").read_bytes() == Path("whole.csv").read_bytes()
        assert record.read_bytes() == b"".join(lines)


def test_a_finished_screen_needs_no_evaluation(here, files, solid, counted):
    first = screen(files / "crystals.xyz", solid)
    counted.clear()
    again = screen(files / "crystals.xyz", solid, mode="restart", flag_above=1e-4)
    assert not counted
    assert [row.force_delta for row in again.rows] == [row.force_delta for row in first.rows]
    assert {row.verdict for row in again.rows} == {"doubt"}  # thresholds are not part of the record


def test_a_folder_that_grew_and_a_file_that_changed(here, files, solid, counted):
    Path("set").mkdir()
    for k, atoms in enumerate(ase.io.read(files / "crystals.xyz", ":3")):
        atoms.write(f"set/{k}.xyz")
    Path("set/bad.cif").write_text("data_x\n")
    screen("set", solid)
    counted.clear()
    bulk("Ge", cubic=True).write("set/3.xyz")
    changed = bulk("Si", cubic=True)
    changed.positions[0] += 0.1
    changed.write("set/1.xyz")
    Path("set/0.xyz").unlink()
    bulk("Si").write("set/bad.cif")
    result = screen("set", solid, mode="restart")
    assert counted == ["1.xyz 0", "3.xyz 0", "bad.cif 0"]
    assert {row.file for row in result.rows} == {
        f"set/{name}" for name in ("1.xyz", "2.xyz", "3.xyz", "bad.cif")
    }


def test_what_could_not_be_evaluated_is_tried_again(here, files, solid, counted):
    ase.io.write("both.xyz", [bulk("Si"), bulk("Cu")])
    screen("both.xyz", solid)
    counted.clear()
    screen("both.xyz", solid, mode="restart")
    assert counted == ["both.xyz 1"]


def test_other_settings_are_refused_and_missing_ones_taken(forcedelta, files, solid):
    arguments = ("screen", files / "crystals.xyz")
    assert forcedelta(*arguments, "--model", solid, "--rattle", 0.05, "--seed", 3)[0] == 0
    table = Path("screen.csv").read_bytes()
    code, _, err = forcedelta(*arguments, "--restart", "--rattle", 0.01)
    assert code == 2
    assert "rattle 0.01 differs from the screen in screen.rows.jsonl, which has 0.05" in err
    code, _, err = forcedelta(*arguments, "--restart", "--model", files / "other.safetensors")
    assert code == 2
    assert "differs from the screen" in err
    assert forcedelta(*arguments, "--restart")[0] == 0
    assert Path("screen.csv").read_bytes() == table


def test_other_weights_are_refused(here, files, solid):
    model = Path("model.safetensors")
    model.write_bytes(solid.read_bytes())
    ase.io.write("one.xyz", bulk("Si"))
    screen("one.xyz", model)
    model.write_bytes((files / "other.safetensors").read_bytes())
    ase.io.write("one.xyz", bulk("Ge"))
    with pytest.raises(ForceDeltaError, match=r"has the weights .*, but the rows in"):
        screen("one.xyz", model, mode="restart")


def test_files_that_exist(forcedelta, files, solid):
    arguments = ("screen", files / "crystals.xyz", "--model", solid)
    Path("screen.csv").write_text("mine\n")
    code, _, err = forcedelta(*arguments)
    assert code == 2
    assert "screen.csv exists: pass --restart to continue that screen, --overwrite to" in err
    code, _, err = forcedelta(*arguments, "--restart")
    assert code == 2
    assert "screen.csv cannot be continued without its record screen.rows.jsonl" in err
    Path("screen.rows.jsonl").write_text('{"format": "of another program"}\n')
    code, _, err = forcedelta(*arguments, "--restart")
    assert code == 2
    assert "screen.rows.jsonl is no record of a screen (line 1)" in err
    assert Path("screen.csv").read_text() == "mine\n"
    code, _, err = forcedelta(*arguments, "--restart", "--overwrite")
    assert code == 2
    assert "give one" in err
    assert forcedelta(*arguments, "--overwrite")[0] == 0
    assert len(Path("screen.csv").read_text().splitlines()) == 7


@pytest.mark.parametrize(
    "line",
    [
        "[]", "{}", '{"rows": 3}', '{"rows": [{"key": "a"}]}', '{"rows": [{"file": "a", "frame": 0}]}', "\xff",
        '{"rows": [{"key": "a", "file": "a", "frame": 0, "force_delta": "much"}]}',
    ],
)  # fmt: skip
def test_damaged_records_are_refused_by_line(here, files, solid, line):
    screen(files / "crystals.xyz", solid)
    with open("screen.rows.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ForceDeltaError, match=r"is no record of a screen \(line 3\)"):
        screen(files / "crystals.xyz", solid, mode="restart")


def test_one_process_at_a_time(here, files, solid, monkeypatch):
    rows = StructureEvaluator.rows

    def second(self, structures):
        with pytest.raises(ForceDeltaError, match="in use by another screen"):
            screen(files / "crystals.xyz", solid, mode="restart")
        return rows(self, structures)

    monkeypatch.setattr(StructureEvaluator, "rows", second)
    assert screen(files / "crystals.xyz", solid).evaluated == 6


def test_an_interrupted_screen_says_how_to_continue(
    forcedelta, files, solid, small_units, monkeypatch
):
    rows = StructureEvaluator.rows

    def interrupted(self, structures):
        os.kill(os.getpid(), signal.SIGINT)
        return rows(self, structures)

    monkeypatch.setattr(StructureEvaluator, "rows", interrupted)
    arguments = ("screen", files / "crystals.xyz", "--model", solid)
    code, out, _ = forcedelta(*arguments)
    assert code == 130
    assert "2 structures in 1 file: 2 evaluated" in out
    assert "interrupted: pass --restart to continue screen.rows.jsonl" in out
    assert not Path("screen.csv").exists()
    monkeypatch.setattr(StructureEvaluator, "rows", rows)
    assert forcedelta(*arguments, "--restart")[0] == 0
    assert len(Path("screen.csv").read_text().splitlines()) == 7


def test_a_screen_that_fails_leaves_nothing(here, files):
    with pytest.raises(ForceDeltaError, match="no-such-model"):
        screen(files / "crystals.xyz", "no-such-model")
    assert not list(Path().iterdir())


def test_through_an_executor(here, files, solid, small_units):
    evaluate._of_this_process.cache_clear()
    alone = screen([files / "crystals.xyz"], solid, "alone.csv")
    with ThreadPoolExecutor(1) as executor:
        screen(files / "crystals.xyz", solid, "pool.csv", executor=executor)
        assert Path("pool.csv").read_bytes() == Path("alone.csv").read_bytes()
        with pytest.raises(ForceDeltaError, match="no-such-model"):
            screen(files / "crystals.xyz", "no-such-model", "none.csv", executor=executor)
    assert alone.evaluated == 6
    assert not Path("none.rows.jsonl").exists()


def test_a_model_in_memory(here, files, solid):
    from forcedelta import load_model

    model = load_model(solid)
    assert screen(files / "crystals.xyz", model).evaluated == 6
    with pytest.raises(ForceDeltaError, match="a model in memory cannot be sent"):
        screen(files / "crystals.xyz", model, "b.csv", workers=2)


@pytest.mark.slow
def test_workers(forcedelta, files, solid):
    arguments = ("screen", files / "crystals.xyz", "--model", solid)
    assert forcedelta(*arguments)[0] == 0
    code, _, err = forcedelta(*arguments, "--workers", 2, "--out", "two.csv")
    assert code == 0, err
    assert Path("two.csv").read_bytes() == Path("screen.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_screen_goes_on(start, forcedelta, here, solid, number, workers):
    frames = [bulk("Si", cubic=True) * (3, 2, 2) for _ in range(20)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
    ase.io.write("many.xyz", frames)
    arguments = ("screen", "many.xyz", "--model", "mlearn", "--workers", str(workers))
    process = start(*arguments)
    record = Path("screen.rows.jsonl")
    end = time.monotonic() + 600
    while not record.exists() or record.read_bytes().count(b"\n") < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == (130 if number == signal.SIGTERM else -9), err
    assert not Path("screen.csv").exists()
    done = record.read_bytes()
    assert forcedelta(*arguments, "--restart")[0] == 0
    assert record.read_bytes().startswith(done[: done.rfind(b"\n") + 1])
    assert forcedelta(*arguments, "--out", "whole.csv")[0] == 0
    assert Path("screen.csv").read_bytes() == Path("whole.csv").read_bytes()
