"""Foreign and damaged files: one line from every reader, and from a run that would go on in them."""

from __future__ import annotations

import os
import random
import shutil

import ase.io
import h5py
import numpy as np
import pytest
from test_guard import frame
from test_recorder import frames, record

from md_hooks import Guard, HookError, Recorder, RunInfo, Trajectory, load_checkpoint
from md_hooks.h5md import checkpoint as ckpt
from md_hooks.h5md.remark import Remark

pytestmark = pytest.mark.slow

PARTICLES, OBSERVABLES = "particles/trajectory", "observables/trajectory"
RUN = "parameters/runs/0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A recorded run that holds everything, with checksums."""
    path = tmp_path_factory.mktemp("whole") / "r.h5"
    rng = np.random.default_rng(3)
    made = [
        frame(
            step=i, u=0.1 + i / 100, positions=rng.normal(size=(4, 3)),
            forces=rng.normal(size=(4, 3)), direct_forces=rng.normal(size=(4, 3)),
            velocities=rng.normal(size=(4, 3)),
        )
        for i in range(30)
    ]  # fmt: skip
    state = {"numbers": np.arange(5.0)}
    info = RunInfo(model={"name": "m"}, settings={"a": 1}, checkpoint=lambda: state)
    record(path, made, info=info, hooks=[Guard(flag_above=0.2, stop_above=5.0)])
    return path


@pytest.fixture(scope="module")
def bare(whole, tmp_path_factory):
    """The same without checksums, as older versions write it."""
    path = tmp_path_factory.mktemp("bare") / "r.h5"
    shutil.copy(whole, path)
    with h5py.File(path, "r+") as file:
        for name in ("parameters/checksums", "per_step/checksum", f"{OBSERVABLES}/checksum"):
            del file[name]
    assert len(Trajectory(path)) == 30
    return path


def read_all(path):
    trajectory = Trajectory(path)
    return trajectory, list(trajectory.frames()), trajectory.remarks()


def refused(path, match):
    """Every way to read it, and to go on in it, ends in one line; the file stays as it is."""
    before = path.read_bytes()
    for read in (
        read_all,
        lambda p: ase.io.read(p, ":", format="forcedelta-h5md"),
    ):
        with pytest.raises(HookError, match=match) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(HookError, match=match):
        load_checkpoint(path)
    with pytest.raises(HookError, match=match):
        Recorder(path, mode="append").open(RunInfo())
    assert path.read_bytes() == before


# --- what leads out of the file ------------------------------------------------------------------


def soft(file, name):
    file[name] = h5py.SoftLink("/per_step/step")


def external(file, name):
    file[name] = h5py.ExternalLink("other.h5", "/secret")


def raw(file, name):
    file.create_dataset(name, (30,), "f8", external=[("secret", 0, 240)])


