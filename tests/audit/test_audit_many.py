"""Several trajectories, in processes and on a Dask cluster of which a worker is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import ase.io
import numpy as np
import pytest
from shaken import moving

from forcedelta.audit import audit
from forcedelta.audit.many import audit_one, plan, version_of
from forcedelta.errors import ForceDeltaError
from md_hooks import Trajectory


def write(folder: Path, names: str, frames: int) -> list[str]:
    paths = []
    for seed, name in enumerate(names):
        images = moving(20, seed)
        path = folder / f"{name}.traj"
        with ase.io.Trajectory(path, "w") as out:
            for k in range(frames):
                out.write(images[k % 20])
        paths.append(str(path))
    return paths


def test_many_are_each_one(files, here):
    paths = write(here, "abc", 20)
    results = audit(paths, files / "wet.safetensors", "many", flag_above=0.1, flags="yes")
    assert [result.out for result in results] == ["many/a.h5", "many/b.h5", "many/c.h5"]
    with ThreadPoolExecutor(3) as executor:
        again = audit(
            paths, files / "wet.safetensors", "threads", flag_above=0.1, executor=executor
        )
    for one, two, path in zip(results, again, paths, strict=True):
        audit(path, files / "wet.safetensors", "one.h5", mode="overwrite")
        u = Trajectory("one.h5").series["force_delta"]
        for result in (one, two):
            np.testing.assert_allclose(Trajectory(result.out).series["force_delta"], u, rtol=1e-5)
        assert Path(one.out).with_suffix(".xyz").exists() == (one.flagged > 0)


@pytest.mark.slow
def test_workers(forcedelta, files, here):
    """Processes; a file that cannot be read does not keep the others from being audited."""
    paths = write(here, "ab", 30)
    Path("bad.xyz").write_text("9\n\nC 0 0 0\n")
    code, out, err = forcedelta(
        "audit", *paths, "bad.xyz", "--model", files / "wet.safetensors", "--workers", 2, "--out", "many",
        "--json",
    )  # fmt: skip
    assert code == 2
    assert "bad.xyz: holds no readable frame (the file ends in the middle" in err
    for name in "ab":
        assert len(Trajectory(f"many/{name}.h5").series["step"]) == 30
    # what is done already is not done again
    code, out, err = forcedelta(
        "audit", *paths, "--model", files / "wet.safetensors", "--out", "many", "--json", "--restart",
        "--report", "all.html",
    )  # fmt: skip
    assert code == 0, err
    assert [one["audited"] for one in json.loads(out)["audits"]] == [30, 30]
    assert Path("all.html").read_text().count("<h2") == 2


@pytest.mark.parametrize("threads", [0, 2])
def test_one_of_several_that_fails_has_its_error_in_its_result(threads, files, here):
    """However it fails; the only trajectory raises it."""
    long, short = write(here, "ab", 20)[0], "short.xyz"
    ase.io.write(short, ase.io.read(long, ":3"))
    Path("strange.bin").write_bytes(bytes(range(200, 256)))
    wet = files / "wet.safetensors"
    with ThreadPoolExecutor(threads) if threads else nullcontext() as executor:
        results = audit([short, long, "strange.bin"], wet, "many", start=5, executor=executor)
    assert [result.reason for result in results] == ["failed", "finished", "failed"]
    assert [result.audited for result in results] == [0, 15, 0]
    assert results[0].problem.startswith("has 3 frames (counted from 0) and none from --start 5")
    assert "format" in results[2].problem
    assert "the audit failed" in results[0].line
    for path, words in ((short, "none from --start 5"), ("strange.bin", "format")):
        with pytest.raises(ForceDeltaError, match=words):
            audit(path, wet, "one.h5", start=5)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_model_that_cannot_be_used_is_reported_once(threads, files, here, caplog):
    paths = write(here, "abc", 3)
    for model, options, words in (
        ("no-such-model", {}, "no model is called"),
        (files / "wet.safetensors", {"charge": 1}, "charge"),
    ):
        with (
            ThreadPoolExecutor(threads) if threads else nullcontext() as executor,
            pytest.raises(ForceDeltaError, match=words),
        ):
            audit(paths, model, "many", executor=executor, **options)
    assert caplog.messages == []
    assert not list(Path("many").iterdir())


def test_jobs_that_replace_files(files, here):
    """They do once they have a model, and a job that is submitted again goes on."""
    paths = write(here, "ab", 20)
    wet = files / "wet.safetensors"
    audit(paths, wet, "many")
    before = Path("many/a.h5").read_bytes()
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ForceDeltaError, match="no model is called"):
            audit(paths, "no-such-model", "many", executor=executor, mode="overwrite")
        assert Path("many/a.h5").read_bytes() == before
        audit(paths, wet, "many", executor=executor, mode="overwrite", every=2)
    assert len(Trajectory("many/a.h5").series["step"]) == 10
    first = Trajectory("many/a.h5").runs
    [job] = plan([paths[0]], "many/a.h5", model=str(wet), every=2)
    stale = version_of("many/b.h5")
    assert audit_one(job, "", replaces=stale).audited == 10
    assert len(Trajectory("many/a.h5").runs) == len(first) + 1
    assert audit_one(job, "", replaces=version_of("many/a.h5")).audited == 10
    assert len(Trajectory("many/a.h5").runs) == 1


# The first worker whose file has a hundred frames dies of kill -9.
CLUSTER = """
import os
import signal
import sys

from distributed import Client, LocalCluster
from forcedelta.audit import audit

def die_once():
    from md_hooks import Recorder, recorder
    recorder.MAX_ROWS = 50  # written out twice by then
    observe = Recorder.observe
    def observe_and_die(self, frame, verdict):
        observe(self, frame, verdict)
        if frame.step == 100:
            try:
                with open("died", "x") as note:
                    note.write(self.run_file)
            except FileExistsError:  # another worker did
                return
            os.kill(os.getpid(), signal.SIGKILL)
    Recorder.observe = observe_and_die

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        with Client(cluster) as client, client.get_executor(retries=2) as executor:
            client.run(die_once)
            for result in audit(sys.argv[2:], sys.argv[1], "many", executor=executor):
                print(result.audited)
"""


def test_dask_and_a_worker_that_is_killed(files, here):
    pytest.importorskip("distributed")
    frames = 300
    paths = write(here, "abc", frames)
    Path("cluster.py").write_text(CLUSTER)
    done = subprocess.run(
        [sys.executable, "cluster.py", files / "wet.safetensors", *paths],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(frames)] * 3
    victim = Path("died").read_text()
    assert len(list(Path("many").glob("*.h5"))) == 3
    for file in Path("many").glob("*.h5"):
        trajectory = Trajectory(file)
        np.testing.assert_array_equal(trajectory.series["source_frame"], range(frames))
        assert np.isfinite(trajectory.series["force_delta"]).all()
        assert trajectory.outcome["reason"] == "finished"
        # the job of the killed worker was begun anew, and went on where its file ended
        assert len(trajectory.runs) == (2 if file.samefile(victim) else 1)


def test_a_model_in_memory_stays_here(files, here):
    from forcedelta import load_model

    model = load_model(files / "wet.safetensors")
    [result] = audit(files / "move.xyz", model, "a.h5")
    assert result.audited == 24
    with ThreadPoolExecutor(1) as executor, pytest.raises(Exception, match="in memory"):
        audit(files / "move.xyz", model, "b.h5", executor=executor)
