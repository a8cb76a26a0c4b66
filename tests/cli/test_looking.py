"""forcedelta models, watch and plot."""

from __future__ import annotations

import json
import signal
from importlib.metadata import EntryPoint
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from forcedelta.report.run_figure import MOST_POINTS, draw
from md_hooks import Trajectory

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def recorded(forcedelta, water) -> str:
    """A run with every third U, flags and a stop."""
    code, _, _ = forcedelta(
        *water, "--steps", "60", "--every", "3", "--ramp-to", "9000", "--stop-above", "auto",
        "--burn-in", "15", "--stop-factor", "1.01", "--flag-factor", "0.5", "--patience", "1/2",
        "--temperature", "100",
    )  # fmt: skip
    assert code == 3
    return "run.h5"


def test_models_in_words_and_as_json(forcedelta, files, monkeypatch):
    broken = EntryPoint("broken", "no_such_package:load", "forcedelta.models")
    sound = EntryPoint("sound", "json:loads", "forcedelta.models")
    monkeypatch.setattr(
        "forcedelta.models.listing.embedded_models", lambda: {"wet": files / "wet.safetensors"}
    )
    monkeypatch.setattr(
        "forcedelta.models.listing.registered_models",
        lambda: {"broken": broken, "sound": sound},
    )
    code, out, err = forcedelta("models")
    assert (code, err) == (0, "")
    assert "H O" in out
    assert "molecules" in out
    assert "4 Å" in out
    assert "direct MAE (meV/Å): 1000" in out
    code, out, _ = forcedelta("models", "--json")
    assert code == 0
    wet, bad, good, *published = json.loads(out)
    assert all({"name", "library", "elements", "licence"} <= set(model) for model in published)
    assert wet["elements"] == ["H", "O"]
    assert wet["periodic"] is False
    assert wet["regime"] == "untrained"
    assert "no_such_package" in bad["error"]
    assert good == {"name": "sound", "package": "json:loads"}


def test_a_snapshot(forcedelta, recorded):
    code, out, _ = forcedelta("watch", "--once", recorded)
    assert code == 0
    first, second = out.splitlines()
    assert first.startswith("run.h5: stopped (step ")
    trajectory = Trajectory(recorded)
    step = int(trajectory.series["step"][-1])
    u = trajectory.series["force_delta"][step - step % 3]
    assert second.startswith(f"step {step}/60  {step / 2:.1f} fs  T ")
    assert f"U {u:.3f} eV/Å" in second
    assert f"stop > {trajectory.thresholds['stop']:.3f}" in second
    assert f"flagged {len(trajectory.flags)}" in second


@pytest.mark.slow
def test_watching_from_another_process_until_the_run_is_interrupted(
    forcedelta, water, start, reached
):
    run = start(*water, "--steps", "1000000")
    reached("run.h5", 1)
    code, out, _ = forcedelta("watch", "--once", "run.h5")
    assert code == 0
    assert "run.h5: running" in out
    watcher = start("watch", "run.h5")
    assert "running" in watcher.stdout.readline()
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=600)
    assert run.returncode == 130
    assert out.startswith("interrupted after step ")
    assert "Traceback" not in err
    out, err = watcher.communicate(timeout=600)
    assert (watcher.returncode, err) == (0, "")
    assert "run.h5: interrupted" in out
    step = Trajectory("run.h5").series["step"][-1]
    assert f"step {step}/1000000" in out.splitlines()[-1]


def test_the_plot_in_the_terminal(recorded):
    from forcedelta.cli.watch import _plot

    text = _plot(Trajectory(recorded))
    assert "U (eV/Å)" in text
    assert "time (fs)" in text
    assert "\x1b" not in text


def test_a_picture(forcedelta, recorded):
    code, out, _ = forcedelta("plot", recorded)
    assert (code, out) == (0, "run.png\n")
    assert Path("run.png").read_bytes().startswith(PNG)
    assert matplotlib.image.imread("run.png").std() > 0.05
    code, out, _ = forcedelta("plot", recorded, "--out", "other.png")
    assert (code, out) == (0, "other.png\n")
    code, _, err = forcedelta("plot", recorded, "--out", "nowhere/other.png")
    assert code == 2
    assert "nowhere/other.png cannot be written" in err


def test_the_picture_has_units_and_marks(recorded):
    trajectory = Trajectory(recorded)
    hot, delta, worst, conserved = draw(trajectory).axes
    assert hot.get_ylabel() == "temperature (K)"
    assert delta.get_ylabel() == "Force Delta (eV/Å)"
    assert conserved.get_ylabel() == "conserved\nenergy (eV)"
    assert "meV/atom/ps" in conserved.get_title(loc="left")
    assert conserved.get_xlabel() == "time (fs)"
    labels = delta.get_legend_handles_labels()[1]
    assert f"stop above {trajectory.thresholds['stop']:.3g}" in labels
    assert "flagged" in labels
    assert [text.get_text() for text in worst.get_yticklabels()] == ["O0", "H1", "H2"]


def test_a_long_run_is_thinned_out_without_losing_its_peaks(recorded, monkeypatch):
    trajectory = Trajectory(recorded)
    steps = 10 * MOST_POINTS
    u = np.full(steps, 0.1)
    u[12345] = 7.0
    series = {
        "step": np.arange(steps), "time": np.arange(steps) * 0.5, "temperature": u, "action": 0 * u,
        "force_delta": u, "force_delta_max": u, "worst_atom": np.zeros(steps, int),
    }  # fmt: skip
    monkeypatch.setattr(Trajectory, "series", series)
    line = draw(trajectory).axes[1].lines[0]
    assert len(line.get_xdata()) <= MOST_POINTS
    assert line.get_ydata().max() == 7.0


def test_files_that_are_no_runs(forcedelta, here):
    Path("text.h5").write_text("a diary")
    for command in ("plot", "watch"):
        for name, said in (
            ("missing.h5", "does not exist"),
            ("text.h5", "text.h5"),
            ("", "folder"),
            ("/", "folder"),
            ("/dev/null", "/dev/null"),
        ):
            code, out, err = forcedelta(command, name)
            assert (code, out) == (2, "")
            assert err.startswith("error: ")
            assert err.count("\n") == 1
            assert said in err
