"""`--stop-above auto` on structures that a model knows and on those that it does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule

from md_hooks import Trajectory


@pytest.mark.parametrize("name", ["CH3OH", "C6H6", "H2"])
@pytest.mark.parametrize("model", ["acac", "acac-direct"])
def test_a_foreign_molecule_gets_no_threshold_of_its_own_explosion(forcedelta, here, name, model):
    molecule(name).write("foreign.xyz")
    code, out, err = forcedelta(
        "run", "foreign.xyz", "--model", model, "--seed", "1", "--steps", "300", "--burn-in", "200",
        "--stop-above", "auto",
    )  # fmt: skip
    assert "Traceback" not in err
    trajectory = Trajectory("run.h5")
    if code == 3:  # refused, or beyond a threshold of what was a molecule still
        last = trajectory.series["step"][-1]
        assert trajectory.frame_steps[-1] == last == trajectory.stops[0]
        assert trajectory.outcome["reason"] == "stopped"
        assert trajectory.outcome["message"] in out
    else:
        assert code == 0
        assert trajectory.series["temperature"].max() < 3000


@pytest.mark.parametrize("engine", ["ase", "openmm"])
def test_water_ends_in_the_burn_in(forcedelta, here, engine):
    if engine == "openmm":
        pytest.importorskip("openmm")
    molecule("H2O").write("water.xyz")
    code, out, err = forcedelta(
        "run", "water.xyz", "--model", "acac", "--seed", "1", "--steps", "3000", "--stop-above", "auto",
        "--engine", engine,
    )  # fmt: skip
    assert code == 3
    assert "burn-in rejected" in out
    assert "'auto' cannot choose a threshold" in out
    assert "warning: U is 0.96 eV/Å at step 0" in err
    assert "the net direct force at step 0 is" in err
    trajectory = Trajectory("run.h5")
    assert trajectory.stops.tolist() == [trajectory.frame_steps[-1]]
    assert trajectory.stops[0] < 50
    policy = trajectory.policies[0]
    assert policy["stop_threshold"] is None
    assert policy["burn_in_refused"] in out
    code, out, _ = forcedelta("run", "--restart", "--steps", "3000")
    assert code == 3
    assert len(Trajectory("run.h5").stops) == 2


def test_a_squeezed_crystal_ends_in_the_burn_in(forcedelta, here):
    crystal = bulk("Si", cubic=True)
    crystal.set_cell(0.75 * crystal.cell, scale_atoms=True)
    crystal.write("squeezed.xyz")
    code, _, _ = forcedelta(
        "run", "squeezed.xyz", "--model", "mlearn", "--seed", "1", "--steps", "400", "--burn-in", "300",
        "--stop-above", "auto",
    )  # fmt: skip
    assert code == 3
    assert Trajectory("run.h5").thresholds["stop"] is None


@pytest.mark.parametrize(
    ("model", "more"),
    [("acac", ["--forces", "conservative"]), ("acac", ["--every", "2"]), ("acac-direct", [])],
)
def test_what_a_model_knows_gets_a_threshold(forcedelta, here, model, more):
    structure = Path(__file__).parents[2] / "examples" / "acetylacetone.xyz"
    code, _, err = forcedelta(
        "run", str(structure), "--model", model, "--seed", "2", "--steps", "310", "--burn-in", "300",
        "--stop-above", "auto", *more,
    )  # fmt: skip
    assert code == 0
    assert "warning" not in err
    assert "autocorrelation times of U: stop above" in err
    trajectory = Trajectory("run.h5")
    threshold = trajectory.thresholds["stop"]
    assert f"stop above {threshold:.4g}" in err
    usual = np.nanmedian(trajectory.series["force_delta"][75:300])
    assert 2 * usual < threshold < 30 * usual
    assert trajectory.policies[0]["burn_in_autocorrelation_times"] > 1


def test_an_audit_refuses_a_burn_in_too(forcedelta, here):
    molecule("H2O").write("water.xyz")
    water = ["water.xyz", "--model", "acac", "--seed", "1", "--steps", "300", "--record-every", "1"]
    code, _, _ = forcedelta("run", *water)
    assert code == 0  # nobody asked for a guard
    code, out, _ = forcedelta(
        "audit", "run.h5", "--model", "acac", "--stop-above", "auto", "--burn-in", "100", "--json",
        "--report", "audit.html",
    )  # fmt: skip
    assert code == 3
    (found,) = json.loads(out)["audits"]
    assert found["audited"] == 301
    assert found["stop_threshold"] is None
    assert found["stops"] == 1
    assert found["refused"]
    assert Trajectory("audit.h5").stops.tolist() == [found["first_stop"]]
    assert found["refused"] in Path("audit.html").read_text(encoding="utf-8")


def test_auto_that_never_resolves_is_an_error(forcedelta, water):
    assert forcedelta(*water, "--steps", "5", "--burn-in", "10")[0] == 0
    code, out, err = forcedelta("run", "--restart", "--steps", "14", "--stop-above", "auto")
    assert code == 2
    assert "within the burn-in" in out + err
    trajectory = Trajectory("run.h5")
    assert trajectory.outcome["reason"] == "error"
    assert "within the burn-in" in trajectory.outcome["message"]
    assert trajectory.series["step"][-1] == trajectory.frame_steps[-1] == 14
