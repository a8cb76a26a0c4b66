"""Calibration file: the threshold, the labels behind it, and the model to which it applies.

No heavy import: every run with ``--stop-above calibration.json`` reads one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from md_hooks.replacing import replace_file
from md_hooks.text import one_line, shortened

from ..errors import ForceDeltaError
from ..limits import LIMITS
from ..reading_files import read_json

FORMAT = "forcedelta calibration 1"
UNIT = "eV/Å"


@dataclass(frozen=True)
class Calibration:
    """A threshold on U and what is known about it.

    Attributes:
        threshold: eV/Å; a frame passes where U <= threshold. The same number, digit by digit, as in
            the guarantee.
        tolerance: eV/Å, of the RMS error of the direct forces.
        risk: bound on P(error > tolerance | U <= threshold).
        confidence: probability, over the draw of the labels, that the bound holds.
        guarantee: the same as a sentence, and what was assumed.
        model: name and weights_hash of the model that it holds for.
        labels: their number, how many independent ones they count as (``used``) and why, and of
            what reference.
        passing: how many labels were looked at, those of them that pass, and the bad ones of these.
        ranking: r_s and AUROC of U and of its controls, with intervals.
        thresholds: share of passing labels, risk, precision and recall at several thresholds.
        versions: of the packages that made it.
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

    def as_dict(self) -> dict[str, Any]:
        """The calibration, JSON-able, as its file holds it."""
        return {"format": FORMAT, "unit": UNIT, "on": "force_delta", **asdict(self)}

    def record(self) -> dict[str, Any]:
        """What a run that uses it keeps, JSON-able: no more than what the threshold means."""
        names = ("threshold", "tolerance", "risk", "confidence", "guarantee", "model", "labels")
        known = self.as_dict()
        return {name: known[name] for name in ("unit", *names)}

    def write(self, path: str | Path) -> None:
        """Write it as JSON.

        Raises:
            ForceDeltaError: the file cannot be written.
        """
        replace_file(path, self.text(), "choose another --out", ForceDeltaError)

    def text(self) -> bytes:
        """What the file holds: JSON in UTF-8."""
        text = json.dumps(self.as_dict(), ensure_ascii=False, indent=1) + "\n"
        return text.encode(errors="backslashreplace")

    def check_use(
        self, name: str, weights_hash: str, on: str = "force_delta", forces: str = "direct"
    ) -> None:
        """Whether the threshold means something for a run or an audit.

        Args:
            name: of the model at hand.
            weights_hash: its.
            on: quantity that the threshold is compared with.
            forces: those that drive the run.

        Raises:
            ForceDeltaError: it does not: another model, another quantity, other forces.
        """
        known = self.model
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
        if on != "force_delta":
            raise ForceDeltaError(f"the calibration is for U of the frame, not for {on}: omit --on")
        if forces != "direct":
            raise ForceDeltaError(
                f"the calibration is for the errors of direct forces, and {forces} forces drive this run: "
                f"use --forces direct, or give the threshold as a number ({self.threshold!r})"
            )


def read_calibration(path: str | Path) -> Calibration:
    """A file that `Calibration.write` wrote.

    Raises:
        ForceDeltaError: it is missing, or something else, or an entry has another type or a value
            that no calibration gives.
    """
    what = "give a file that 'forcedelta calibrate --out' wrote"
    entries = read_json(path, what)
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise ForceDeltaError(f"{path} is not a calibration of this version: {what}")
    if entries.get("unit") != UNIT or entries.get("on") != "force_delta":
        raise ForceDeltaError(
            f"{path} has a threshold in {entries.get('unit')}, not on U in {UNIT}: {what}"
        )
    hints = get_type_hints(Calibration)
    missing = [name for name in hints if name not in entries]
    if missing:
        raise ForceDeltaError(f"{path} lacks {missing[0]!r}: {what}")
    for name, hint in hints.items():
        _check(path, name, entries[name], hint, what)
    return Calibration(**{name: entries[name] for name in hints})


def _check(path: str | Path, name: str, value: Any, hint: Any, what: str) -> None:
    """Whether an entry of the file has the type and the range that it must have.

    Raises:
        ForceDeltaError: it has not.
    """
    kind = get_origin(hint) or hint
    allowed = (int, float) if kind is float else kind
    fits = isinstance(value, allowed) and not (kind is float and isinstance(value, bool))
    words = {dict: "a table", list: "a list", float: "a number", str: "a string"}[kind]
    if not fits:
        raise ForceDeltaError(f"{path}: {name} is {_shown(value)}, not {words}: {what}")
    if kind is float:
        limits = LIMITS.get(name, LIMITS["stop_above"])
        # the limits of what can be asked for; what was asked for in Python may lie outside of them
        low = 0.0 if name in ("threshold", "tolerance", "risk", "confidence") else limits.low
        if not low <= value <= limits.high:
            raise ForceDeltaError(
                f"{path}: {name} is {_shown(value)}, out of range ({low:g} to {limits.high:g}): {what}"
            )
    if name == "model":
        for key in ("name", "weights_hash"):
            if not isinstance(value.get(key), str) or not value[key]:
                raise ForceDeltaError(f"{path}: model lacks the string {key!r}: {what}")


def _shown(value: Any) -> str:
    return shortened(one_line(json.dumps(value)), 80)
