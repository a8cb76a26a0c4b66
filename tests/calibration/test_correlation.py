"""Correlated series of which the effective number of labels is known."""

import numpy as np
import pytest

from forcedelta.calibration.correlation import (
    design_effect,
    effective_number,
    independent,
    statistical_inefficiency,
)


def autoregressive(count, phi, seed):
    """AR(1): its correlation is phi^t, its inefficiency (1 + phi) / (1 - phi)."""
    generator = np.random.default_rng(seed)
    series = [generator.normal()]
    for _ in range(count - 1):
        series.append(phi * series[-1] + np.sqrt(1 - phi**2) * generator.normal())
    return np.array(series)


def several(runs, frames, phi, seed, offset=0.0):
    """Series of several runs [runs * frames], less their common mean, and names and times."""
    offsets = offset * np.random.default_rng(seed).normal(size=runs)
    values = np.concatenate(
        [autoregressive(frames, phi, 1000 * seed + run) + offsets[run] for run in range(runs)]
    )
    names = [f"run {run}" for run in range(runs) for _ in range(frames)]
    return (values - values.mean())[None], names, np.tile(np.arange(float(frames)), runs)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8])
def test_the_inefficiency_of_an_autoregressive_series(phi):
    found = [
        statistical_inefficiency(autoregressive(5000, phi, seed)[None], [np.arange(5000)])
        for seed in range(5)
    ]
    assert np.mean(found) == pytest.approx((1 + phi) / (1 - phi), rel=0.1)


def test_short_runs_tell_together_what_none_tells_alone():
    """Runs of 16 frames with an inefficiency of 9, which a mean of each run would hide."""
    found = []
    for seed in range(5):
        values, _, _ = several(200, 16, 0.8, seed)
        rows = np.arange(3200).reshape(200, 16)
        found.append((statistical_inefficiency(values, rows), design_effect(values, list(rows))))
    lags = np.arange(1, 16)
    exact = 1 + 2 * np.sum((1 - lags / 16) * 0.8**lags)
    np.testing.assert_allclose(np.mean(found, axis=0), [exact, exact], rtol=0.1)


def test_runs_that_are_alike_inside():
    """The intraclass correlation: 1 + (16 - 1) * 0.5."""
    found = []
    for seed in range(20):
        values, names, times = several(60, 16, 0.0, seed, offset=1.0)
        found.append(design_effect(values, list(np.arange(960).reshape(60, 16))))
        sample = independent(names, times, values)
        assert 60 <= sample.worth < 2.5 * 960 / 8.5
    assert np.mean(found) == pytest.approx(8.5, rel=0.1)


def test_frames_that_are_all_alike_are_one():
    values, names, times = several(30, 16, 0.0, 1, offset=1e3)
    sample = independent(names, times, values)
    assert (sample.way, sample.worth, sample.runs) == ("one of each run", 30, 30)
    assert sorted(np.array(names)[sample.kept]) == sorted(set(names))
    assert sample.weight == 1


def test_a_drift_that_all_runs_share_is_no_correlation():
    values, names, times = several(10, 100, 0.0, 2)
    values += 0.3 * (times - times.mean())
    assert independent(names, times, values).worth > 300
    assert independent(names, np.full(1000, np.nan), values).worth > 300


def test_the_order_in_the_file_does_not_matter():
    values, names, times = several(10, 50, 0.8, 3)
    order = np.random.default_rng(3).permutation(500)
    shuffled = independent([names[i] for i in order], times[order], values[:, order])
    assert shuffled.worth == pytest.approx(independent(names, times, values).worth)


def test_one_run_is_cut_into_blocks():
    values, names, times = several(1, 4000, 0.8, 4)
    sample = independent(names, times, values)
    assert sample.way == "blocks"
    assert 100 < sample.worth < 1.3 * 4000 / 9
    assert "differences between runs are not seen" in sample.assumed


@pytest.mark.parametrize(("frames", "unknown"), [(15, False), (400, True)])
def test_one_run_that_tells_nothing_counts_once(frames, unknown):
    values, names, times = several(1, frames, 0.0, 5)
    sample = independent(names, np.full(frames, np.nan) if unknown else times, values)
    assert (sample.worth, len(sample.kept)) == (1, 1)


def test_labels_of_no_run_are_independent():
    values = np.random.default_rng(6).normal(size=(1, 40))
    sample = independent([None] * 40, np.full(40, np.nan), values)
    assert (sample.worth, sample.runs, sample.alone) == (40, 0, 40)
    assert list(sample.kept) == list(range(40))


def test_a_run_beside_labels_of_no_run():
    """Twelve frames that are alike count once, and do not spoil the others."""
    values = np.concatenate([np.random.default_rng(7).normal(size=200), np.full(12, 3.0)])
    names = [None] * 200 + ["run"] * 12
    times = np.concatenate([np.full(200, np.nan), np.arange(12.0)])
    sample = independent(names, times, (values - values.mean())[None])
    assert sample.worth == 201
    assert (np.array(sample.kept) < 200).sum() == 200


def test_few_runs_are_trusted_less():
    worths = [
        np.mean([independent(n, t, v).worth / v.size for v, n, t in
                 (several(runs, 50, 0.0, seed) for seed in range(10))])
        for runs in (3, 10, 50)
    ]  # fmt: skip
    assert worths[0] < worths[1] < worths[2] < 1


def test_effective_number_of_runs():
    assert effective_number(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_number(np.array([1000.0, 20.0])) == pytest.approx(1, abs=1e-2)
