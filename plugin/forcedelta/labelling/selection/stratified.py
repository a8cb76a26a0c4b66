"""Which frames to label next for a calibration: a stratified random sample over U.

The frames are ordered by U and divided into as many strata of equal size as labels are wanted; one
frame is drawn at random from each (the few that no stratum takes are set aside at random before).
Every frame is drawn with the same probability, so all labels have equal weights, and they spread over
the whole distribution of U.

**What it keeps.** Let a new frame be drawn at random from the same frames, J its stratum and s its
score (such as the absolute residual of a prediction). Exchange the label of stratum J for the new
frame: the result has the distribution of the sample, and the new frame is a random member of it, so its
rank there is uniform on 1 to N. Since the label that it replaced may lie on either side,

    P(s <= k-th smallest score of the labels) >= (k - 1) / N

instead of k / (N + 1) for independent labels: with k = ceil(0.9 (N + 1)) the coverage of a conformal
interval is at least 90 % - 10 % / N. For a threshold, the number of bad labels among those that pass is a sum
of independent draws of unequal probability, whose lower tail below the mean is at most that of the binomial
distribution (Hoeffding, Ann. Math. Stat. 27, 713 (1956)), so the test of
`forcedelta.calibration.guarantee` errs on the safe side at the boundaries of strata. Both refer to frames like
those of the files, and not to the frames of another run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling.selection.candidates import Candidates, open_candidates
from forcedelta.outputs import Named, check_outputs, refuse_existing
from md_hooks.extxyz import frame_text
from md_hooks.replacing import replace_file

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Suggestion:
    """Frames to label.

    Attributes:
        frames: "file", "step" and "force_delta" (eV/Å) of each, by increasing U.
        population: number of recorded frames from which they were drawn.
        range: lowest and highest U of the population, eV/Å.
        above: number of frames in the population with a larger U than any suggested one.
        guarantee: what calibrations with these labels keep, as a sentence.
        out: the file with the structures; None if none was asked for.
    """

    frames: list[dict[str, Any]]
    population: int
    range: tuple[float, float]
    above: int
    guarantee: str
    out: str | None

    def as_dict(self) -> dict[str, Any]:
        """The suggestion, JSON-able."""
        return asdict(self)


def suggest(
    files: str | Path | Sequence[str | Path],
    count: int,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> Suggestion:
    """Suggest frames of recorded runs or audits to label for a calibration.

    Frames without a finite U, and those at which a guard says stop, are left out: they are not what
    a calibrated run meets.

    >>> found = suggest("run.h5", 3, out="to_label.xyz")

    Args:
        files: of ``forcedelta run`` or ``audit``, or extended XYZ of flagged frames.
        count: number of frames to label.
        out: extended XYZ file to write, for ``forcedelta recalc``.
        overwrite: replace it.
        seed: of the draw.

    Raises:
        ForceDeltaError, HookError: a file cannot be used, or has fewer frames than wanted; ``out``
            exists or is an input.
    """
    paths = [files] if isinstance(files, str | Path) else list(files)
    check_outputs([Named("--out", out)], [Named("recorded file", path) for path in paths])
    if out is not None:
        refuse_existing("--out", Path(out), overwrite)
    if count < 1:
        raise ForceDeltaError(
            f"--suggest is {count}: give the number of frames to label, 1 or more"
        )
    sources = [open_candidates(path) for path in paths]
    pool = [(k, int(row)) for k, source in enumerate(sources) for row in _usable(source)]
    if len(pool) < count:
        raise ForceDeltaError(
            f"there are {len(pool)} recorded frames with U, and --suggest asks for {count}: give a smaller "
            "number, or record more frames (--record-every)"
        )
    u = np.array([sources[k].force_delta[row] for k, row in pool])
    drawn = stratified(u, count, seed)
    rows = [pool[index] for index in drawn]
    if out is not None:
        _write(Path(out), sources, rows)
    return Suggestion(
        frames=[
            {
                "file": str(paths[k]),
                "step": int(sources[k].steps[row]),
                "force_delta": float(sources[k].force_delta[row]),
            }
            for k, row in rows
        ],
        population=len(pool),
        range=(float(u.min()), float(u.max())),
        above=int((u > u[drawn].max()).sum()),
        guarantee=(
            f"A stratified random sample: one of each {len(pool) // count} frames in the order of U, all "
            f"drawn with the same probability. For frames like these {len(pool)}, intervals calibrated "
            f"on them cover at least {90 - 10 / count:.1f} %, and the test behind a threshold errs on "
            "the safe side; label all of them, as leaving some out breaks this."
        ),
        out=None if out is None else str(out),
    )


def stratified(u: Array, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices of the sample, by increasing U.

    Args:
        u: of all frames [M], eV/Å.
        count: number of strata N <= M.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    size = len(u) // count
    kept = rng.permutation(len(u))[: size * count]
    ordered = kept[np.argsort(u[kept], kind="stable")]
    return ordered.reshape(count, size)[np.arange(count), rng.integers(0, size, count)]


def _usable(source: Candidates) -> NDArray[np.int64]:
    good = np.isfinite(source.force_delta) & source.finite
    stop = source.thresholds.get("stop")
    if stop is not None:
        judged = source.worst if source.thresholds.get("on") == "worst_atom" else source.force_delta
        good &= ~(judged > stop)
    return np.flatnonzero(good)


def _write(out: Path, sources: Sequence[Candidates], rows: Sequence[tuple[int, int]]) -> None:
    parts = []
    for rank, (k, row) in enumerate(rows):
        atoms = sources[k].read([row])[0]
        atoms.info["pick"] = rank
        parts.append(frame_text(atoms))
    replace_file(out, b"".join(parts), "choose another --out", ForceDeltaError)