def virtual(file, name):
    layout = h5py.VirtualLayout((30,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (30,))
    file.create_virtual_dataset(name, layout)


def reference(file, name):
    file.create_dataset(name, data=file["h5md"].ref, dtype=h5py.ref_dtype)


def named_type(file, name):
    file[name] = np.dtype("f8")


@pytest.mark.parametrize("make", [soft, external, raw, virtual, reference, named_type])
@pytest.mark.parametrize("name", ["per_step/potential_energy/value", "elsewhere"])
def test_nothing_is_read_through_links_or_from_other_files(whole, tmp_path, make, name):
    path = tmp_path / "r.h5"
    shutil.copy(whole, path)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.arange(30.0)
    (tmp_path / "secret").write_bytes(b"secret " * 40)
    before = [(tmp_path / name).read_bytes() for name in ("other.h5", "secret")]
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        make(file, name)
    refused(path, name)
    assert before == [(tmp_path / name).read_bytes() for name in ("other.h5", "secret")]


def test_the_creator_is_not_looked_up_elsewhere(whole, tmp_path):
    path = tmp_path / "r.h5"
    with h5py.File(path, "w") as file:
        file["h5md"] = h5py.ExternalLink(str(whole), "/h5md")
    with pytest.raises(HookError, match="was not written by a Recorder"):
        Trajectory(path)


def test_a_group_within_itself_and_too_many_groups(whole, tmp_path):
    for what in ("loop", "many"):
        path = tmp_path / f"{what}.h5"
        shutil.copy(whole, path)
        with h5py.File(path, "r+") as file:
            if what == "loop":
                file[f"{PARTICLES}/again"] = file["particles"]
            else:
                for number in range(10_001):
                    file.create_group(f"g/{number}")
        refused(path, "groups within groups|more than 10000 objects")


# --- what is not as a Recorder writes it ---------------------------------------------------------


def core_paths():
    return [
        *(f"{PARTICLES}/{name}/value" for name in ("position", "velocity", "force", "species")),
        f"{PARTICLES}/box/edges/value",
        *(f"{OBSERVABLES}/{name}/value" for name in ("potential_energy", "action", "worst_atom")),
        *(f"per_step/{name}/value" for name in ("force_delta", "action", "temperature")),
        "per_step/step",
        f"{PARTICLES}/position/step",
        "parameters/masses",
    ]


@pytest.mark.parametrize("path", core_paths())
def test_what_is_missing_or_of_another_shape_or_type(whole, tmp_path, path):
    for how in ("gone", "text", "wider", "shorter", "claimed", "swapped", "group"):
        if how == "swapped" and path == "parameters/masses":
            continue  # HDF5 converts it
        copy = tmp_path / "r.h5"
        shutil.copy(whole, copy)
        with h5py.File(copy, "r+") as file:
            values = file[path][()]
            del file[path]
            if how == "group":
                file.create_group(path)
            elif how == "claimed":  # rows that are not in the file
                shape = (10**12, *values.shape[1:])
                file.create_dataset(path, shape, values.dtype, chunks=(1, *values.shape[1:]))
            elif how == "swapped":
                other = values.dtype.newbyteorder() if values.itemsize > 1 else "i8"
                file[path] = values.astype(other)
            elif how != "gone":
                file[path] = {
                    "text": np.full(values.shape, b"x"), "wider": values[..., None],
                    "shorter": values[:0],
                }[how]  # fmt: skip
        if how == "shorter" and path.endswith("/step"):
            assert 0 in (len(Trajectory(copy)), len(Trajectory(copy).series["step"]))
        else:
            refused(copy, "is damaged")


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("per_step/action/value", 3, "step 4 has the action 3"),
        ("per_step/worst_atom/value", 4, "step 4 has the worst atom 4"),
        ("per_step/step", 2, "row 4 is step 2, after step 3"),
        (f"{PARTICLES}/species/value", 119, "frame 4 has the species 119"),
        (f"{PARTICLES}/species/value", -7, "frame 4 has the species -7"),
        (f"{OBSERVABLES}/worst_atom/value", -2, "frame 4 has the worst atom -2"),
        (f"{PARTICLES}/position/step", 2, "frame 4 is step 2, after step 3"),
        ("parameters/masses", -1.0, "a mass is negative"),
        ("parameters/masses", np.nan, "a mass is negative or not finite"),
    ],
)
def test_values_that_stand_for_nothing(bare, tmp_path, path, value, match):
    copy = tmp_path / "r.h5"
    shutil.copy(bare, copy)
    with h5py.File(copy, "r+") as file:
        file[path][min(4, len(file[path]) - 1)] = value
    with pytest.raises(HookError, match=match):
        read_all(copy)


@pytest.mark.parametrize(
    "boundary", ["none", ["none", "none"], ["none", "none", "perodic"], [1, 2, 3], None]
)
def test_a_boundary_that_is_none(bare, tmp_path, boundary):
    copy = tmp_path / "r.h5"
    shutil.copy(bare, copy)
    with h5py.File(copy, "r+") as file:
        attributes = file[f"{PARTICLES}/box"].attrs
        del attributes["boundary"]
        if boundary is not None:
            attributes["boundary"] = boundary
    refused(copy, "boundary")


