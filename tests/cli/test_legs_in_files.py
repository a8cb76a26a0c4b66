"""Files with legs: watched, reported, continued; and hooks of a user over several guarded runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.md.velocitydistribution import thermalize_momenta

from forcedelta import ForceDeltaCalculator, guarded_run
from forcedelta.integrators import Langevin
from md_hooks import Action, FlagStore, Guard, Hook, Recorder, Trajectory, run


class Witness(Hook):
    def __init__(self):
        self.steps, self.infos, self.results = [], [], []

    def open(self, info):
        self.infos.append(info)

    def observe(self, frame, verdict):
        self.steps.append(frame.step)

    def close(self, result):
        self.results.append(result)


@pytest.fixture
def annealing(files, here):
    """A file of three legs, with a flag in each."""
    atoms = molecule("H2O")
    atoms.calc = ForceDeltaCalculator(files / "wet.safetensors")
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
    hooks = [
        Guard(stop_above=9.0),
        lambda frame: Action.FLAG if frame.step % 10 == 5 else None,
        FlagStore("flags.xyz"),
        Recorder("annealing.h5", every=5),
    ]
    for kelvin in (300, 200, 100):
        dynamics = Langevin(
            atoms, 0.5 * units.fs, temperature_K=kelvin, friction=0.02, fixcm=False,
            rng=np.random.default_rng(kelvin),
        )  # fmt: skip
        run(dynamics, 10, hooks)
    return Trajectory("annealing.h5")


def test_watch_and_report_of_legs(forcedelta, annealing):
    assert [leg.settings["temperature"] for leg in annealing.legs] == [300, 200, 100]
    code, out, _ = forcedelta("watch", "annealing.h5", "--once", "--json")
    assert code == 0
    shown = json.loads(out)
    assert (shown["step"], shown["reason"], shown["flagged"]) == (30, "finished", 3)
    code, _, err = forcedelta("plot", "annealing.h5", "--out", "figure.png")
    assert code == 0, err
    code, _, err = forcedelta(
        "audit", "annealing.h5", "--model", annealing.metadata["model"]["name"]
    )
    assert code == 2  # by its path only


def test_a_new_run_from_a_file_with_legs(forcedelta, annealing, files):
    code, _, err = forcedelta(
        "run",
        "annealing.h5",
        "--model",
        files / "wet.safetensors",
        "--steps",
        "3",
        "--out",
        "new.h5",
    )
    assert code == 0, err
    a, b = annealing.frame(-1), Trajectory("new.h5").frame(0)
    np.testing.assert_array_equal(a.positions, b.positions)


def guarded(files, out, **more):
    return guarded_run(
        files / "water.xyz", files / "wet.safetensors", more.pop("steps", 6), out=out, seed=1,
        record_every=1, **more,
    )  # fmt: skip


def test_hooks_of_a_user_over_two_guarded_runs(files, here):
    """Each call is a new run from step 0; the hooks are opened again and keep what they know."""
    seen, flags = Witness(), FlagStore("flags.xyz")
    guard = Guard(stop_above="auto", burn_in=4, factor=1e3, flag_factor=1e-3)
    chosen = []
    for number in (1, 2):
        result = guarded(
            files, f"{number}.h5", hooks=[seen, guard, flags], temperature=100.0 * number
        )
        assert (result.reason, result.run.step) == ("finished", 6)
        chosen.append(guard.stop_threshold)
    assert chosen[0] == chosen[1] is not None
    assert seen.steps == [*range(7), *range(7)]
    assert [(info.leg, info.restart_step) for info in seen.infos] == [(1, None)] * 2
    assert seen.infos[0].run_id != seen.infos[1].run_id
    assert [Trajectory(f"{number}.h5").run_id for number in (1, 2)] == [
        i.run_id for i in seen.infos
    ]
    assert len(Path("flags.xyz").read_text().split("run_id=")) > 8


def test_hooks_of_a_user_over_a_guarded_run_and_its_restart(files, here):
    seen = Witness()
    guarded(files, "run.h5", hooks=[seen])
    guarded(files, "run.h5", hooks=[seen], steps=9, restart=True, given={"steps"})
    assert seen.steps == list(range(10))
    assert [(info.leg, info.restart_step) for info in seen.infos] == [(1, None), (1, 6)]
    assert len(Trajectory("run.h5").legs) == 1


def test_hooks_that_stopped_a_guarded_run_are_free_for_the_next(files, here):
    guard = Guard(stop_above=1e-9)
    assert guarded(files, "1.h5", hooks=[guard]).reason == "stopped"
    assert guarded(files, "2.h5", hooks=[guard]).reason == "stopped"
    assert len(Trajectory("2.h5")) == 1
