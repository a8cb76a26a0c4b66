"""Correlated series of which the statistical inefficiency is known."""

import numpy as np
import pytest

from forcedelta.calibration.correlation import independent, statistical_inefficiency


def autoregressive(count, phi, seed):
    """AR(1): its correlation is phi^t, its inefficiency (1 + phi) / (1 - phi)."""
    generator = np.random.default_rng(seed)
    series = [generator.normal() / np.sqrt(1 - phi**2)]
    for _ in range(count - 1):
        series.append(phi * series[-1] + generator.normal())
    return np.array(series)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8])
def test_the_inefficiency_of_an_autoregressive_series(phi):
    found = [statistical_inefficiency(autoregressive(5000, phi, seed)) for seed in range(5)]
    assert np.mean(found) == pytest.approx((1 + phi) / (1 - phi), rel=0.1)


def test_a_drift_is_no_correlation():
    noise = np.random.default_rng(1).normal(size=400)
    drift = np.linspace(0, 30, 400)
    assert statistical_inefficiency(noise + drift) < 1.3
    assert statistical_inefficiency(drift) == 1.0


def test_what_says_nothing():
    assert statistical_inefficiency(np.ones(50)) == 1.0
    assert statistical_inefficiency(np.arange(3.0)) == 1.0
    few = autoregressive(15, 0.8, 3) + 10
    kept, g = independent(["run.h5"] * 15, np.arange(15.0), few)
    assert (list(kept), g) == (list(range(15)), None)


def test_frames_of_one_run_are_thinned_and_others_are_not():
    u = np.exp(0.1 * autoregressive(2000, 0.8, 3))
    unknown = np.full(50, 1.0)
    sources = ["run.h5"] * 2000 + [None] * 50
    times = np.concatenate([np.arange(2000.0), np.full(50, np.nan)])
    order = np.random.default_rng(3).permutation(2050)  # the file need not be in order
    kept, g = independent(
        [sources[i] for i in order], times[order], np.concatenate([u, unknown])[order]
    )
    assert g == pytest.approx(9, rel=0.25)
    assert len(kept) == pytest.approx(50 + 2000 / g, abs=2)
    assert list(kept) == sorted(set(kept))
    distances = np.diff(np.sort(times[order][kept])[: len(kept) - 50])
    assert distances.min() > 0.9 * g - 1


def test_two_runs_are_two_series():
    u = np.random.default_rng(4).lognormal(size=40)
    kept, g = independent(["a"] * 20 + ["b"] * 20, np.tile(np.arange(20.0), 2), u, u[::-1].copy())
    assert len(kept) >= 40 / g - 2
    same, unknown = independent([None] * 40, np.full(40, np.nan), u)
    assert (list(same), unknown) == (list(range(40)), None)
