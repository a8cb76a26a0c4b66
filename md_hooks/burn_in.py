"""The burn-in of a guarded run: its checks, and the usual Force Delta in it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .frame import Frame
from .geometry import Geometry

FloatArray = NDArray[np.floating]

Row = tuple[float, float, float]
"""Value, eV/Å, disagreement of the predictions and temperature, K, of a frame; NaN if unknown."""

SAMPLES = 1000
"""Largest number of frames kept for the statistics of a burn-in, evenly spaced."""

BLOCK = 50
"""Frames between two checks of a running burn-in; fewer are too few for statistics."""

UNRELATED = 0.5
"""Relative difference of the two predictions (`disagreement`) that rejects a burn-in if a tenth of its
frames exceed it. This quantile is 0.04 to 0.25 for models within their training domain and 1 for two
independent predictions."""

HOPELESS = 0.6
"""Disagreement that ends the burn-in at once, as the median of a block or in the first frame."""

NEGLIGIBLE = 0.1
"""eV/Å; a smaller U does not reject a burn-in: near a minimum all forces are small."""

WARM, NEGLIGIBLE_WARM = 200.0, 0.05
"""K and eV/Å; above this median temperature, far from a minimum, the smaller limit on U applies."""

SPIKE = 20.0
"""Ratio of the largest to the median U; 2.5 to 10 in undisturbed runs of 3 ps."""

GROWTH = 3.0
"""Factor by which U may grow from the second to the last quarter of a burn-in."""

HOT, STRAIN = 2.0, 100.0
"""Ratio of the mean temperature in the second half of a burn-in to the target, for many atoms; and an
excess over the target, K, that is always allowed, since the strain energy that a structure releases
does not depend on the target."""

EXPLODED_ABOVE = 10.0, 3000.0
"""Factor of the target and offset, K, of the temperature above which a frame has exploded; the energy
released by a strained structure stays below it."""

PLAIN_OVERLAP = 0.5
"""Two atoms closer than this times the sum of their covalent radii end the burn-in at once."""

NO_BOND_SURVIVES = 1e5
"""K; its kT of 8.6 eV exceeds the energy of most bonds. The limit if no target is known."""

COVERED, CONFIDENCE = 0.99999, 0.9
"""Coverage and confidence of the tolerance limit that defines the level."""

LARGE = 0.25
"""Largest disagreement of the two predictions at the level, unless the burn-in itself exceeds it; half of
`UNRELATED`."""

FEW, FEW_SAMPLES = 10.0, 100
"""Autocorrelation times and frames needed to fit a distribution; with fewer, the level is the largest U."""

THERMAL = 0.5
"""eV/Å, a typical thermal force; a first frame with a larger U is not a relaxed structure."""


class BurnIn:
    """Statistics of a burn-in, and the decision whether to accept it.

    Args:
        steps: length of the burn-in.
        temperature: target of the thermostat, K; None if unknown.

    Attributes:
        start: step of the first frame; None until it arrives.
        largest: the largest value so far, eV/Å.
    """

    def __init__(self, steps: int, temperature: float | None = None) -> None:
        self.steps = steps
        self.temperature = temperature
        self.start: int | None = None
        self.largest: float | None = None
        self._largest_step = 0
        self._frames = 0
        self._next = 0  # step from which on a frame is sampled again
        self._rows: list[Row] = []
        self._later: list[Row] = []  # of less than a block after the burn-in
        self._geometry: Geometry | None = None

    def over(self, step: int) -> bool:
        """Whether a step lies after the burn-in, which begins with the first frame."""
        if self.start is None:
            self.start = self._next = step
        return step >= self.start + self.steps

    # --- frame by frame ------------------------------------------------------------------------

    def add(self, frame: Frame, value: float | None) -> str | None:
        """Add a frame of the burn-in.

        Args:
            frame: the frame, all values finite.
            value: the monitored quantity, eV/Å; None if U was not computed.

        Returns:
            the reason to end the burn-in now; None to continue.
        """
        hot = self._exploded(frame.temperature)
        if hot is not None:
            return hot
        if self._geometry is None:
            self._geometry = Geometry.of(frame)
        self._frames += 1
        if self._frames % BLOCK == 0:
            broken = self._geometry.broken(frame, PLAIN_OVERLAP)
            if broken is not None:
                return broken
        if value is None:
            return None
        if self.largest is None or value > self.largest:
            self.largest, self._largest_step = value, frame.step
        if frame.step < self._next:
            return None
        self._next = frame.step + max(1, self.steps // SAMPLES)
        temperature = math.nan if frame.temperature is None else float(frame.temperature)
        self._rows.append((value, _disagreement(frame), temperature))
        if len(self._rows) % BLOCK == 0 or (len(self._rows) == 1 and value > THERMAL):
            return self._unrelated(np.array(self._rows[-BLOCK:]), 0.5, HOPELESS)
        return None

    def _exploded(self, temperature: float | None) -> str | None:
        if temperature is None:
            return None
        limit = NO_BOND_SURVIVES
        if self.temperature is not None:
            limit = EXPLODED_ABOVE[0] * self.temperature + EXPLODED_ABOVE[1]
        if temperature <= limit:
            return None
        target = "" if self.temperature is None else f", target {self.temperature:g} K"
        return f"the temperature is {temperature:.4g} K{target}"

    @staticmethod
    def _unrelated(rows: FloatArray, quantile: float, limit: float) -> str | None:
        shares = rows[:, 1][np.isfinite(rows[:, 1])]
        if not len(shares):
            return None
        share, u = float(np.quantile(shares, quantile)), float(np.median(rows[:, 0]))
        warm = len(rows) >= BLOCK and float(np.median(rows[:, 2])) >= WARM  # NaN is not
        if share <= limit or u <= (NEGLIGIBLE_WARM if warm else NEGLIGIBLE):
            return None
        often = f" or more in {100 * (1 - quantile):.0f} % of the frames" if len(rows) > 1 else ""
        return (
            "the two force predictions have little in common: they differ by "
            f"{100 * share:.0f} % of their size{often} (median U {u:.3g} eV/Å)"
        )

    def follow(self, frame: Frame, value: float | None) -> str | None:
        """Add a frame after the burn-in.

        The threshold applies to systems like that of the burn-in. A run may depart from it without
        crossing the threshold: forces become small when atoms fly apart.

        Returns:
            the reason to stop the run; None to continue.
        """
        temperature = math.nan if frame.temperature is None else float(frame.temperature)
        if temperature > NO_BOND_SURVIVES:
            return f"the temperature is {temperature:.4g} K"
        if value is None:
            return None
        self._later.append((value, _disagreement(frame), temperature))
        if len(self._later) < BLOCK:
            return None
        block = np.array(self._later)
        self._later.clear()
        if not float(np.median(block[:, 2])) >= WARM:  # also for NaN; it may be a cooled structure
            return None
        return self._unrelated(block, 0.5, UNRELATED)

    # --- the end -------------------------------------------------------------------------------

    def judge(self, frame: Frame) -> list[str]:
        """The reasons to reject this burn-in; empty if thresholds can be chosen from it.

        Args:
            frame: the first frame after the burn-in.
        """
        hot = self._exploded(frame.temperature)
        if hot is not None:
            return [hot]
        found = [] if self._geometry is None else [self._geometry.broken(frame)]
        rows = np.array(self._rows).reshape(-1, 3)
        usual = rows[len(rows) // 4 :]
        if len(rows) >= BLOCK:  # fewer are too few for statistics
            found += [self._unrelated(usual, 0.9, UNRELATED), self._hot(rows, len(frame.numbers))]
            found += [self._spike(usual[:, 0]), self._growth(rows[:, 0])]
        return [why for why in found if why is not None]

    def _hot(self, rows: FloatArray, atoms: int) -> str | None:
        temperatures = rows[len(rows) // 2 :, 2]
        if not self.temperature or not np.isfinite(temperatures).all():
            return None
        mean = float(temperatures.mean())
        # with few atoms, the mean over a burn-in fluctuates as well
        limit = HOT * self.temperature * (1.0 + math.sqrt(2.0 / max(3 * atoms - 3, 1)))
        limit = max(limit, self.temperature + STRAIN)
        if mean <= limit:
            return None
        return f"the mean temperature of its second half is {mean:.4g} K, target {self.temperature:g} K"

    def _spike(self, values: FloatArray) -> str | None:
        median = float(np.median(values))
        if self.largest is None or self.largest <= max(SPIKE * median, NEGLIGIBLE):
            return None
        return f"U reached {self.largest:.3g} eV/Å at step {self._largest_step}, its median is {median:.3g}"

    @staticmethod
    def _growth(values: FloatArray) -> str | None:
        quarter = len(values) // 4
        if quarter < BLOCK:
            return None
        early = float(np.median(values[quarter : 2 * quarter]))
        late = float(np.median(values[-quarter:]))
        if late <= max(GROWTH * early, NEGLIGIBLE):
            return None
        return f"U still grows: its median is {early:.3g} eV/Å in the second quarter, {late:.3g} in the last"

    def level(self) -> tuple[float, float]:
        """The upper end of the usual values, eV/Å, and the length in autocorrelation times.

        The logarithm of U is nearly normally distributed in undisturbed runs. The level is the one-sided
        tolerance limit of such a distribution (Krishnamoorthy and Mathew, Statistical Tolerance
        Regions, 2009) for as many independent values as the burn-in has autocorrelation times.
        Values beyond three robust standard deviations are clipped to three, lest a spike raise the
        level. The level is at most a quarter of the force magnitude, or the 99th percentile if that
        is higher. For a burn-in too short to fit a distribution it is the largest value.
        """
        rows = np.array(self._rows).reshape(-1, 3)
        values = rows[:, 0]
        logs = np.log(np.maximum(values[len(values) // 4 :], np.finfo(float).tiny))
        times = len(values) / autocorrelation_time(logs)
        if times < FEW or len(values) < FEW_SAMPLES:
            return self.largest or 0.0, times
        median = float(np.median(logs))
        reach = 3.0 * 1.4826 * float(np.median(np.abs(logs - median)))
        spread = float(np.clip(logs, median - reach, median + reach).std())
        root = math.sqrt(times)
        from scipy.stats import nct, norm  # SciPy takes a second to import

        factor = float(nct.ppf(CONFIDENCE, times - 1.0, norm.ppf(COVERED) * root)) / root
        level = math.exp(median + factor * spread)
        related = rows[:, 1] > 0  # False for NaN, which marks unknown forces
        if related.any():
            size = float(np.median(values[related] / rows[related, 1]))
            level = min(level, max(LARGE * size, float(np.exp(np.quantile(logs, 0.99)))))
        return level, times

    # --- restart -------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The state on which the judgement depends, JSON-able."""
        return {
            "largest_step": self._largest_step,
            "frames": self._frames,
            "next": self._next,
            "rows": _encoded(self._rows),
            "geometry": None if self._geometry is None else self._geometry.state(),
        }

    def state_after(self) -> dict[str, Any]:
        """The state on which `follow` depends, JSON-able."""
        return {"later": _encoded(self._later)}

    def load(self, start: int | None, largest: float | None, state: Mapping[str, Any]) -> None:
        """Restore a `state`; it is empty for files that store none."""
        self.start, self.largest = start, largest
        self._largest_step = int(state.get("largest_step", start or 0))
        self._frames = int(state.get("frames", 0))
        self._next = int(state.get("next", start or 0))
        self._rows = _decoded(state.get("rows", ""))
        self._later = _decoded(state.get("later", ""))
        geometry = state.get("geometry")
        self._geometry = None if geometry is None else Geometry.from_state(geometry)


