"""A threshold on the Force Delta with a guarantee, from labelled frames.

Write U for the Force Delta of a frame, eps for the true error of its direct forces, and say that a
frame passes a threshold t when U <= t. The risk of a threshold is

    R(t) = P(eps > tolerance | U <= t),

the share of frames with too large an error *among those that pass*. It need not grow with t, so
that a conformal bound on P(eps > tolerance and U <= t) (conformal risk control, Angelopoulos,
Bates, Fisch, Lei and Schuster, ICLR 2024) says little about it: a threshold that few frames pass
keeps that number small and may still pass bad ones only. What is done instead is Learn then Test
(Angelopoulos, Bates, Candès, Jordan and Lei, "Learn then Test: Calibrating Predictive Algorithms
to Achieve Risk Control", 2021): thresholds are tested one after another against "R(t) > risk",
from small ones to large ones, and the last that withstands is taken.

**What is guaranteed.** Let the labels be n independent draws (U, eps) from one distribution with a
continuous U. Then, whatever that distribution and the model,

    P( R(t) <= risk ) >= confidence,

where the probability is that of drawing the labels, and a new frame of the same distribution that
passes t has an error above the tolerance with probability R(t). Nothing is said about frames that
are drawn in another way than the labels.

**Why.** The candidates are the values of U in the file. Given that m labels lie below one of them,
the number of bad ones among these is binomial, and its lower tail at ``risk`` is a p-value for
R > risk at that candidate. The first one tested is that with a number of labels below it that
depends on n only; the others follow in order up to the first p-value above 1 - confidence. A
threshold is wrongly accepted only if the test passed at the first t of an interval with R > risk
(or at the start, if that lies in one). R is continuous, so it equals ``risk`` there and on both
sides of every interval before; given the numbers of labels in the intervals, the number of bad
ones is binomial again with exactly ``risk``, and one such test suffices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from ..errors import ForceDeltaError

Array = NDArray[np.float64]

LARGEST_START = 0.25
"""The first threshold tested passes at most this share of the labels, where they are many, and as
many of them as allow for a few bad ones: a single one with a small U is no reason to give up."""


@dataclass(frozen=True)
class Threshold:
    """The largest threshold that withstood its test.

    Attributes:
        value: U in eV/Å; frames with U <= value pass.
        passing: number of labels that pass.
        bad: those of them with an error above the tolerance.
        highest: whether it is the largest U of all labels, so that nothing shows where to stop.
    """

    value: float
    passing: int
    bad: int
    highest: bool


def labels_needed(risk: float, confidence: float) -> int:
    """The least number of labels with which any threshold can be found.

    That many, less one, have to pass without a single error above the tolerance:
    (1 - risk)^m <= 1 - confidence.
    """
    return math.ceil(math.log(1 - confidence) / math.log1p(-risk)) + 1


def find_threshold(
    force_delta: Array, epsilon: Array, tolerance: float, risk: float, confidence: float
) -> Threshold:
    """The largest threshold t for which P(eps > tolerance | U <= t) <= risk is certain enough.

    Args:
        force_delta: U of each label [n], eV/Å.
        epsilon: true error of the direct forces of each label [n], eV/Å.
        tolerance: error that is still good, eV/Å.
        risk: allowed probability of a larger one among frames that pass.
        confidence: probability with which labels give a threshold that keeps to the risk.

    Raises:
        ForceDeltaError: numbers out of range, too few labels, or no threshold.
    """
    check(tolerance, risk, confidence)
    count = len(force_delta)
    least = labels_needed(risk, confidence)
    if count < least:
        raise ForceDeltaError(
            f"{count} labels are too few for a risk of {risk:g} at a confidence of {confidence:g}, "
            f"which needs at least {least}, all but one of them without an error above the "
            f"tolerance: label more frames, or allow a risk of {_least_risk(count, confidence)}"
        )
    order = np.argsort(force_delta, kind="stable")
    u, bad = force_delta[order], epsilon[order] > tolerance
    below = np.arange(count)
    bad_below: NDArray[np.int64] = np.cumsum(bad) - bad
    certain = binom.cdf(bad_below, below, risk) <= 1 - confidence
    start = _first_tested(count, risk, confidence)
    failed = np.flatnonzero(~certain[start:])
    last = start + (int(failed[0]) if len(failed) else count - start) - 1
    if last < start:
        raise ForceDeltaError(
            f"no threshold keeps to a risk of {risk:g} at a confidence of {confidence:g}: of the "
            f"{start} labels with the smallest U, {bad_below[start]} have an error above "
            f"{tolerance:g} eV/Å, and of all {count}, {bad.sum()}; allow a larger --tolerance or "
            "--risk, label more frames, or take a better model"
        )
    return Threshold(float(u[last]), last + 1, int(bad[: last + 1].sum()), last == count - 1)


def check(tolerance: float, risk: float, confidence: float) -> None:
    """Raises ForceDeltaError for numbers that make no sense."""
    if not 0 < tolerance < math.inf:
        raise ForceDeltaError(f"tolerance is {tolerance}: give an error above 0 in eV/Å")
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ForceDeltaError(f"{name} is {value}: give a probability between 0 and 1")


def _first_tested(count: int, risk: float, confidence: float) -> int:
    """Number of labels below the first threshold tested: it depends on nothing but the arguments."""
    below = np.arange(int(LARGEST_START * count) + 1)
    allowed = binom.ppf(1 - confidence, below, risk)  # bad ones; one too many, but for rare ties
    allowed -= binom.cdf(allowed, below, risk) > 1 - confidence
    if allowed[-1] < 0:
        return labels_needed(risk, confidence) - 1
    return int(np.argmax(allowed == allowed[-1]))


def _least_risk(count: int, confidence: float) -> str:
    """The smallest risk in steps of 0.01 that so many labels could show."""
    if count < 2:
        return "no less than 1, as there is nothing to count"
    least = math.ceil(100 * (1 - (1 - confidence) ** (1 / (count - 1)))) / 100
    return f"{least:.2f} or more" if least < 1 else "almost 1"