@pytest.mark.parametrize("name", ["info", "outcome", "policies"])
@pytest.mark.parametrize(
    "text", ["{", "5", "null", '"x"', "[" * 10_000, b"\xff\xfe", 7, np.arange(3), None]
)
def test_what_a_run_says_about_itself_is_no_json(bare, tmp_path, name, text):
    copy = tmp_path / "r.h5"
    shutil.copy(bare, copy)
    with h5py.File(copy, "r+") as file:
        del file[RUN].attrs[name]
        if text is not None:
            file[RUN].attrs[name] = text
    refused(copy, name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("info", '{"model": 5}'),
        ("info", '{"settings": [1]}'),
        ("outcome", '{"reason": 5}'),
        ("policies", '[{"stop_threshold": "x", "on": "force_delta", "flag_threshold": null}]'),
        ("policies", '[{"stop_threshold": NaN, "on": "force_delta", "flag_threshold": null}]'),
        ("policies", "[5]"),
    ],
)
def test_what_a_run_says_about_itself_makes_no_sense(bare, tmp_path, name, text):
    copy = tmp_path / "r.h5"
    shutil.copy(bare, copy)
    with h5py.File(copy, "r+") as file:
        file[RUN].attrs[name] = text
    refused(copy, "of run 0")


def test_a_checkpoint_that_only_looks_like_one(whole, tmp_path):
    copy = tmp_path / "r.h5"
    shutil.copy(whole, copy)
    good = load_checkpoint(copy)
    bad = [{"positions": np.zeros(3)}, {"cell": np.zeros(3)}, {"step": "x"}, {"state": [1]},
           {"velocities": np.zeros((2, 3))}, {"positions": "x"}]  # fmt: skip
    for change in bad:
        blob = ckpt.encode(ckpt.Checkpoint(**{**vars(good), **change}), 99)
        assert ckpt.decode(blob.tobytes()) is None
    with h5py.File(copy, "r+") as file:
        for slot in file["checkpoint"].values():
            slot[40:90] = 255
    with pytest.raises(HookError, match="holds no checkpoint that is whole"):
        load_checkpoint(copy)
    record(tmp_path / "empty.h5", [])
    with pytest.raises(HookError, match="no frame"):
        load_checkpoint(tmp_path / "empty.h5")


# --- bytes that flip -----------------------------------------------------------------------------


def same(one, two):
    return all(
        np.array_equal(getattr(one, name), getattr(two, name))
        for name in ("step", "time", "numbers", "positions", "velocities", "masses", "cell", "pbc",
                     "energy", "forces", "force_delta", "force_deltas", "direct_forces")
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["bit", "burst", "zeros", "cut"])
def test_flipped_bytes_are_never_numbers(whole, tmp_path, kind):
    """Wherever a file is damaged: a clear error, or exactly what was recorded."""
    reference, expected, _ = read_all(whole)
    data = whole.read_bytes()
    random_numbers = random.Random(f"flips of {kind}")
    errors = 0
    for _ in range(40):
        damaged = bytearray(data)
        at = 0
        while not any(data[at : at + 64]) or at == 0:
            at = random_numbers.randrange(1, len(data) - 64)  # most of a small file is free space
        if kind == "bit":
            damaged[at] ^= 1 << random_numbers.randrange(8)
        elif kind == "burst":
            damaged[at : at + 64] = bytes(255 - byte for byte in damaged[at : at + 64])
        elif kind == "zeros":
            damaged[at : at + 64] = bytes(64)
        else:
            del damaged[at:]
        path = tmp_path / "r.h5"
        path.write_bytes(damaged)
        try:
            found, made, _ = read_all(path)
        except HookError as error:
            errors += "\n" not in str(error)
            continue
        assert found.runs == reference.runs
        for name, values in reference.series.items():
            np.testing.assert_array_equal(found.series[name], values)
        assert len(made) == len(expected)
        assert all(map(same, made, expected))
    assert errors > 3


