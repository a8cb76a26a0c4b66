"""A threshold on the Force Delta with a guarantee, from labelled frames.

Let U be the Force Delta of a frame and eps the true error of its direct forces; a frame passes a
threshold t if U <= t. The risk of a threshold is

    R(t) = P(eps > tolerance | U <= t),

the share of frames with too large an error *among those that pass*. It need not grow with t, and
a conformal bound on P(eps > tolerance and U <= t) (conformal risk control, Angelopoulos,
Bates, Fisch, Lei and Schuster, ICLR 2024) says little about it: a threshold that few frames pass
keeps that number small even if all of them are bad. The method used is Learn then Test
(Angelopoulos, Bates, Candès, Jordan and Lei, "Learn then Test: Calibrating Predictive Algorithms
to Achieve Risk Control", 2021): thresholds are tested one after another against "R(t) > risk",
from small to large, and the last one that passes is taken.

**What is guaranteed.** Let the labels be n independent draws (U, eps) from one distribution. Then,
whatever that distribution and the model,

    P( a threshold t is found, and R(t) > risk ) <= 1 - confidence,

where the probability is that of drawing the labels, and a new frame of the same distribution that
passes t has an error above the tolerance with probability R(t). This is not the probability that a
threshold once found is wrong: if labels seldom give one, more of those may be wrong. Trying several
tolerances on the same labels adds up their chances of a wrong threshold. The guarantee does not
extend to frames drawn differently from the labels.

**Why.** The candidates are the values of U in the file. Given that m labels lie below one of them,
the number of bad ones among these is binomial, and its lower tail at ``risk`` is a p-value for
R > risk at that candidate. The number of labels below the first candidate tested depends on n
only; the others follow in order up to the first p-value above 1 - confidence. A
threshold is wrongly accepted only if the test passed at the first t of an interval with R > risk
(or at the start, if that lies in one). Where U is continuous, so is R: it equals ``risk`` there and
on both sides of every interval before; given the numbers of labels in the intervals, the number of
bad ones is binomial again with exactly ``risk``, and one such test suffices. Where many frames have
the same U, R jumps there, and all of them pass or none: such a value is also tested including the
labels equal to it, whose number of bad ones is binomial given their number.

**Correlated labels.** Labels equivalent to fewer independent ones (`correlation.independent`) have
a weight w below 1: the lower tail of the binomial distribution becomes that of its
continuous extension, the incomplete beta function I_{1-risk}(w (m - b), w b + 1) for b bad ones of m,
as in the intervals of Korn and Graubard, Survey Methodology 24, 193 (1998). This is an approximation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc
from scipy.stats import binom

from ..errors import ForceDeltaError

Array = NDArray[np.float64]

LARGEST_START = 0.25
"""If labels are many, the first threshold tested passes at most this share of them, but enough to
tolerate a few bad ones: a single bad label at small U must not end the search."""

SMALLEST = 1e-6
"""Probabilities closer to 0 or 1 are refused as mistakes: no set of labels could prove them."""


@dataclass(frozen=True)
class Threshold:
    """The largest threshold that passed its test.

    Attributes:
        value: U in eV/Å; frames with U <= value pass.
        passing: number of labels that pass.
        bad: those of them with an error above the tolerance.
        highest: whether it is the largest U of all labels, which then do not bound it from above.
    """

    value: float
    passing: int
    bad: int
    highest: bool


def labels_needed(risk: float, confidence: float) -> int:
    """The smallest number of independent labels from which a threshold can be found.

    All but one of them must pass without an error above the tolerance:
    (1 - risk)^m <= 1 - confidence.
    """
    return math.ceil(math.log1p(-confidence) / math.log1p(-risk)) + 1


def find_threshold(
    force_delta: Array,
    epsilon: Array,
    tolerance: float,
    risk: float,
    confidence: float,
    weight: float = 1.0,
) -> Threshold:
    """The largest threshold t for which P(eps > tolerance | U <= t) <= risk is certain enough.

    Args:
        force_delta: U of each label [n], eV/Å.
        epsilon: true error of the direct forces of each label [n], eV/Å.
        tolerance: largest acceptable error, eV/Å.
        risk: allowed probability of a larger one among frames that pass.
        confidence: probability, over the draw of the labels, that the threshold keeps the risk.
        weight: number of independent labels equivalent to one label, at most 1.

    Raises:
        ForceDeltaError: numbers out of range or not finite, too few labels, or no threshold.
    """
    check(tolerance, risk, confidence)
    if not (np.isfinite(force_delta).all() and np.isfinite(epsilon).all()):
        raise ForceDeltaError("labels have a U or an error that is not finite: remove them")
    count = len(force_delta)
    worth = count * weight
    least = labels_needed(risk, confidence)
    if round(worth, 6) < least:
        raise ForceDeltaError(
            f"{_number(worth)} too few for a risk of {risk:g} at a confidence of "
            f"{confidence:g}, which needs at least {least}, all but one of them without an "
            "error above the tolerance: label more frames, or allow a risk of "
            f"{_least_risk(worth, confidence)}"
        )
    order = np.argsort(force_delta, kind="stable")
    values, first = np.unique(force_delta[order], return_index=True)
    bad_of_smallest = np.concatenate([[0], np.cumsum(epsilon[order] > tolerance)])
    below, passing = first, np.append(first[1:], count)

    def certain(labels: NDArray[np.intp]) -> NDArray[np.bool_]:
        bad = weight * bad_of_smallest[labels]
        good = np.maximum(weight * labels - bad, 1e-12)
        return np.asarray(betainc(good, bad + 1, 1 - risk) <= 1 - confidence)

    before, with_ties = certain(below), certain(passing) | (passing - below == 1)
    tested = np.flatnonzero(below >= _first_tested(count, risk, confidence, weight))
    if not len(tested):
        raise ForceDeltaError(
            f"no threshold can be determined: {count - below[-1]} of {count} labels have the same U of "
            f"{values[-1]:.4g} eV/Å; label frames that differ"
        )
    failed = np.flatnonzero(~(before & with_ties)[tested])
    stop = int(failed[0]) if len(failed) else len(tested)
    if stop == 0:
        seen = (passing if before[tested[0]] else below)[tested[0]]
        raise ForceDeltaError(
            f"no threshold keeps a risk of {risk:g} at a confidence of {confidence:g}: of the "
            f"{seen} labels with the smallest U, {bad_of_smallest[seen]} have an error above "
            f"{tolerance:g} eV/Å, and of all {count}, {bad_of_smallest[-1]}; allow a larger "
            "--tolerance or --risk, label more frames, or use a better model"
        )
    last = tested[stop - 1]
    return Threshold(
        float(values[last]),
        int(passing[last]),
        int(bad_of_smallest[passing[last]]),
        bool(last == len(values) - 1),
    )


def check(tolerance: float, risk: float, confidence: float) -> None:
    """Raise ForceDeltaError for numbers out of range."""
    if not 0 < tolerance < math.inf:
        raise ForceDeltaError(f"tolerance is {tolerance}: give an error above 0 in eV/Å")
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not SMALLEST <= value <= 1 - SMALLEST:
            raise ForceDeltaError(
                f"{name} is {value}: give a probability between 0 and 1, at least {SMALLEST:g} "
                "away from both"
            )


def _first_tested(count: int, risk: float, confidence: float, weight: float) -> int:
    """Number of labels below the first threshold tested, from the arguments alone."""
    worth = weight * np.arange(int(LARGEST_START * count) + 1)
    # bad ones; one too many, but for rare ties
    allowed = binom.ppf(1 - confidence, np.floor(worth), risk)
    allowed -= binom.cdf(allowed, np.floor(worth), risk) > 1 - confidence
    if allowed[-1] < 0:
        return math.ceil(round((labels_needed(risk, confidence) - 1) / weight, 6))
    return int(np.argmax(allowed == allowed[-1]))


def _number(worth: float) -> str:
    """Subject and verb of a message."""
    count = math.floor(worth)
    return f"{count} label is" if count == 1 else f"{count} labels are"


def _least_risk(worth: float, confidence: float) -> str:
    """The smallest risk, in steps of 0.01, that this many labels could prove."""
    if worth < 2:
        return "no less than 1, since too few independent labels remain to count"
    least = math.ceil(100 * (1 - (1 - confidence) ** (1 / (worth - 1)))) / 100
    return f"{least:.2f} or more" if least < 1 else "almost 1"
