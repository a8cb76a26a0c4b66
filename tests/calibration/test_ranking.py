"""Ranking of errors against SciPy's own functions, and what thresholds do to labels."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from forcedelta.ranking import (
    RESAMPLES,
    at_thresholds,
    auroc,
    ranking,
    spearman,
)


def pairs(count, seed, noise=0.5):
    generator = np.random.default_rng(seed)
    error = generator.lognormal(size=count)
    return error * generator.lognormal(sigma=noise, size=count), error


def test_the_measures_are_those_of_scipy():
    predictor, error = pairs(80, 1)
    predictor[3] = predictor[7]  # a tie
    large = error > 1.5
    pairs_of_both = large.sum() * (~large).sum()
    expected = mannwhitneyu(predictor[large], predictor[~large]).statistic / pairs_of_both
    assert spearman(predictor, error) == pytest.approx(spearmanr(predictor, error).statistic)
    assert auroc(predictor, large) == pytest.approx(expected)
    found = ranking({"U": predictor}, error, 1.5)["U"]
    assert found["spearman"].value == pytest.approx(spearmanr(predictor, error).statistic)
    assert found["auroc_tolerance"].value == pytest.approx(expected)


def test_a_batch_is_its_rows():
    predictor, error = (np.reshape(x, (4, 20)) for x in pairs(80, 2))
    rows = [spearman(p, e) for p, e in zip(predictor, error, strict=True)]
    np.testing.assert_allclose(spearman(predictor, error), rows)
    rows = [auroc(p, e > 1) for p, e in zip(predictor, error, strict=True)]
    np.testing.assert_allclose(auroc(predictor, error > 1), rows)


def test_perfect_and_useless_predictors():
    _, error = pairs(60, 3)
    found = ranking(
        {"same": error, "opposite": -error, "constant": np.ones_like(error)}, error, 1.0
    )
    for name, r_s, area in (("same", 1, 1), ("opposite", -1, 0)):
        assert found[name]["spearman"].value == pytest.approx(r_s)
        assert found[name]["auroc_tolerance"].value == pytest.approx(area)
        assert found[name]["auroc_worst_tenth"].value == pytest.approx(area)
    assert found["constant"]["spearman"].value is None
    assert found["constant"]["auroc_tolerance"].value == 0.5


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    everything = np.stack(pairs(200_000, 4))
    truth = spearmanr(*everything).statistic
    generator = np.random.default_rng(5)
    hits = 0
    for _ in range(30):
        chosen = generator.integers(everything.shape[1], size=80)
        estimate = ranking({"U": everything[0, chosen]}, everything[1, chosen], 1.0)["U"][
            "spearman"
        ]
        hits += estimate.low <= truth <= estimate.high
    assert hits >= 23  # of 30 at 95 %: fewer have a chance of 1e-4


def test_no_interval_without_both_kinds():
    predictor, error = pairs(60, 6)
    nobody = ranking({"U": predictor}, error, 2 * error.max())["U"]["auroc_tolerance"]
    assert (nobody.value, nobody.low, nobody.high) == (None, None, None)
    one = ranking({"U": predictor}, error, np.sort(error)[-2])["U"]["auroc_tolerance"]
    assert one.value is not None
    assert one.low is None
    assert RESAMPLES >= 1000


def test_at_thresholds_by_hand():
    u = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    error = np.array([0.1, 0.9, 0.1, 0.9, 0.9])
    low, middle, high = at_thresholds(np.array([0.5, 3.0, 5.0]), u, error, 0.5)
    assert low == {
        "threshold": 0.5, "passing": 0.0, "risk": None, "precision": 0.6, "recall": 1.0,
    }  # fmt: skip
    assert middle["passing"] == 0.6
    assert middle["risk"] == pytest.approx(1 / 3)
    assert middle["precision"] == 1.0
    assert middle["recall"] == pytest.approx(2 / 3)
    assert high["precision"] is None
    assert (high["risk"], high["recall"]) == (0.6, 0.0)
    assert at_thresholds(np.array([3.0]), u, error, 1.0)[0]["recall"] is None
