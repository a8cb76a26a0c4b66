"""The statistics of a comparison against numbers computed by hand and SciPy's functions."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from forcedelta.comparison.statistics import (
    against_ensemble,
    better_controls,
    correlate,
    ensemble,
    group_means,
    mean_and_spread,
    r_s,
    relative_energy,
    rms,
    values_of,
    within_groups,
    worth,
)
from forcedelta.ranking import worst_tenth


def test_rms_is_over_the_components():
    assert rms(np.array([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])) == pytest.approx(np.sqrt(25 / 6))


def test_an_ensemble_of_two():
    """Sample variance of two numbers a, b: (a - b)^2 / 2."""
    forces = np.array([[[1.0, 0, 0]], [[3.0, 0, 0]]])
    reference = np.array([[2.5, 0, 0.0]])
    spread, error = ensemble(forces, reference)
    assert spread == pytest.approx(np.sqrt(2.0 / 3))
    assert error == pytest.approx(np.sqrt(0.25 / 3))
    assert np.isnan(ensemble(forces, None)[1])


def test_energies_are_relative_to_the_composition():
    energy = np.array([[1.0, 3.0, 10.0, 20.0, 7.0]])
    relative = relative_energy(energy, ["H2O", "H2O", "CH4", "CH4", "Si"])
    np.testing.assert_allclose(relative, [[-1, 1, -5, 5, 0]])


def test_group_means_are_over_models_and_structures():
    values = np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 8.0]])
    np.testing.assert_allclose(group_means(values, ["b", "b", "a"]), [2.5, 7.0])


def test_correlations_are_those_of_scipy():
    rng = np.random.default_rng(0)
    error = rng.lognormal(size=60)
    u = error * rng.lognormal(sigma=0.5, size=60)
    found = correlate({"force_delta": u, "energy": rng.normal(size=60)}, error)["force_delta"]
    assert found["spearman"].value == pytest.approx(spearmanr(u, error).statistic)
    worst = worst_tenth(error)
    area = mannwhitneyu(u[worst], u[~worst]).statistic / (worst.sum() * (~worst).sum())
    assert found["auroc_worst_tenth"].value == pytest.approx(area)
    assert found["spearman"].low < found["spearman"].value < found["spearman"].high
    assert r_s(u, error) == pytest.approx(spearmanr(u, error).statistic)


@pytest.mark.parametrize(
    ("predictor", "error"),
    [
        ([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]),
        ([1.0, 2.0], [1.0, 2.0]),
        ([1.0, np.nan, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]),
    ],
    ids=["constant predictor", "constant error", "two structures", "unknown predictor"],
)
def test_nothing_is_said_where_nothing_is_known(predictor, error):
    found = correlate({"force_delta": np.array(predictor)}, np.array(error))["force_delta"]
    assert found["spearman"].value is found["auroc_worst_tenth"].value is None


def test_r_s_leaves_out_what_is_not_known():
    u, error = np.array([1.0, 2, np.nan, 3]), np.array([1.0, 2, 9, 3])
    assert r_s(u, error) == pytest.approx(1)
    assert r_s(u[:3], error[:3]) is None


def test_what_ranks_systems_need_not_rank_their_structures():
    error = np.array([1.0, 2, 3, 11, 12, 13])
    u = np.array([3.0, 2, 1, 13, 12, 11])
    assert r_s(u, error) == pytest.approx(spearmanr(u, error).statistic)
    assert r_s(u, error) > 0.5
    assert within_groups(u, error, list("aaabbb")) == pytest.approx(-1)


def test_frames_of_one_path_count_less_than_independent_ones():
    rng = np.random.default_rng(1)
    level = np.repeat(rng.normal(size=12), 20)
    error = np.exp(level + 0.1 * rng.normal(size=240))
    u = np.exp(np.repeat(rng.normal(size=12), 20) + level + 0.1 * rng.normal(size=240))
    paths = [f"path {k // 20}" for k in range(240)]
    moves = np.tile(np.arange(20.0), 12)
    assert worth(u, error, [None] * 240, np.full(240, np.nan)) == 240
    assert 12 <= worth(u, error, paths, moves) < 80


def test_u_against_an_ensemble():
    rng = np.random.default_rng(2)
    error = rng.lognormal(size=(3, 50))
    mean = error.mean(axis=0)
    found = against_ensemble(error, error, -mean, mean, 50)
    assert found["mean"].value == pytest.approx(1)
    assert found["ensemble"].value == pytest.approx(-1)
    assert (found["difference"].value, found["difference"].low) == pytest.approx((2, 2))
    same = against_ensemble(error, error, mean, mean, 50)["difference"]
    assert (same.value, same.low, same.high) == pytest.approx((0, 0, 0))
    assert against_ensemble(error[:, :2], error[:, :2], mean[:2], mean[:2], 2)["mean"].value is None


def test_the_interval_of_the_difference_is_paired():
    """Two noisy predictors that share their noise differ by less than either is uncertain."""
    rng = np.random.default_rng(3)
    error = rng.lognormal(size=60)
    u = error * rng.lognormal(sigma=1.0, size=60)
    found = against_ensemble(u[None], error[None], u * 1.0, error, 60)
    assert found["difference"].high - found["difference"].low == pytest.approx(0, abs=1e-12)
    assert found["mean"].high - found["mean"].low > 0.1


def test_mean_and_sample_deviation():
    assert mean_and_spread([0.5, None, 0.7]) == pytest.approx((0.6, np.sqrt(0.02)))
    assert mean_and_spread([0.5]) == (0.5, None)
    assert mean_and_spread([None]) == (None, None)


def test_losses_are_named():
    values = {"force_delta": 0.5, "energy": 0.6, "force_rms": 0.5, "move": None}
    assert better_controls(values) == ["energy"]
    assert better_controls({**values, "force_delta": None}) == ["energy", "force_rms"]
    error = np.arange(20.0)
    ranked = correlate({"force_delta": -error, "energy": error}, error)
    assert values_of(ranked) == pytest.approx({"force_delta": -1, "energy": 1})


def test_energies_that_differ_in_the_last_digit_only_are_equal():
    """Copies of one structure in batches of different sizes."""
    energy = np.float32([[-4.0, -4.0, np.nextafter(np.float32(-4), np.float32(0)), -3.0]]).astype(
        float
    )
    relative = relative_energy(energy, ["Si", "Si", "Si", "Ge"])
    assert (relative == 0).all()
    apart = relative_energy(np.array([[-4.0, -4.001]]), ["Si", "Si"])
    assert apart.tolist() == [[0.0005, -0.0005]]
