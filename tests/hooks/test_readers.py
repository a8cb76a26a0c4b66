"""The recorded file in other people's readers, in ASE's, and flagged frames in ase.io."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import ase.io
import ase.io.formats
import h5py
import numpy as np
import pytest
from ase import units
from helpers import argon, frame, langevin

from md_hooks import (
    Action,
    FlagStore,
    Guard,
    HookChain,
    HookError,
    Progress,
    Recorder,
    RunInfo,
    RunResult,
    Trajectory,
    Verdict,
    run,
)
from md_hooks.flags import HASH_PREFIX
from md_hooks.progress import print_line

DONE = RunResult("finished", 0, 0.0)


@pytest.fixture(scope="module", params=["molecule", "crystal"])
def recorded(request, tmp_path_factory):
    """A run of 43 steps with a frame each 10 and one flagged in between, and its frames."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    frames = {}

    def keep(one):
        frames[one.step] = one
        return Action.FLAG if one.step == 25 else None

    run(langevin(argon(periodic=request.param == "crystal")), 43, [keep, Recorder(path)])
    return path, [frames[step] for step in (0, 10, 20, 25, 30, 40, 43)]


def test_mdanalysis(recorded):
    MDAnalysis = pytest.importorskip("MDAnalysis")
    path, frames = recorded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, about masses and types of an empty topology
        universe = MDAnalysis.Universe.empty(8, trajectory=True)
        universe.load_new(str(path), format="H5MD")
    assert len(universe.trajectory) == len(frames)
    for snapshot, one in zip(universe.trajectory, frames, strict=True):
        assert snapshot.data["step"] == one.step
        assert snapshot.time == pytest.approx(one.time / 1000)  # ps
        np.testing.assert_allclose(snapshot.positions, one.positions, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(snapshot.velocities, one.velocities * 1000, rtol=1e-5, atol=1e-9)
        factor = units.mol / units.kJ
        np.testing.assert_allclose(snapshot.forces, one.forces * factor, rtol=1e-5, atol=1e-6)
        # the observables of *this* frame, not of the step with the frame's number
        data = snapshot.data
        assert data["trajectory/potential_energy"] == one.energy
        assert data["trajectory/force_delta"] == one.force_delta
        if one.pbc.any():
            np.testing.assert_allclose(snapshot.dimensions, [10.6, 5.3, 5.3, 90, 90, 90], rtol=1e-6)
        else:
            assert snapshot.dimensions is None
    universe.trajectory.close()


def test_mdanalysis_without_a_topology(recorded, tmp_path):
    MDAnalysis = pytest.importorskip("MDAnalysis")
    path, frames = recorded
    copy = tmp_path / "run.h5md"
    copy.write_bytes(path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe = MDAnalysis.Universe(str(copy))
    assert (len(universe.atoms), len(universe.trajectory)) == (8, len(frames))
    universe.trajectory.close()


def test_pyh5md(recorded):
    pyh5md = pytest.importorskip("pyh5md")
    path, frames = recorded
    with pyh5md.File(str(path), "r") as file:
        particles = file.particles_group("trajectory")
        for name, attribute in (("position", "positions"), ("velocity", "velocities")):
            element = pyh5md.element(particles, name)
            assert element.element_type == "TimeElement"
            np.testing.assert_array_equal(element.step[:], [f.step for f in frames])
            np.testing.assert_array_equal(element.time[:], [f.time for f in frames])
            values = [getattr(f, attribute) for f in frames]
            np.testing.assert_array_equal(element.value[:], values)
        for group, name in (("observables/trajectory", "temperature"), ("per_step", "temperature")):
            element = pyh5md.element(file[group], name)
            assert element.value.shape == element.step.shape == element.time.shape
        assert len(element.value) == 44
        assert particles["box"].attrs["dimension"] == 3


def test_znh5md(recorded):
    znh5md = pytest.importorskip("znh5md")
    path, frames = recorded
    images = znh5md.IO(path)[:]
    assert len(images) == len(frames)
    for atoms, one in zip(images, frames, strict=True):
        np.testing.assert_array_equal(atoms.numbers, one.numbers)
        np.testing.assert_array_equal(atoms.positions, one.positions)
        np.testing.assert_allclose(atoms.cell.array, one.cell)
        np.testing.assert_array_equal(atoms.pbc, one.pbc)
        assert atoms.calc.results["energy"] == one.energy
        assert atoms.info["force_delta"] == pytest.approx(one.force_delta)
        np.testing.assert_allclose(atoms.arrays["force_deltas"], one.force_deltas, rtol=1e-6)


def test_readers_take_frames_without_u(tmp_path):
    path = tmp_path / "run.h5"
    run(langevin(argon(every=4)), 9, [Recorder(path, every=1)])
    images = ase.io.read(path, ":", format="forcedelta-h5md")
    assert ["force_delta" in atoms.info for atoms in images] == [i % 4 == 0 for i in range(10)]
    images = pytest.importorskip("znh5md").IO(path)[:]
    assert ["force_deltas" in atoms.arrays for atoms in images] == [i % 4 == 0 for i in range(10)]


def test_units_are_attributes(recorded):
    path, _ = recorded
    with h5py.File(path) as file:
        particles = file["particles/trajectory"]
        expected = {
            "position/value": "Angstrom",
            "velocity/value": "Angstrom fs-1",
            "force/value": "kJ mol-1 Angstrom-1",
            "position/time": "fs",
            "box/edges/value": "Angstrom",
            "force_deltas/value": "eV Angstrom-1",
        }
        for name, unit in expected.items():
            assert particles[name].attrs["unit"] == unit
        assert file["per_step/potential_energy/value"].attrs["unit"] == "eV"
        assert list(file["h5md"].attrs["version"]) == [1, 1]
        assert particles["position/value"].dtype == "f8"
        assert particles["force/value"].dtype == "f4"


# --- ASE -----------------------------------------------------------------------------------------

REGISTERED = "forcedelta-h5md" in ase.io.formats.ioformats
needs_entry_point = pytest.mark.skipif(not REGISTERED, reason="the package is not installed")


@needs_entry_point
def test_ase_reads_our_files_and_leaves_others(recorded, tmp_path):
    pytest.importorskip("znh5md")
    path, _ = recorded
    assert ase.io.formats.filetype(str(path)) == "forcedelta-h5md"
    assert ase.io.formats.extension2format["h5"].name == "znh5md"  # it keeps its extension
    other = tmp_path / "other.h5"
    ase.io.write(other, [argon()])
    assert ase.io.formats.filetype(str(other)) == "znh5md"
    assert len(ase.io.read(other)) == 8


@needs_entry_point
def test_ase_read(recorded):
    path, frames = recorded
    images = ase.io.read(path, ":")
    assert len(images) == len(frames)
    for atoms, one in zip(images, frames, strict=True):
        np.testing.assert_array_equal(atoms.positions, one.positions)
        np.testing.assert_array_equal(atoms.pbc, one.pbc)
        np.testing.assert_allclose(atoms.get_velocities() * units.fs, one.velocities, rtol=1e-12)
        assert (atoms.info["step"], atoms.info["time"]) == (one.step, one.time)
        assert atoms.info["force_delta"] == one.force_delta
        assert atoms.info["model"] == "two-forces"
        assert atoms.get_potential_energy() == one.energy
        np.testing.assert_allclose(atoms.get_forces(), one.forces, rtol=1e-5, atol=1e-7)
        for name in ("force_deltas", "direct_forces", "conservative_forces"):
            np.testing.assert_allclose(atoms.arrays[name], getattr(one, name), rtol=1e-5, atol=1e-7)
    assert ase.io.read(path).info["step"] == 43
    assert ase.io.read(path, 3).info["step"] == 25
    assert ase.io.read(path, -2).info["step"] == 40
    assert ase.io.read(f"{path}@1").info["step"] == 10
    assert [a.info["step"] for a in ase.io.read(path, "1:6:2")] == [10, 25, 40]
    assert [a.info["step"] for a in ase.io.read(path, "::-3")] == [43, 25, 0]


@needs_entry_point
def test_ase_convert(recorded, tmp_path):
    path, frames = recorded
    out = tmp_path / "out.xyz"
    code = "from ase.cli.main import main; main(args=['convert', *__import__('sys').argv[1:]])"
    subprocess.run([sys.executable, "-c", code, str(path), str(out)], check=True)
    images = ase.io.read(out, ":")
    assert len(images) == len(frames)
    np.testing.assert_allclose(images[3].arrays["force_deltas"], frames[3].force_deltas, atol=1e-7)
    assert images[3].info["force_delta"] == pytest.approx(frames[3].force_delta, rel=1e-7)


@needs_entry_point
def test_ase_says_what_is_wrong_with_a_cut_off_file(recorded, tmp_path):
    copy = tmp_path / "run.h5"
    copy.write_bytes(recorded[0].read_bytes()[:20_000])
    with pytest.raises(HookError, match="cut off"):
        ase.io.read(copy)


def test_importing_either_first_works():
    for first in ("md_hooks", "ase.io"):
        code = f"import {first}, md_hooks, ase.io"
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# --- flagged frames ------------------------------------------------------------------------------


def test_flagged_frames_come_back_with_their_provenance(tmp_path):
    path = tmp_path / "flags.xyz"
    atoms = argon(error=0.5)
    seen = []
    hooks = [Guard(flag_above=0.004, stop_above=0.03), Recorder(tmp_path / "r.h5", every=50)]
    result = run(langevin(atoms), 400, [*hooks, FlagStore(path), seen.append])
    assert result.reason == "stopped"
    flags = Trajectory(tmp_path / "r.h5").flags
    images = ase.io.read(path, ":")
    assert [a.info["step"] for a in images] == list(flags)
    assert result.step not in flags  # an unphysical frame is not a candidate
    for image in images[:5]:
        one = seen[image.info["step"]]
        np.testing.assert_allclose(image.positions, one.positions, atol=1e-8)
        np.testing.assert_allclose(image.get_momenta(), image.arrays["momenta"])
        for name in ("force_deltas", "direct_forces", "conservative_forces"):
            np.testing.assert_allclose(image.arrays[name], getattr(one, name), atol=1e-8)
        info = image.info
        assert info["force_delta"] == pytest.approx(one.force_delta)
        assert info["time"] == one.time
        assert info["worst_atom"] == one.worst_atom
        assert info["model_energy"] == pytest.approx(one.energy)
        assert info["run"] == str(tmp_path / "r.h5")
        assert info["model"] == "two-forces"
        assert info["weights_hash"] == HASH_PREFIX + "123456"
        assert "above the flag threshold" in info["reason"]
        # nothing that a training program would take for labels
        assert image.calc is None
        assert not {"energy", "forces"} & (set(info) | set(image.arrays))


def flag(store, *frames, info=None):
    chain = HookChain([lambda f: Action.FLAG, store])
    chain.open(info or RunInfo(run_file="a b.h5"))
    for one in frames:
        chain.dispatch(one)
    chain.close(DONE)


def steps_in(path):
    return [int(a.info["step"]) for a in ase.io.read(path, ":")]


def test_flags_after_a_restart_are_not_repeated(tmp_path):
    path = tmp_path / "flags.xyz"
    store = FlagStore(path)
    flag(store, frame(step=3), info=RunInfo(run_file="other.h5"))
    flag(store, *(frame(step=i) for i in range(5)))
    flag(store, frame(step=3), frame(step=4), info=RunInfo(run_file="a b.h5", restart_step=2))
    assert steps_in(path) == [3, 0, 1, 2, 3, 4]
    flag(store, frame(step=9))
    assert steps_in(path) == [3, 0, 1, 2, 3, 4, 9]


def test_a_half_written_flag_is_dropped(tmp_path):
    path = tmp_path / "flags.xyz"
    flag(FlagStore(path), frame(step=0), frame(step=1))
    text = path.read_bytes()
    path.write_bytes(text[:-30])
    flag(FlagStore(path), frame(step=2))
    assert steps_in(path) == [0, 2]


def test_flags_need_no_u(tmp_path):
    path = tmp_path / "flags.xyz"
    flag(FlagStore(path), frame(u=None), frame(step=1))
    assert "force_delta" not in ase.io.read(path, 0).info


def test_flags_that_cannot_be_written(tmp_path):
    with pytest.raises(HookError, match=r"flags\.xyz cannot be written"):
        flag(FlagStore(tmp_path / "none" / "flags.xyz"), frame())


# --- progress ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_piped_is_plain_lines():
    out = io.StringIO()
    hooks = [Guard(stop_above=3.0, flag_above=0.0), Progress(out, clock=lambda: 0.0)]
    run(langevin(argon()), 20, hooks)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2  # the first and the last
    for part in ("step 20/20", "40.0 fs", " K", "eV/Å", "worst Ar", "stop > 3.000", "flagged"):
        assert part in lines[-1]
    assert "\r" not in out.getvalue()


def test_progress_in_lines_at_intervals_with_the_time_left():
    out, now = io.StringIO(), [100.0]
    hook = Progress(out, clock=lambda: now[0])
    hook.open(RunInfo(planned_steps=100))
    for step in range(51):
        hook.observe(frame(step=step), Verdict(Action.CONTINUE))
        now[0] += 3.0  # s
    hook.close(DONE)
    lines = out.getvalue().splitlines()
    # a line at the first step, then every ten seconds, and at the end
    assert [int(line.split("/")[0].removeprefix("step ")) for line in lines] == [
        0, *range(4, 51, 4), 50,
    ]  # fmt: skip
    assert "left" not in lines[0]
    assert lines[1].endswith("  04:48 left")  # 96 steps at 3 s each: 4 of them took 12 s
    assert lines[12].endswith("  02:36 left")


def test_progress_on_a_terminal_is_two_lines_of_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    out, now = Terminal(), [0.0]
    thresholds = [{"stop_threshold": 1.25, "flag_threshold": 0.75}]
    hook = Progress(out, clock=lambda: now[0])
    hook.open(RunInfo(planned_steps=1_000_000, policies=lambda: thresholds))
    hook.observe(frame(step=0, u=0.123), Verdict(Action.CONTINUE))
    now[0] = 3600.01
    hook.observe(frame(step=100_000, u=1.123), Verdict(Action.FLAG))
    hook.close(DONE)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).replace("\r", "\n").split("\n")
    first, second = [line for line in lines if line][-2:]
    assert len(first) == 80
    assert len(second) <= 80
    assert first.startswith("step 100000/1000000")
    assert re.search(r"(8:59|9:00):\d\d left$", first)
    for part in ("T ", "U 1.123 eV/Å", "stop > 1.250", "flag > 0.750", "flagged 1", "worst O2"):
        assert part in second


def test_warnings_appear_above_the_lines_of_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    before, out = sys.stderr, Terminal()
    hook = Progress(out)
    hook.open(RunInfo(planned_steps=10))
    hook.observe(frame(step=0, u=0.123), Verdict(Action.CONTINUE))
    print_line("warning: watch out")
    hook.close(DONE)
    assert sys.stderr is before
    text = out.getvalue()
    assert text.index("step 0/10") < text.index("warning: watch out") < text.rindex("step 0/10")


@pytest.mark.parametrize("name", ["TERM", "NO_COLOR"])
def test_progress_on_plain_terminals(monkeypatch, name):
    """Without cursor control there are plain lines; with NO_COLOR no colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, "dumb" if name == "TERM" else "1")
    out = Terminal()
    run(langevin(argon()), 20, [Guard(stop_above="auto"), Progress(out)])
    text = out.getvalue()
    assert "20/20" in text
    assert "burn-in" in text
    assert not re.search(r"\x1b\[[0-9;]*m" if name == "NO_COLOR" else "\x1b", text)


def test_progress_keeps_the_last_u():
    out = io.StringIO()
    hook = Progress(out)
    hook.open(RunInfo())
    hook.observe(frame(step=0, u=0.123), Verdict(Action.CONTINUE))
    hook.observe(replace(frame(step=1, u=None), temperature=0.0), Verdict(Action.CONTINUE))
    hook.close(DONE)
    assert "T 0 K" in out.getvalue().splitlines()[-1]
    assert "U 0.123" in out.getvalue().splitlines()[-1]
