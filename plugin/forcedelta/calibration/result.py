"""A calibration and its file: the threshold, its basis, and the model for which it holds.

Light to import, as every run with ``--stop-above calibration.json`` reads one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from md_hooks.replacing import replace_file
from md_hooks.text import one_line, shortened

from ..errors import ForceDeltaError
from ..limits import LIMITS
from ..reading_files import read_json

FORMAT = "forcedelta calibration 1"
FORMAT_ALONE = "forcedelta predicted error 1"
"""A file with a predicted error and no threshold."""
UNIT = "eV/Å"
GIVE = "give a file that 'forcedelta calibrate --out' wrote"


@dataclass(frozen=True)
class Calibration:
    """A threshold on U with its guarantee and statistics.

    Attributes:
        threshold: eV/Å; a frame passes if U <= threshold. Digit by digit the number in the
            guarantee.
        tolerance: eV/Å, of the RMS error of the direct forces.
        risk: bound on P(error > tolerance | U <= threshold).
        confidence: probability, over the draw of the labels, that the bound holds.
        guarantee: the guarantee and its assumptions as a sentence.
        model: name and weights_hash of the model for which it holds.
        labels: their number, the equivalent number of independent ones (``used``) with its reason,
            and their reference.
        passing: number of labels used, of those that pass, and of bad ones among these.
        ranking: r_s and AUROC of U and its controls, with intervals.
        thresholds: share of passing labels, risk, precision and recall at several thresholds.
        versions: of the packages used.
        prediction: a predicted error, as of
            `forcedelta.calibration.predicted_error.PredictedError.as_dict`; empty without.
    """

    threshold: float
    tolerance: float
    risk: float
    confidence: float
    guarantee: str
    model: dict[str, str]
    labels: dict[str, Any]
    passing: dict[str, Any]
    ranking: dict[str, Any]
    thresholds: list[dict[str, Any]]
    versions: dict[str, str] = field(default_factory=dict)
    prediction: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The calibration as in its file, JSON-able."""
        return {"format": FORMAT, "unit": UNIT, "on": "force_delta", **asdict(self)}

    def record(self) -> dict[str, Any]:
        """The part that a run with this calibration stores, JSON-able."""
        names = ("threshold", "tolerance", "risk", "confidence", "guarantee", "model", "labels")
        known = self.as_dict()
        return {name: known[name] for name in ("unit", *names)}

    def write(self, path: str | Path) -> None:
        """Write it as JSON.

        Args:
            path: an existing file is replaced.

        Raises:
            ForceDeltaError: the file cannot be written.
        """
        replace_file(path, self.text(), "choose another --out", ForceDeltaError)

    def text(self) -> bytes:
        """The content of the file: JSON in UTF-8."""
        text = json.dumps(self.as_dict(), ensure_ascii=False, indent=1) + "\n"
        return text.encode(errors="backslashreplace")

    def check_use(
        self, name: str, weights_hash: str, on: str = "force_delta", forces: str = "direct"
    ) -> None:
        """Refuse a run or an audit for which the threshold does not hold.

        Args:
            name: of the model in use.
            weights_hash: of that model.
            on: quantity compared with the threshold.
            forces: forces that drive the run.

        Raises:
            ForceDeltaError: another model, another quantity, or other forces.
        """
        check_model(self.model, name, weights_hash)
        if on != "force_delta":
            raise ForceDeltaError(f"the calibration is for U of the frame, not for {on}: omit --on")
        if forces != "direct":
            raise ForceDeltaError(
                f"the calibration is for the errors of direct forces, and {forces} forces drive this run: "
                f"use --forces direct, or give the threshold as a number ({self.threshold!r})"
            )


def check_model(known: Mapping[str, str], name: str, weights_hash: str) -> None:
    """Refuse a model other than the calibrated one.

    Args:
        known: name and weights_hash of the calibrated model.
        name: of the model in use.
        weights_hash: of that model.

    Raises:
        ForceDeltaError: another name or other weights.
    """
    if weights_hash != known["weights_hash"]:
        raise ForceDeltaError(
            f"the calibration is for the weights {known['weights_hash']} of '{known['name']}', but "
            f"'{name}' has the weights {weights_hash}: calibrate this model, or use that one"
        )
    if name != known["name"]:
        raise ForceDeltaError(
            f"the calibration is for the model '{known['name']}', not for '{name}', though the "
            "weights are the same: use the name that was calibrated"
        )


def read_calibration(path: str | Path) -> Calibration:
    """A file that `Calibration.write` or ``forcedelta calibrate --tolerance`` wrote.

    Args:
        path: the file, JSON.

    Raises:
        ForceDeltaError: the file is missing, is not a calibration, or has an entry of a wrong type
            or out of range.
    """
    what = GIVE
    entries = read_json(path, what)
    if isinstance(entries, dict) and entries.get("format") == FORMAT_ALONE:
        raise ForceDeltaError(
            f"{path} has a predicted error but no threshold: pass it to --calibration, or run "
            "'forcedelta calibrate' with --tolerance"
        )
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise ForceDeltaError(f"{path} is not a calibration of this version: {what}")
    if entries.get("unit") != UNIT or entries.get("on") != "force_delta":
        raise ForceDeltaError(
            f"{path} has a threshold in {entries.get('unit')}, not on U in {UNIT}: {what}"
        )
    hints = get_type_hints(Calibration)
    entries = {"prediction": {}, **entries}  # missing in files of earlier versions
    missing = [name for name in hints if name not in entries]
    if missing:
        raise ForceDeltaError(f"{path} lacks {missing[0]!r}: {what}")
    for name, hint in hints.items():
        _check(path, name, entries[name], hint, what)
    return Calibration(**{name: entries[name] for name in hints})


def _check(path: str | Path, name: str, value: Any, hint: Any, what: str) -> None:
    """Check type and range of an entry of the file.

    Raises:
        ForceDeltaError: the type is wrong or the value out of range.
    """
    kind = get_origin(hint) or hint
    allowed = (int, float) if kind is float else kind
    fits = isinstance(value, allowed) and not (kind is float and isinstance(value, bool))
    words = {dict: "a table", list: "a list", float: "a number", str: "a string"}[kind]
    if not fits:
        raise ForceDeltaError(f"{path}: {name} is {_shown(value)}, not {words}: {what}")
    if kind is float:
        limits = LIMITS.get(name, LIMITS["stop_above"])
        # limits of the command line; values given in Python may be lower
        low = 0.0 if name in ("threshold", "tolerance", "risk", "confidence") else limits.low
        if not low <= value <= limits.high:
            raise ForceDeltaError(
                f"{path}: {name} is {_shown(value)}, out of range ({low:g} to {limits.high:g}): {what}"
            )
    if name == "model":
        for key in ("name", "weights_hash"):
            if not isinstance(value.get(key), str) or not value[key]:
                raise ForceDeltaError(f"{path}: model has no string {key!r}: {what}")


def _shown(value: Any) -> str:
    return shortened(one_line(json.dumps(value)), 80)