def _encoded(rows: list[Row]) -> str:
    return base64.b64encode(np.array(rows, dtype="<f8").tobytes()).decode()


def _decoded(text: str) -> list[Row]:
    rows = np.frombuffer(base64.b64decode(text), dtype="<f8").reshape(-1, 3)
    return [(float(a), float(b), float(c)) for a, b, c in rows]


def disagreement(u: float, direct: FloatArray, conservative: FloatArray) -> float:
    """U relative to the magnitude of both predictions, sqrt(<F_nc^2> + <F_c^2>).

    0 for equal predictions, 1 for uncorrelated ones; NaN if all forces are zero.

    Args:
        u: eV/Å.
        direct: [N, 3] eV/Å.
        conservative: [N, 3] eV/Å.
    """
    size = math.sqrt(float(np.mean(direct**2) + np.mean(conservative**2)))
    return u / size if size > 0 else math.nan


def _disagreement(frame: Frame) -> float:
    if frame.force_delta is None:
        return math.nan
    direct, conservative = frame.direct_forces, frame.conservative_forces
    if direct is None or conservative is None:
        direct = conservative = frame.forces
    return disagreement(float(frame.force_delta), direct, conservative)


def autocorrelation_time(values: FloatArray) -> float:
    """Integrated autocorrelation time in units of the spacing: 1 for independent values.

    With the self-consistent window of Sokal (Monte Carlo Methods in Statistical Mechanics, 1996): the
    sum ends at the first lag of five times its value.

    Args:
        values: [n], evenly spaced.
    """
    n = len(values)
    away = values - values.mean() if n else values
    power = float(np.dot(away, away))
    if n < 2 or power <= 0:
        return 1.0
    spectrum = np.fft.rfft(away, 2 * n)
    correlation = np.fft.irfft(spectrum * np.conj(spectrum))[:n] / power
    times = 1.0 + 2.0 * np.cumsum(correlation[1:])
    window = np.flatnonzero(np.arange(1, n) >= 5.0 * times)
    return max(1.0, float(times[window[0]] if len(window) else times.max()))
