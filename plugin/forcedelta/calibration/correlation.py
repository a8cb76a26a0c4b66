"""Frames of one run resemble each other: how many independent labels they are worth.

The share of bad labels estimates a risk with a variance that is larger than that of independent
labels by the *design effect*. Two things raise it: frames that follow each other in time are alike,
and all frames of a run may be alike (each run stays in one basin). Both show in the sums over runs of
the deviations x from a mean common to all runs,

    deff = K / (K - 1) * sum_runs (sum_frames x)^2 / sum_frames x^2,

the cluster variance of survey statistics (for K equal runs it is 1 + (L - 1) ICC with L frames per
run and the intraclass correlation ICC). Subtracting the mean of each run would hide everything slower
than the run. A dependence on time common to all runs, such as the growth of errors in heating ramps,
is not correlation and is removed as a linear trend. With few runs the sum is uncertain:
as in Korn and Graubard, Survey Methodology 24, 193 (1998), n / deff is multiplied by the squared
ratio of the quantiles of the normal and of Student's t distribution. Where frames are in the order
of time, the design effect is at least the statistical inefficiency

    g = 1 + 2 sum_k (1 - k/n) C(k)

of Chodera, Swope, Pitera, Seok and Dill, J. Chem. Theory Comput. 3, 26 (2007), whose
autocorrelation function C is here that of all runs together.

If all frames come from a single run, blocks in time replace the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

BLOCKS = 8
"""Number of blocks into which a single run is divided."""
SHORTEST = 20
"""Fewest frames of a single run from which their correlation is estimated."""
ONE_RUN = 1.5
"""Below this effective number of runs, differences between runs cannot be seen."""
LEAST_CONFIDENCE = 0.75
"""Student's t is compared with the normal distribution at this confidence at least."""


@dataclass(frozen=True)
class Sample:
    """Labels and the number of independent ones to which they are equivalent.

    Attributes:
        kept: indices of the labels to be used, in ascending order.
        worth: equivalent number of independent labels, at most their number.
        runs: number of runs named in the files.
        alone: number of labels of unknown run, taken as independent.
        way: how the correlation was estimated: "none" if no label has a run, "between runs",
            "blocks" of a single run in time, or "one of each run" where that is worth more.
    """

    kept: Indices
    worth: float
    runs: int
    alone: int
    way: str

    @property
    def weight(self) -> float:
        """Independent labels that one of those kept counts as."""
        return self.worth / len(self.kept)

    @property
    def assumed(self) -> str:
        """The assumptions behind the count, as a clause."""
        alone = f"the {self.alone} labels of which no run is known are independent of each other"
        if not self.runs:
            return alone
        runs = f"{self.runs} run" + "s" * (self.runs > 1)
        if self.way == "blocks":
            text = (
                f"the labels of {runs} count as {self.worth - self.alone:.0f} independent ones from "
                "their correlation in time, and differences between runs are not seen"
            )
        elif self.way == "between runs":
            text = (
                f"runs are independent of each other; the labels of {runs} count as "
                f"{self.worth - self.alone:.0f} independent ones from their correlation within runs"
            )
        else:
            text = (
                f"runs are independent of each other; one label of each of {runs} counts, as those "
                "of a run may be all alike"
            )
        return text + (f", and {alone}" if self.alone else "")


def independent(
    sources: Sequence[str | None],
    times: Array,
    *quantities: Array,
    confidence: float = 0.9,
    seed: int = 0,
) -> Sample:
    """The number of independent labels.

    Args:
        sources: run of each label [n]; a label of unknown run (None) is taken as independent of all
            others.
        times: time of each label in its run [n], in any unit; NaN where unknown.
        quantities: deviations from a mean, [m, n] each; the most correlated ones count.
        confidence: of the later test of thresholds.
        seed: of the random choice of one frame per run.
    """
    count = len(sources)
    known = [source for source in sources if source is not None]
    runs = dict.fromkeys(known)
    alone = count - len(known)
    if not runs:
        return Sample(np.arange(count), float(count), 0, alone, "none")
    groups = _groups(sources, times)
    lonely = [row for row, source in enumerate(sources) if source is None]
    single = Sample(
        np.sort([*_one_of_each(groups, seed), *lonely]),
        float(len(runs) + alone), len(runs), alone, "one of each run",
    )  # fmt: skip
    sizes = np.array([len(rows) for rows, _ in groups] + [1] * alone, float)
    way, clusters = "between runs", [rows for rows, _ in groups]
    if effective_number(sizes) < ONE_RUN:
        way, clusters = "blocks", _blocks(groups)
        if not clusters:
            return single
    clusters += [np.array([row]) for row in lonely]
    ordered = [rows for rows, in_order in groups if in_order]
    effect = 1.0
    for quantity in quantities:
        rest = _without_trend(quantity, times, ordered)
        effect = max(effect, design_effect(rest, clusters), statistical_inefficiency(rest, ordered))
    dof = max(1.0, effective_number(np.array([len(rows) for rows in clusters], float)) - 1.0)
    level = max(confidence, LEAST_CONFIDENCE)
    worth = count / effect * float(norm.ppf(level) / t.ppf(level, dof)) ** 2
    if worth <= single.worth:
        return single
    return Sample(np.arange(count), min(worth, float(count)), len(runs), alone, way)


