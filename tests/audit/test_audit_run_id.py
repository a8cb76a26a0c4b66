"""Audited trajectories are runs too: each has an id, by what is in it and not by its name."""

from __future__ import annotations

import shutil
from pathlib import Path

import ase.io
import numpy as np
from shaken import moving

from forcedelta.audit import audit
from md_hooks import Trajectory
from md_hooks.run_id import is_run_id


def test_trajectories_are_told_apart_by_content(files, here):
    for folder, seed in (("a", 0), ("b", 1)):
        Path(folder).mkdir()
        images = moving(6, seed)
        images[0].positions = moving(6, 0)[0].positions  # several runs begin at one structure
        images[0].set_momenta(np.zeros((len(images[0]), 3)))
        for kind in ("traj", "xyz"):
            ase.io.write(f"{folder}/run.{kind}", images)
    shutil.copy("a/run.traj", "b/copy.traj")

    def run_id(path, **settings):
        out = path.replace("/", "-") + ".h5"
        audit(path, files / "wet.safetensors", out, mode="overwrite", **settings)
        return Trajectory(out).run_id

    ids = {path: run_id(path) for path in ("a/run.traj", "b/run.traj", "a/run.xyz", "b/run.xyz")}
    assert all(map(is_run_id, ids.values()))
    assert ids["a/run.traj"] != ids["b/run.traj"]
    assert ids["a/run.xyz"] != ids["b/run.xyz"]
    assert run_id("b/copy.traj") == ids["a/run.traj"]
    assert run_id("a/run.traj", start=3) == ids["a/run.traj"]


def test_a_trajectory_that_grows_stays_the_same_run(files, here):
    images = moving(8, 0)
    ase.io.write("grows.traj", images[:1])  # too short yet to be told from all others
    audit("grows.traj", files / "wet.safetensors", "audit.h5")
    first = Trajectory("audit.h5").run_id
    ase.io.write("grows.traj", images)
    audit("grows.traj", files / "wet.safetensors", "audit.h5", mode="restart")
    assert Trajectory("audit.h5").run_id == first


def test_our_own_runs_keep_their_id(files, here):
    ase.io.write("foreign.xyz", moving(5, 0))
    audit("foreign.xyz", files / "wet.safetensors", "first.h5", record_every=1)
    first = Trajectory("first.h5").run_id
    ase.io.write("frames.xyz", ase.io.read("first.h5", ":"))
    for path in ("first.h5", "frames.xyz"):
        audit(path, files / "wet.safetensors", "again.h5", mode="overwrite")
        assert Trajectory("again.h5").run_id == first