@pytest.mark.parametrize(
    ("path", "what"),
    [
        (f"{PARTICLES}/position/value", "frames 12 to 13, steps 12 to 13"),
        (f"{PARTICLES}/force/value", "frames 12 to 13"),
        (f"{PARTICLES}/direct_forces/value", "frames 12 to 13"),
        (f"{OBSERVABLES}/potential_energy/value", "frames 12 to 13"),
        (f"{PARTICLES}/position/time", "frames 12 to 13"),
        ("per_step/temperature/value", "rows 12 to 13, steps 12 to 13"),
        ("per_step/time", "rows 12 to 13"),
    ],
)
def test_the_damaged_frames_are_named(whole, tmp_path, path, what):
    copy = tmp_path / "r.h5"
    shutil.copy(whole, copy)
    with h5py.File(copy, "r+") as file:
        file[path][12:14] = file[path][12:14] + 1.0
    with pytest.raises(HookError, match=what):
        read_all(copy)
    if "per_step" not in path:
        assert [f.step for f in Trajectory(copy).frames(range(5))] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("what", ["masses", "boundary", "info"])
def test_what_has_no_rows_has_checksums_too(whole, tmp_path, what):
    copy = tmp_path / "r.h5"
    shutil.copy(whole, copy)
    with h5py.File(copy, "r+") as file:
        if what == "masses":
            file["parameters/masses"][1] = 2.0
        elif what == "boundary":
            file[f"{PARTICLES}/box"].attrs["boundary"] = ["none", "none", "periodic"]
        else:
            file[RUN].attrs["info"] = file[RUN].attrs["info"].replace('"a": 1', '"a": 2')
    refused(copy, f"{what} .*checksum")


def test_checksums_hold_when_systems_grow_and_elements_come_late(tmp_path):
    path = tmp_path / "r.h5"

    def atoms(step, n, **changes):
        rng = np.random.default_rng(step)
        return frame(
            step=step, u=None, numbers=np.full(n, 6), positions=rng.normal(size=(n, 3)),
            velocities=None, masses=np.full(n, 12.0), forces=rng.normal(size=(n, 3)), **changes,
        )  # fmt: skip

    from md_hooks import HookChain, RunResult

    hook = Recorder(path, every=1, replay=True)
    chain = HookChain([hook])
    chain.open(RunInfo())
    made = [atoms(0, 3), atoms(1, 5), atoms(2, 4, direct_forces=np.ones((4, 3))),
            atoms(3, 8, stress=np.arange(6.0)), atoms(4, 2)]  # fmt: skip
    for one in made:
        chain.dispatch(one)
        hook.remark(Remark(one.step, one.step, "gap", "x"))
        chain.flush()
    chain.close(RunResult("finished", 4, 0.0))
    _, read, remarks = read_all(path)
    assert len(remarks) == 5
    for one, two in zip(read, made, strict=True):
        np.testing.assert_array_equal(one.positions, two.positions)
    with h5py.File(path) as file:
        assert (file[f"{OBSERVABLES}/checksum/value"][:] != -1).all()


def test_files_of_older_versions_are_read_and_continued(bare, tmp_path):
    copy = tmp_path / "r.h5"
    shutil.copy(bare, copy)
    record(copy, frames(30, 31), mode="append")
    assert len(read_all(copy)[1]) == 32
    with h5py.File(copy) as file:
        assert "checksum" not in file["per_step"]


def test_rows_that_an_older_version_appended_have_no_checksum(whole, tmp_path):
    copy = tmp_path / "r.h5"
    shutil.copy(whole, copy)
    with h5py.File(copy, "r+") as file:  # it fills up what it does not know with what is empty
        file["per_step/checksum/value"][20:] = -1
        file[f"{OBSERVABLES}/checksum/value"].resize(20, axis=0)
        file["per_step/temperature/value"][25] = 5.0
        file[f"{OBSERVABLES}/temperature/value"][25] = 5.0
    assert read_all(copy)[1][25].temperature == 5.0


def test_a_file_of_zeros_and_an_empty_one(tmp_path):
    for size in (0, 5000):
        path = tmp_path / f"{size}.h5"
        path.write_bytes(bytes(size))
        with pytest.raises(HookError, match="cut off"):
            Trajectory(path)
        with pytest.raises(HookError, match="cut off"):
            Recorder(path, mode="append").open(RunInfo())
    assert os.path.getsize(tmp_path / "0.h5") == 0
