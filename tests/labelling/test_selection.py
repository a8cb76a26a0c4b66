"""Which frames are chosen, and that every other one has a reason."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from doubtful_frames import doubtful, record_attack
from scipy.spatial.distance import cdist

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling.selection import By, Candidates, open_candidates, select
from forcedelta.labelling.selection.band import Band, intervals
from forcedelta.labelling.selection.diversity import descriptors, farthest_points
from md_hooks import Trajectory
from md_hooks.unphysical import overlap, unphysical

pytest.importorskip("dscribe")


def stored(tmp_path, frames):
    ase.io.write(tmp_path / "flagged.xyz", frames)
    return open_candidates(tmp_path / "flagged.xyz")


def test_the_highest_of_the_band_apart_in_time_and_all_others_accounted_for(run_file):
    source = open_candidates(run_file)
    chosen = select(source, 4, spacing=20.0)
    u = source.force_delta
    inside = (u > 0.04) & (u <= 0.6)
    assert 4 < inside.sum() < len(source)
    assert len(chosen.frames) == 4
    assert inside[chosen.indices].all()
    assert chosen.indices[0] == np.flatnonzero(inside)[np.argmax(u[inside])]
    times = np.sort(source.times[chosen.indices])
    assert np.diff(times).min() >= 20.0
    assert sum(chosen.left_out.values()) + len(chosen.frames) == len(source)
    for index, atoms in zip(chosen.indices, chosen.frames, strict=True):
        frame = Trajectory(run_file).frame(index)
        np.testing.assert_array_equal(atoms.positions, frame.positions)
        assert atoms.info["force_delta"] == frame.force_delta == u[index]
        assert atoms.info["step"] == frame.step
        assert atoms.info["model"] == "acac"
        assert atoms.info["run_id"] == Trajectory(run_file).run_id
        assert atoms.info["weights_hash"].startswith("hash:")


def test_one_per_interval_where_the_spacing_does_not_cut_it(run_file):
    source = open_candidates(run_file)
    chosen = select(source, 1000, spacing=1e-9 + 0.5 * 600 * 2)  # longer than the run
    assert len(chosen.frames) == 1  # all others are nearer in time
    numbers = intervals(source, chosen.band)
    assert numbers.max() > 3
    loose = select(source, 1000, spacing=0.0)
    assert len(loose.frames) == (numbers >= 0).sum()


def test_steps_between_the_frames_interrupt_an_interval(run_file):
    """Of two recorded frames in the band, not neighbours, a step between may have been below."""
    source = open_candidates(run_file)
    band = Band(0.04, 0.6, "force_delta", "")
    numbers = intervals(source, band)
    series = dict(zip(source.series["step"], source.series["force_delta"], strict=True))
    pairs = [k for k in range(len(source) - 1) if min(numbers[k], numbers[k + 1]) >= 0]
    apart = 0
    for k in pairs:
        between = [series[s] for s in range(source.steps[k], source.steps[k + 1] + 1)]
        whole = all(0.04 < value <= 0.6 for value in between)
        assert (numbers[k] == numbers[k + 1]) == whole
        apart += not whole
    assert 0 < apart < len(pairs)


def test_an_unphysical_frame_makes_place_for_the_next_lower_frame_of_its_interval(tmp_path):
    frames = [doubtful(seed, step=seed, force_delta=0.1 + 0.01 * seed) for seed in range(3)]
    frames[2].positions[1] = frames[2].positions[0] + [0.2, 0, 0]
    for atoms in frames:
        atoms.info["time"] = 0.5 * atoms.info["step"]
    chosen = select(stored(tmp_path, frames), 5, lower=0.05, upper=1.0)
    assert chosen.indices == [1]
    assert chosen.left_out == {
        "overlapping atoms or positions that are not finite": 1,
        "not the highest of their flagged interval": 1,
    }


def test_structures_that_differ_are_preferred_to_copies(tmp_path):
    """Nine turned and renumbered copies of one molecule, and another one with the lowest U."""
    rng = np.random.default_rng(0)
    frames = []
    for seed in range(9):
        atoms = doubtful(1, step=100 * seed, force_delta=0.5 - 0.01 * seed)
        atoms.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
        atoms = atoms[rng.permutation(3)]
        atoms.info["time"] = 100.0 * seed
        frames.append(atoms)
    frames.append(doubtful(2, step=900, force_delta=0.1))
    frames[-1].info["time"] = 900.0
    chosen = select(stored(tmp_path, frames), 2, lower=0.05, upper=1.0)
    assert chosen.indices == [0, 9]
    assert chosen.left_out == {"not chosen by farthest-point sampling": 8}


def test_descriptors_do_not_see_the_choice_of_the_cell_or_of_the_origin():
    cell = bulk("Si", cubic=True)
    cell.rattle(0.1, seed=1)
    moved = cell.copy()
    moved.translate([1.0, 2.0, 3.0])
    moved.wrap()
    other = bulk("Si", cubic=True)
    other.rattle(0.1, seed=2)
    first, *rest = descriptors([cell, moved, cell.repeat((1, 1, 2)), other])
    np.testing.assert_allclose(rest[:2], [first, first], atol=1e-10)
    assert np.linalg.norm(rest[2] - first) > 1e-5


def test_overlap_counts_across_the_boundary_and_names_the_pair():
    crystal = bulk("Si", cubic=True)
    assert unphysical(crystal) is None
    crystal.positions[1] = crystal.positions[0] + crystal.cell.array[0] - [1.0, 0, 0]
    assert overlap(crystal) == "Si0 and Si1 are 1.00 Å apart"
    water = molecule("H2O")
    assert unphysical(water) is None
    water.positions[2, 0] = np.nan
    assert unphysical(water) == "positions are not finite"


def test_the_edges_without_thresholds(tmp_path):
    frames = [doubtful(seed, force_delta=0.01 * (seed + 1)) for seed in range(20)]
    frames[7].info["force_delta"] = 5.0
    chosen = select(stored(tmp_path, frames), 20)
    u = np.array([atoms.info["force_delta"] for atoms in frames])
    assert chosen.band.lower == pytest.approx(np.percentile(u, 90))
    assert chosen.band.upper == pytest.approx(10 * np.median(u))
    assert 7 not in chosen.indices
    assert chosen.left_out[f"above the band (> {chosen.band.upper:.4g} eV/Å)"] == 1


def test_thresholds_on_the_worst_atom_are_compared_with_it(run_file):
    source = open_candidates(run_file)
    source.thresholds.update(on="worst_atom", flag=0.1, stop=1.0)
    chosen = select(source, 3)
    assert (source.worst[chosen.indices] > 0.1).all()
    assert chosen.indices[0] == int(np.argmax(source.worst))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda atoms: atoms.info.pop("force_delta"), "no frame.*carries a Force Delta.*audit"),
        (lambda atoms: None, "band.*is empty"),
    ],
)
def test_what_cannot_be_chosen_from(tmp_path, change, words):
    frames = [doubtful(0)]
    change(frames[0])
    with pytest.raises(ForceDeltaError, match=words):
        select(stored(tmp_path, frames), 5, lower=2.0, upper=1.0)


def attacked(paths: int, moves: int) -> list[Atoms]:
    """Frames of an attack: time 0, U grows along each path, and path 0 is the lowest."""
    frames = []
    for path in range(paths):
        for move in range(moves):
            number = path * moves + move
            atoms = doubtful(number, step=number, force_delta=0.1 + 0.1 * path + 0.01 * move)
            atoms.info.update(time=0.0, path=path, move=move)
            frames.append(atoms)
    return frames


def stored_attack(tmp_path: Path, kind: str, frames: list[Atoms]) -> Candidates:
    """The frames as a file of an attack."""
    if kind == "xyz":
        return stored(tmp_path, frames)
    record_attack(tmp_path / "attack.h5", frames)
    return open_candidates(tmp_path / "attack.h5")


@pytest.mark.parametrize("kind", ["xyz", "h5"])
@pytest.mark.parametrize(("count", "of_each"), [(3, 1), (4, 1), (8, 2), (100, 6)])
def test_of_each_path_of_an_attack_one_frame_or_equal_pieces(tmp_path, kind, count, of_each):
    """All times are 0, which makes none near; with more wanted than paths, each is cut."""
    source = stored_attack(tmp_path, kind, attacked(4, 6))
    chosen = select(source, count, lower=0.05, upper=1.0)
    paths = [atoms.info["path"] for atoms in chosen.frames]
    moves = [atoms.info["move"] for atoms in chosen.frames]
    assert len(paths) == min(count, 24)
    assert max(paths.count(path) for path in range(4)) == of_each
    assert {type(value) for value in (*paths, *moves)} == {int}
    if of_each < 6:  # U grows along a path: the last of each piece
        assert set(moves) == {1: {5}, 2: {2, 5}}[of_each]
    assert (chosen.frames[0].info["path"], chosen.frames[0].info["move"]) == (3, 5)
    assert sum(chosen.left_out.values()) + len(chosen.frames) == len(source)


def test_recorded_frames_without_times_are_independent(tmp_path):
    """As in an audit of a data set: every time is 0, which makes no frame near another."""
    record_attack(tmp_path / "audit.h5", [doubtful(number, force_delta=0.2) for number in range(4)])
    chosen = select(open_candidates(tmp_path / "audit.h5"), 4, lower=0.1, upper=1.0)
    assert len(chosen.frames) == 4
    assert chosen.left_out == {}


def test_paths_of_two_attacks_in_one_file_are_different(tmp_path):
    frames = attacked(2, 3) + attacked(2, 3)
    for number, atoms in enumerate(frames):
        atoms.info["run_id"] = "first" if number < 6 else "second"
    chosen = select(stored(tmp_path, frames), 4, lower=0.05, upper=1.0)
    assert len({(a.info["run_id"], a.info["path"]) for a in chosen.frames}) == 4


def test_a_path_that_is_no_number_is_not_one(tmp_path):
    frames = attacked(1, 3)
    for number, atoms in enumerate(frames):
        atoms.info.update(path="data/run.xyz", time=100.0 * number)
    chosen = select(stored(tmp_path, frames), 5, lower=0.05, upper=1.0)
    assert len(chosen.frames) == 3
    assert "path" not in chosen.frames[0].info


def test_u_times_diversity_lies_between_u_and_diversity(tmp_path):
    """Copies with high U, one slightly different structure, and a very different one with low U."""
    frames = [doubtful(1, force_delta=0.5 - 0.01 * copy) for copy in range(3)]
    near, far = doubtful(1, force_delta=0.4), doubtful(1, force_delta=0.06)
    near.positions[1] += [0.0, 0.0, 0.08]
    far.positions[1] += [0.0, 0.0, 0.2]
    frames += [near, far]
    for number, atoms in enumerate(frames):
        atoms.info.update(step=100 * number, time=100.0 * number)
    source = stored(tmp_path, frames)
    chosen = {by: select(source, 2, lower=0.05, upper=1.0, by=by) for by in get_args(By)}
    assert chosen["u"].indices == [0, 1]
    assert chosen["u-diversity"].indices == [0, 3]
    assert chosen["diversity"].indices == [0, 4]
    reasons = {reason for one in chosen.values() for reason in one.left_out}
    assert len(reasons) == 3
    assert select(source, 2, lower=0.05, upper=1.0).indices == [0, 4]
    with pytest.raises(ForceDeltaError, match="by is 'size': give one of diversity, u, u-div"):
        select(source, 2, by="size")


def test_the_greedy_choice_maximises_weight_times_distance_at_each_pick():
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(40, 5)), rng.uniform(0.1, 1.0, 40)
    chosen = farthest_points(features, 10, weights)
    for size in range(1, 10):
        distance = cdist(features, features[chosen[:size]]).min(axis=1)
        assert chosen[size] == int(np.argmax(weights * distance))
    assert farthest_points(features, 10, np.full(40, 0.3)) == farthest_points(features, 10)
