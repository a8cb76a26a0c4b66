"""Labels that are made while the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from doubtful_frames import ACETYLACETONE
from references import Spring

from md_hooks import Guard, HookError, RecalculationQueue, Recorder, Trajectory, run
from md_hooks.recalculation import Journal

pytest.importorskip("tblite")
FLAG = 0.03


def dynamics(seed=1):
    from forcedelta.ase import ForceDeltaCalculator

    atoms = ase.io.read(ACETYLACETONE)
    thermalize_momenta(atoms, temperature_K=400, rng=np.random.default_rng(seed))
    atoms.calc = ForceDeltaCalculator("acac")
    return Langevin(
        atoms, 0.5 * units.fs, temperature_K=400, friction=0.01 / units.fs,
        rng=np.random.default_rng(seed), fixcm=False,
    )  # fmt: skip


def tblite():
    from forcedelta.labelling import reference

    return reference("tblite", {})


def test_the_best_of_each_flagged_row_is_labelled_while_the_run_goes_on(tmp_path, capfd):
    queue = RecalculationQueue(tmp_path / "live.xyz", tblite(), 3, spacing=20.0)
    recorder = Recorder(tmp_path / "run.h5", every=1)
    result = run(dynamics(), 250, [Guard(flag_above=FLAG), queue, recorder])
    assert result.reason == "finished"
    assert capfd.readouterr() == ("", "")
    labelled = ase.io.read(tmp_path / "live.xyz", ":")
    assert len(labelled) == 3
    recorded = {frame.step: frame for frame in Trajectory(tmp_path / "run.h5").frames()}
    flagged = set(Trajectory(tmp_path / "run.h5").flags.tolist())
    for atoms in labelled:
        step = atoms.info["step"]
        frame = recorded[step]
        np.testing.assert_allclose(atoms.positions, frame.positions, atol=1e-7)
        np.testing.assert_allclose(atoms.arrays["direct_forces"], frame.direct_forces, atol=1e-6)
        assert atoms.info["source"] == str(tmp_path / "run.h5")
        assert atoms.info["run_id"] == Trajectory(tmp_path / "run.h5").run_id
        assert atoms.info["model"] == "acac"
        # no neighbour of its row, within 20 fs, has a larger U
        for side in (-1, 1):
            near = step + side
            assert near not in flagged or recorded[near].force_delta <= frame.force_delta
        again = atoms.copy()
        result = tblite().calculate(again, 1)
        assert atoms.get_potential_energy() == pytest.approx(result["energy"], abs=1e-5)


def test_a_full_queue_stops_the_run_where_that_was_asked_for(tmp_path):
    queue = RecalculationQueue(
        tmp_path / "live.xyz", Spring(), 1, spacing=10.0, stop_when_full=True
    )
    result = run(dynamics(), 250, [Guard(flag_above=FLAG), queue])
    assert result.reason == "stopped"
    assert "1 frames are queued for reference calculations" in result.message
    assert 0 < result.step < 250
    assert len(ase.io.read(tmp_path / "live.xyz", ":")) == 1


def test_what_does_not_wait_is_left_in_the_journal_and_recalc_makes_up_for_it(tmp_path, forcedelta):
    slow = Spring(naps=86400.0)
    queue = RecalculationQueue("live.xyz", slow, 2, spacing=20.0, wait=False)
    run(dynamics(), 150, [Guard(flag_above=FLAG), queue])
    journal = Journal("live.xyz.journal")
    journal.close()
    assert len(journal.pending) == 2
    assert not (tmp_path / "live.xyz").exists()
    code, out, _ = forcedelta(
        "recalc", "live.xyz.journal", "--calculator", "tblite", "--out", "live.xyz"
    )
    assert code == 0
    assert "all 2 queued frames" in out
    assert [a.info["step"] for a in ase.io.read("live.xyz", ":")] == [
        atoms.info["step"] for atoms in journal.frames.values()
    ]


def test_the_next_run_takes_up_what_an_earlier_one_left_and_counts_it(tmp_path):
    path = tmp_path / "live.xyz"
    queue = RecalculationQueue(path, Spring(naps=86400.0), 2, spacing=20.0, wait=False)
    run(dynamics(), 150, [Guard(flag_above=FLAG), queue])
    with ThreadPoolExecutor(2) as executor:
        queue = RecalculationQueue(path, Spring(), 2, spacing=20.0, executor=executor)
        run(dynamics(seed=2), 100, [Guard(flag_above=FLAG), queue])
        assert executor.submit(int, "3").result() == 3  # not shut down: it is not the queue's
    assert len(ase.io.read(path, ":")) == 2


def test_the_legs_of_a_run_queue_as_one_run(tmp_path):
    """The same frames, each once, whose steps count on; the number of calls is that of all legs."""
    steps = []
    for legs in (1, 3):
        path = tmp_path / f"{legs}.xyz"
        queue = RecalculationQueue(path, Spring(), 3, spacing=20.0)
        hooks = [Guard(flag_above=FLAG), queue, Recorder(tmp_path / f"{legs}.h5")]
        moved = dynamics()
        for _ in range(legs):
            run(moved, 240 // legs, hooks)
        labelled = ase.io.read(path, ":")
        assert len(labelled) == 3
        assert {atoms.info["run_id"] for atoms in labelled} == {Trajectory(hooks[2].path).run_id}
        steps.append([atoms.info["step"] for atoms in labelled])
    # a row of flagged frames that a leg cuts is two rows
    flagged = Trajectory(tmp_path / "3.h5").flags
    assert set(steps[1]) <= set(flagged)
    assert len(set(steps[1])) == 3


def test_frames_that_are_not_flagged_or_overlap_cost_nothing(tmp_path):
    queue = RecalculationQueue(tmp_path / "live.xyz", Spring(), 5, spacing=0.0)
    run(dynamics(), 50, [Guard(flag_above=100.0), queue])
    assert not (tmp_path / "live.xyz").exists()
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1] = atoms.positions[0] + [0.8, 0, 0]
    from ase.calculators.emt import EMT
    from ase.md.verlet import VelocityVerlet

    from md_hooks import Action

    atoms.calc = EMT()
    run(VelocityVerlet(atoms, 0.01 * units.fs), 3, [lambda frame: Action.FLAG, queue])
    assert not (tmp_path / "live.xyz").exists()


@pytest.mark.parametrize("wrong", [{"max_calls": 0}, {"threads": 0}, {"spacing": -1.0}])
def test_numbers_that_make_no_sense(tmp_path, wrong):
    with pytest.raises(HookError, match="give at least"):
        RecalculationQueue(tmp_path / "x.xyz", Spring(), **{"max_calls": 1, **wrong})


KILLED = """
from test_queue import *
from concurrent.futures import wait
from pathlib import Path
import os, signal
queue = RecalculationQueue("live.xyz", Spring(), 9, spacing=10.0)

def killer(frame):
    campaign = queue._open_campaign
    if campaign is not None and campaign.running:
        wait(campaign.running)
    # the first label is in the journal: the process dies in the middle of the run
    if campaign is not None and len(campaign.journal.labels) >= 1:
        os.kill(os.getpid(), signal.SIGKILL)

run(dynamics(), 100_000_000, [Guard(flag_above=FLAG), queue, killer])
"""


def test_labels_survive_kill_9(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=tmp_path, check=False,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)), capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == -signal.SIGKILL, answer.stderr
    with ThreadPoolExecutor(1) as executor:
        from md_hooks.recalculation import Campaign

        campaign = Campaign(tmp_path / "live.xyz", Spring(), executor)
        campaign.close()
    assert len(campaign.journal.labels) >= 1
    assert len(ase.io.read(tmp_path / "live.xyz", ":")) == len(campaign.journal.labels)


def test_the_hooks_know_no_models():
    code = (
        "import sys, md_hooks, md_hooks.recalculation; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'openmm', 'forcedelta')))"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )  # fmt: skip