def design_effect(deviations: Array, clusters: Sequence[Indices]) -> float:
    """Variance of a mean over that of independent labels; 1 if nothing varies.

    Args:
        deviations: from the mean [m, n], of m quantities taken together.
        clusters: rows of each run or single label; together all n.
    """
    total = float((deviations**2).sum())
    if total == 0 or len(clusters) < 2:
        return 1.0
    sums = np.array([deviations[:, rows].sum(axis=1) for rows in clusters])
    return len(clusters) / (len(clusters) - 1) * float((sums**2).sum()) / total


def statistical_inefficiency(deviations: Array, runs: Sequence[Indices]) -> float:
    """Number of consecutive frames that count as one independent frame, over all runs.

    Args:
        deviations: from a mean common to all runs [m, n].
        runs: rows of each run in the order of time.
    """
    longest = max((len(rows) for rows in runs), default=0)
    covariance = np.zeros(longest)
    for rows in runs:
        spectrum = np.fft.rfft(deviations[:, rows], 2 * longest, axis=1)
        covariance += np.fft.irfft((np.abs(spectrum) ** 2).sum(axis=0), 2 * longest)[:longest]
    if longest == 0 or covariance[0] <= 0:
        return 1.0
    correlation = covariance[1:] / covariance[0]
    ends = np.flatnonzero(correlation <= 0)
    return 1.0 + 2.0 * float(correlation[: ends[0] if len(ends) else None].sum())


def effective_number(sizes: Array) -> float:
    """Number of equally long runs with the same information about the spread between runs."""
    squares = sizes**2
    return float(squares.sum() ** 2 / (squares**2).sum())


def _groups(sources: Sequence[str | None], times: Array) -> list[tuple[Indices, bool]]:
    """Rows of each run, in order of time if its times define one, and whether they do."""
    members: dict[str, list[int]] = {}
    for row, source in enumerate(sources):
        if source is not None:
            members.setdefault(source, []).append(row)
    groups = []
    for rows in map(np.array, members.values()):
        known = times[rows]
        in_order = bool(np.isfinite(known).all()) and len(np.unique(known)) == len(rows)
        groups.append(
            (rows[np.argsort(times[rows], kind="stable")] if in_order else rows, in_order)
        )
    return groups


def _blocks(groups: list[tuple[Indices, bool]]) -> list[Indices]:
    """Blocks in time that replace runs; none if frames are too few or their order is unknown."""
    total = sum(len(rows) for rows, _ in groups)
    if total < SHORTEST or not all(in_order for _, in_order in groups):
        return []
    return [
        block
        for rows, _ in groups
        for block in np.array_split(rows, max(1, round(BLOCKS * len(rows) / total)))
    ]


def _one_of_each(groups: list[tuple[Indices, bool]], seed: int) -> list[int]:
    """A random frame of each run: first or middle frames would not be representative."""
    rng = np.random.default_rng(seed)
    return [int(rng.choice(rows)) for rows, _ in groups]


def _without_trend(deviations: Array, times: Array, ordered: list[Indices]) -> Array:
    """The deviations without the linear trend in time common to all runs."""
    rest = deviations.copy()
    if ordered:
        rows = np.concatenate(ordered)
        time = times[rows] / max(float(np.abs(times[rows]).max()), 1e-300)
        time -= time.mean()
        if (spread := float(time @ time)) > 0:
            rest[:, rows] -= np.outer(rest[:, rows] @ time / spread, time)
    return rest
