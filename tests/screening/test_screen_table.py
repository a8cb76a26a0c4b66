"""Ranking, verdicts, the three outputs, and what the command prints."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from forcedelta import ForceDeltaError, HookError, screen
from forcedelta.screening.rows import Row, as_csv, ranked, with_verdict


def row(u: float | None, name: str = "a", **more: object) -> Row:
    return Row(name, 0, force_delta=u, **more)


def test_the_largest_first_and_those_without_u_last():
    rows = [row(0.1), row(None, "x"), row(0.3), row(None, "y"), row(0.2)]
    assert [(one.force_delta, one.file) for one in ranked(rows)] == [
        (0.3, "a"), (0.2, "a"), (0.1, "a"), (None, "x"), (None, "y"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("u", "stop", "flag", "verdict"),
    [
        (0.2, None, None, "-"),
        (0.2, 0.2, None, "trust"),  # above is strict, as for a guard
        (0.21, 0.2, None, "doubt"),
        (0.21, 0.3, 0.2, "doubt"),
        (0.31, 0.3, 0.2, "doubt"),
        (0.2, 0.3, 0.2, "trust"),
        (None, 0.3, None, "not evaluated"),
        (None, None, None, "not evaluated"),
    ],
)
def test_verdicts(u, stop, flag, verdict):
    assert with_verdict(row(u), stop, flag, True).verdict == verdict


def test_forces_that_vanish_by_symmetry_are_not_trusted_undisplaced():
    symmetric = row(1e-8, symmetric=True)
    assert with_verdict(symmetric, 0.1, None, True).verdict == "trust"
    assert with_verdict(symmetric, 0.1, None, False).verdict == "not evaluated"


def test_the_table_is_csv_whatever_the_names_are():
    text = as_csv([row(0.5, 'a, "b"\n.xyz', reason="x, y"), row(None)]).decode()
    first, second = csv.DictReader(text.splitlines(keepends=True))
    assert (first["file"], first["reason"], first["force_delta"]) == (
        'a, "b"\n.xyz',
        "x, y",
        "0.5",
    )
    assert second["force_delta"] == ""


def test_command(forcedelta, files, solid):
    code, out, err = forcedelta(
        "screen", files / "crystals.xyz", "--model", solid, "--report", "page.html"
    )
    assert (code, err) == (0, "")
    assert "forces vanish by symmetry in 4" in out
    with open("screen.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    us = [float(entry["force_delta"]) for entry in table]
    assert us == sorted(us, reverse=True)
    assert {entry["verdict"] for entry in table} == {"-"}
    page = Path("page.html").read_text(encoding="utf-8")
    assert "No threshold was set" in page
    assert page.count("<tr><td") == 6
    assert Path("page.png").stat().st_size > 1000


def test_thresholds_and_status(forcedelta, files, solid):
    arguments = ("screen", files / "crystals.xyz", "--model", solid, "--overwrite", "--json")
    found = json.loads(forcedelta(*arguments)[1])
    us = [entry["force_delta"] for entry in found["rows"]]
    middle = (us[2] + us[3]) / 2
    code, out, err = forcedelta(*arguments, "--stop-above", middle, "--report", "page.html")
    stopped = json.loads(out)
    assert (code, stopped["status"], stopped["stops"]) == (3, 3, 3)
    assert [entry["verdict"] for entry in stopped["rows"]] == ["doubt"] * 3 + ["trust"] * 3
    assert f"3 above {middle:.4g} eV/Å" in err
    assert "3 of 6 structures are above a threshold" in Path("page.html").read_text("utf-8")
    code, out, _ = forcedelta(*arguments, "--flag-above", middle)
    assert code == 0
    assert [e["verdict"] for e in json.loads(out)["rows"]] == ["doubt"] * 3 + ["trust"] * 3
    forcedelta(*arguments, "--stop-above", middle, "--rattle", 0, "--report", "page.html")
    assert "In 4 structures the forces vanish by symmetry" in Path("page.html").read_text("utf-8")


def test_a_calibration_is_for_its_model_and_for_labelled_structures(here, files, solid, caplog):
    from forcedelta import load_model
    from forcedelta.calibration.result import Calibration

    model = load_model(solid)
    names = Calibration.__dataclass_fields__
    known = {
        "threshold": 1e-4,
        "model": {"name": model.name, "weights_hash": model.weights_hash},
        "guarantee": "none",
    }
    calibration = Calibration(**{name: known.get(name, {}) for name in names})
    result = screen(files / "crystals.xyz", solid, "a.csv", stop_above=calibration)
    assert "its guarantee does not hold" in caplog.text
    assert result.stop_threshold == 1e-4
    assert {entry.verdict for entry in result.rows} == {"doubt"}
    with pytest.raises(ForceDeltaError, match="the calibration is for the weights"):
        screen(files / "crystals.xyz", files / "other.safetensors", "b.csv", stop_above=calibration)
    caplog.clear()
    screen(files / "crystals.xyz", solid, "c.csv", stop_above=calibration, rattle=0)
    assert not caplog.text
    assert not Path("b.csv").exists()
    assert not Path("b.rows.jsonl").exists()


def test_thresholds_that_make_no_sense(forcedelta, files, solid):
    arguments = ("screen", files / "crystals.xyz", "--model", solid)
    code, _, err = forcedelta(*arguments, "--stop-above", "auto")
    assert code == 2
    assert "--stop-above auto takes its threshold from the start of a run" in err
    with pytest.raises(HookError, match="must lie below"):
        screen(files / "crystals.xyz", solid, stop_above=0.1, flag_above=0.2)
    assert not list(Path().iterdir())


@pytest.mark.usefixtures("silent")
def test_the_function_prints_nothing(here, files, solid):
    result = screen(files / "crystals.xyz", solid)
    assert json.loads(json.dumps(result.as_dict()))["rows"][0]["file"] == str(
        files / "crystals.xyz"
    )
