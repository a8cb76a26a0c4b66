"""Several trajectories, in processes and on a Dask cluster of which a worker is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
import pytest
from shaken import moving

from forcedelta.audit import audit
from forcedelta.audit.many import audit_one, plan, version_of
from forcedelta.errors import ForceDeltaError
from md_hooks import HookError, Trajectory


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
    results = audit(paths, files / "wet.safetensors", "many", flag_above="0.1", flags="yes")
    assert [result.out for result in results] == ["many/a.h5", "many/b.h5", "many/c.h5"]
    with ThreadPoolExecutor(3) as executor:
        again = audit(
            paths, files / "wet.safetensors", "threads", flag_above="0.1", executor=executor
        )
    for one, two, path in zip(results, again, paths, strict=True):
        audit(path, files / "wet.safetensors", "one.h5", mode="overwrite")
        u = Trajectory("one.h5").series["force_delta"]
        for result in (one, two):
            np.testing.assert_allclose(Trajectory(result.out).series["force_delta"], u, rtol=1e-5)
        assert Path(one.out).with_suffix(".xyz").exists() == (one.flagged > 0)


def test_workers(forcedelta, files, here):
    """Processes; a file that cannot be read does not keep the others from being audited."""
    paths = write(here, "ab", 30)
    Path("bad.xyz").write_text("9\n\nC 0 0 0\n")
    code, out, err = forcedelta(
        "audit", *paths, "bad.xyz", "--model", files / "wet.safetensors", "--workers", 2, "--out", "many",
        "--json",
    )  # fmt: skip
    assert code == 2
    assert "bad.xyz holds no frame that can be read (the file ends in the middle" in err
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


CLUSTER = """
import os
import sys

from distributed import Client, LocalCluster
from forcedelta.audit import audit

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        with Client(cluster) as client, client.get_executor(retries=2) as executor:
            print(*client.run(os.getpid).values(), flush=True)
            for result in audit(sys.argv[2:], sys.argv[1], "many", executor=executor):
                print(result.audited, flush=True)
"""


def worker_at(pids: list[int], path: Path) -> int | None:
    """The process that has the file open."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if descriptor.readlink() == path.absolute():
                        return pid
    return None


def half_done(folder: Path, frames: int) -> Path | None:
    """A file that has its first frames but not all."""
    for path in folder.glob("*.h5"):
        with contextlib.suppress(HookError):  # not written yet
            if 0 < len(Trajectory(path).series["step"]) < frames:
                return path
    return None


def test_dask_and_a_worker_that_is_killed(files, here):
    frames = 1500
    paths = write(here, "abc", frames)
    Path("cluster.py").write_text(CLUSTER)
    process = subprocess.Popen(
        [sys.executable, "cluster.py", files / "wet.safetensors", *paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        end = time.monotonic() + 60
        victim = path = None
        while victim is None and time.monotonic() < end:
            time.sleep(0.02)
            path = half_done(Path("many"), frames)
            victim = path and worker_at(workers, path)
        os.kill(victim, signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert out.split() == [str(frames)] * 3
    for file in Path("many").glob("*.h5"):
        trajectory = Trajectory(file)
        np.testing.assert_array_equal(trajectory.series["source_frame"], range(frames))
        assert np.isfinite(trajectory.series["force_delta"]).all()
        assert trajectory.outcome["reason"] == "finished"
        # the job of the killed worker was begun anew, and went on where its file ended
        assert len(trajectory.runs) == (2 if file == path else 1)


def test_a_model_in_memory_stays_here(files, here):
    from forcedelta import load_model

    model = load_model(files / "wet.safetensors")
    [result] = audit(files / "move.xyz", model, "a.h5")
    assert result.audited == 24
    with ThreadPoolExecutor(1) as executor, pytest.raises(Exception, match="in memory"):
        audit(files / "move.xyz", model, "b.h5", executor=executor)
