"""Frames to label next: equal chances, spread over U, and the coverage that they keep."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest

from forcedelta.calibration.labels import read_labels
from forcedelta.labelling.selection.candidates import open_candidates
from forcedelta.labelling.selection.stratified import stratified, suggest
from md_hooks import Trajectory


def test_each_frame_has_the_same_chance():
    u = np.random.default_rng(0).lognormal(size=23)
    count = np.zeros(23)
    for seed in range(4000):
        drawn = stratified(u, 5, seed)
        assert len(set(drawn)) == 5
        assert (np.diff(u[drawn]) > 0).all()
        count[drawn] += 1
    # 4000 draws of 5 of 23: five standard deviations
    assert np.abs(count / 4000 - 5 / 23).max() < 5 * np.sqrt(5 / 23 * 18 / 23 / 4000)


@pytest.mark.parametrize("seed", range(4))
def test_the_coverage_that_is_promised(seed):
    """P(score of a new frame <= k-th smallest of the labels) >= (k - 1) / N, and not much more."""
    rng = np.random.default_rng(seed)
    u = rng.lognormal(size=400)
    # scores that depend on U in ways that strata see
    scores = (u, -u, np.sin(20 * u), rng.normal(size=400))[seed]
    n, k = 20, 19
    inside = []
    for draw in range(1500):
        labels = np.sort(scores[stratified(u, n, draw)])
        inside.append(np.mean(scores <= labels[k - 1]))
    noise = np.std(inside) / np.sqrt(len(inside))
    assert (k - 1) / n - 4 * noise <= np.mean(inside) <= (k + 1) / n + 4 * noise


def test_it_is_spread_over_u():
    u = np.sort(np.random.default_rng(2).lognormal(size=1000))
    drawn = stratified(u, 10, 1)
    assert (drawn // 100 == np.arange(10)).all()


def test_suggested_frames_of_a_run_can_be_labelled(files, here, forcedelta):
    run = [
        "run", files / "water.xyz", "--model", files / "wet.safetensors", "--seed", "1", "--steps", "40",
        "--temperature", "30", "--record-every", "1",
    ]  # fmt: skip
    assert forcedelta(*run)[0] == 0
    code, out, err = forcedelta("calibrate", "--suggest", "8", "run.h5", "--out", "picks.xyz")
    assert (code, err) == (0, "")
    assert "8 of 41 frames" in out
    assert "cover at least 88.8 %" in out
    found = open_candidates("picks.xyz")
    assert found.picked  # recalc labels all of them
    series = Trajectory("run.h5").series
    for step, u in zip(found.steps, found.force_delta, strict=True):
        assert u == series["force_delta"][step]
    again = suggest("run.h5", 8).as_dict()
    code, out, _ = forcedelta("calibrate", "--suggest", "8", "run.h5", "--json")
    assert json.loads(out) == {**again, "range": list(again["range"])}
    # what comes back with forces has all signals
    frames = ase.io.read("picks.xyz", ":")
    for atoms in frames:
        atoms.set_array("REF_forces", atoms.arrays["conservative_forces"])
    ase.io.write("labelled.xyz", frames)
    labels = read_labels(["labelled.xyz"], forces_key="REF_forces")
    assert set(labels.signals.columns) == {
        "force_delta", "worst_atom", "energy_per_atom", "force_rms", "rigid_force",
    }  # fmt: skip
    np.testing.assert_allclose(labels.epsilon, labels.force_delta, rtol=1e-5)
    np.testing.assert_allclose([np.sqrt(np.mean(a.error**2)) for a in labels.atoms], labels.epsilon)


def test_what_it_refuses(files, here, forcedelta):
    run = [
        "run", files / "water.xyz", "--model", files / "wet.safetensors", "--seed", "1", "--steps", "4",
        "--record-every", "1",
    ]  # fmt: skip
    assert forcedelta(*run)[0] == 0
    Path("there.xyz").write_text("")
    for arguments, said in (
        (
            ["--suggest", "9", "run.h5"],
            "there are 5 recorded frames with U, and --suggest asks for 9",
        ),
        (["--suggest", "0", "run.h5"], "--suggest is 0"),
        (["--suggest", "2", "run.h5", "--out", "run.h5"], "is the recorded file itself"),
        (["--suggest", "2", "run.h5", "--out", "there.xyz"], "there.xyz exists"),
        (["--suggest", "2", "run.h5", "--tolerance", "1"], "omit --tolerance"),
        (["--suggest", "2", "nowhere.h5"], "nowhere.h5"),
    ):
        code, out, err = forcedelta("calibrate", *arguments)
        assert (code, out) == (2, "")
        assert said in err.splitlines()[-1]
