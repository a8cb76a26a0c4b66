"""An audit is a replay: the numbers, the guard and the recorder of a run."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from command_line import untrained_network
from shaken import FRAMES, moving

from forcedelta import load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.audit import audit
from forcedelta.evaluation import Evaluator
from md_hooks import Guard, Trajectory


@pytest.fixture(scope="session")
def run(files, tmp_path_factory) -> Path:
    """A run that gets hot, each step recorded."""
    from forcedelta.cli import status

    out = tmp_path_factory.mktemp("run") / "run.h5"
    ase.io.write(out.parent / "start.xyz", moving(1)[0], columns=["symbols", "positions"])
    arguments = [
        "run", out.parent / "start.xyz", "--model", files / "wet.safetensors", "--steps", 120,
        "--record-every", 1, "--seed", 2, "--temperature", 200, "--ramp-to", 3000, "--out", out,
    ]  # fmt: skip
    assert status([str(argument) for argument in arguments]) == 0
    return out


@pytest.fixture
def wet(files):
    return files / "wet.safetensors"


def test_the_embedded_model_in_batches(here):
    start = Path(__file__).parents[2] / "examples" / "acetylacetone.xyz"
    rng = np.random.default_rng(0)
    frames, expected = [], []
    calculator = ForceDeltaCalculator("acac")
    for _ in range(40):
        atoms = ase.io.read(start)
        atoms.positions += rng.normal(scale=0.05, size=(15, 3))
        frames.append(atoms)
        calculator.calculate(atoms, ["force_delta"])
        expected.append(calculator.results["force_delta"])
    ase.io.write("move.traj", frames)
    audit("move.traj", "acac", "audit.h5")
    np.testing.assert_allclose(Trajectory("audit.h5").series["force_delta"], expected, rtol=1e-4)


def test_an_audit_of_a_run_gives_what_the_run_gave(run, wet, here):
    [result] = audit(run, wet, "audit.h5")
    assert (result.audited, result.remarks) == (121, {})
    live, replayed = Trajectory(run).series, Trajectory("audit.h5").series
    for name in ("step", "time", "temperature"):
        np.testing.assert_array_equal(live[name], replayed[name], err_msg=name)
    for name in ("force_delta", "force_delta_max"):
        np.testing.assert_allclose(live[name], replayed[name], rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(live["potential_energy"], replayed["potential_energy"], atol=1e-5)
    assert (live["worst_atom"] == replayed["worst_atom"]).mean() > 0.95  # ties, to rounding
    for a, b in zip(Trajectory(run).frames(), Trajectory("audit.h5").frames(), strict=True):
        for name in ("positions", "velocities", "masses", "cell", "numbers"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        np.testing.assert_allclose(a.direct_forces, b.direct_forces, atol=1e-4)


def test_the_guard_judges_as_in_a_run(run, wet, here):
    u = Trajectory(run).series["force_delta"]
    low, high = np.quantile(u, [0.6, 0.9])
    [result] = audit(
        run, wet, "audit.h5", flag_above=low, stop_above=high, patience=(2, 3), flags="f.xyz"
    )
    [same] = audit([run], wet, "same.h5", flag_above=low, stop_above=high, patience=(2, 3))
    assert (same.flagged, same.stops) == (result.flagged, result.stops)
    guard = Guard(high, low, patience=(2, 3))
    expected = [int(guard(frame).action) for frame in Trajectory(run).frames()]
    action = Trajectory("audit.h5").series["action"]
    assert (action == expected).mean() > 0.97  # those at a threshold, to rounding
    assert result.stops == (action == 2).sum() > 3
    assert result.flagged == (action == 1).sum() > 3
    assert result.first_stop == Trajectory("audit.h5").stops[0]
    flagged = ase.io.read("f.xyz", ":")
    assert [int(a.info["step"]) for a in flagged] == Trajectory("audit.h5").flags.tolist()
    assert flagged[0].info["run"] == "audit.h5"


def test_automatic_thresholds_and_their_burn_in(forcedelta, run, wet, here):
    code, out, err = forcedelta(
        "audit", run, "--model", wet, "--stop-above", "auto", "--burn-in", 20, "--stop-factor", 0.9,
        "--flag-factor", 0.5,
    )  # fmt: skip
    assert code == 3
    largest = Trajectory(run).series["force_delta"][:20].max()
    assert Trajectory("audit.h5").thresholds["stop"] == pytest.approx(0.9 * largest, rel=1e-4)
    assert "the first at step" in out
    # the predictions of a network that was never trained have little in common, which 50 frames tell
    code, out, err = forcedelta(
        "audit", run, "--model", wet, "--stop-above", "auto", "--stop", 40, "--out", "b.h5"
    )
    assert code == 2
    assert "ends within the burn-in of 1000 steps" in err.splitlines()[-1]
    assert len(Trajectory("b.h5").series["step"]) == 40


def test_an_audit_may_end_at_the_stop(forcedelta, run, wet, here):
    u = Trajectory(run).series["force_delta"]
    arguments = ["audit", run, "--model", wet, "--stop-above", np.quantile(u, 0.9), "--end-at-stop"]
    code, out, _ = forcedelta(*arguments)
    assert code == 3
    assert "ended at the stop threshold" in out
    trajectory = Trajectory("audit.h5")
    assert trajectory.outcome["reason"] == "stopped"
    assert trajectory.series["step"][-1] == trajectory.stops[0] < 120


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_is_its_structures(files, dtype):
    """Molecules and crystals of several sizes in one batch, against one at a time."""
    torch.manual_seed(0)
    path = untrained_network(files / "both.safetensors", [1, 6, 8, 14], periodic=None, seed=3)
    model = load_model(path, dtype)
    evaluate = Evaluator(model, dtype).batch
    crystal = bulk("Si", cubic=True)
    crystal.rattle(0.1, seed=1)
    small = bulk("Si")
    small.rattle(0.1, seed=2)
    structures = [*moving(3), crystal, small, moving(5)[4][:4]]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for atoms, together in zip(structures, evaluate(structures), strict=True):
        alone = evaluate([atoms])[0]
        assert together.energy == pytest.approx(alone.energy, abs=10 * tolerance)
        assert together.force_delta == pytest.approx(alone.force_delta, rel=10 * tolerance)
        for name in ("direct_forces", "conservative_forces", "force_deltas"):
            np.testing.assert_allclose(
                getattr(together, name), getattr(alone, name), atol=tolerance, err_msg=name
            )
        assert (together.stress is None) == (not atoms.pbc.all())
        if together.stress is not None:
            np.testing.assert_allclose(together.stress, alone.stress, atol=tolerance)


def test_a_batch_that_does_not_fit_into_the_memory_is_halved(files, monkeypatch):
    model = load_model(files / "wet.safetensors")
    evaluate = Evaluator(model, torch.float32).batch
    expected = [evaluation.force_delta for evaluation in evaluate(moving(9))]
    sizes = []
    real = Evaluator.evaluate

    def limited(self, graph, stress):
        sizes.append(len(graph[2]))
        if sizes[-1] > 2:
            torch.empty(2**50)  # what torch says when memory runs out
        return real(self, graph, stress)

    monkeypatch.setattr(Evaluator, "evaluate", limited)
    found = [evaluation.force_delta for evaluation in evaluate(moving(9))]
    assert found == pytest.approx(expected, rel=1e-5)
    assert sizes[0] == 9
    assert max(size for size in sizes if size <= 2) == 2


def test_each_frame_is_stored_or_as_many_as_said(files, here):
    audit(files / "move.xyz", files / "wet.safetensors", "a.h5", record_every=5)
    assert Trajectory("a.h5").frame_steps.tolist() == [0, 5, 10, 15, 20, FRAMES - 1]
    audit(files / "move.xyz", files / "wet.safetensors", "b.h5", every=3, start=2, stop=20)
    assert Trajectory("b.h5").frame_steps.tolist() == [2, 5, 8, 11, 14, 17]
    assert len(Trajectory("b.h5").series["step"]) == 6
