"""The file of a calibration: what it found, on what it rests, and for which model it holds.

No heavy import: every run with ``--stop-above calibration.json`` reads one.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ForceDeltaError

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

    def facts(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return {"format": FORMAT, "unit": UNIT, "on": "force_delta", **asdict(self)}

    def record(self) -> dict[str, Any]:
        """What a run that uses it keeps, JSON-able: no more than what the threshold means."""
        names = ("threshold", "tolerance", "risk", "confidence", "guarantee", "model", "labels")
        facts = self.facts()
        return {name: facts[name] for name in ("unit", *names)}

    def write(self, path: str | Path) -> None:
        """Write it as JSON.

        Raises:
            ForceDeltaError: the file cannot be written.
        """
        text = json.dumps(self.facts(), ensure_ascii=False, indent=1)
        try:
            Path(path).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise ForceDeltaError(
                f"{path} cannot be written ({error.strerror}): choose another --out"
            ) from error

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
            raise ForceDeltaError(
                f"the calibration is for U of the frame, not for {on}: leave --on away"
            )
        if forces != "direct":
            raise ForceDeltaError(
                f"the calibration is for the errors of direct forces, and {forces} forces drive this run: "
                f"use --forces direct, or give the threshold as a number ({self.threshold:.4g})"
            )


def read_calibration(path: str | Path) -> Calibration:
    """A file that `Calibration.write` wrote.

    Raises:
        ForceDeltaError: it is missing, or something else.
    """
    what = "give a file that 'forcedelta calibrate --out' wrote"
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ForceDeltaError(f"{path} cannot be read ({error.strerror}): {what}") from error
    except (ValueError, RecursionError) as error:
        raise ForceDeltaError(f"{path} is no JSON ({error}): {what}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ForceDeltaError(f"{path} is no calibration of this version: {what}")
    if facts.get("unit") != UNIT or facts.get("on") != "force_delta":
        raise ForceDeltaError(f"{path} has a threshold in {facts.get('unit')}, not on U in {UNIT}")
    try:
        found = Calibration(**{name: facts[name] for name in Calibration.__dataclass_fields__})
    except KeyError as error:
        raise ForceDeltaError(f"{path} lacks {error}: {what}") from error
    wrong = _wrong_fields(found)
    if wrong:
        raise ForceDeltaError(f"{path} has a {wrong[0]} that makes no sense: {what}")
    return found


def _wrong_fields(found: Calibration) -> list[str]:
    """Names of fields that `Calibration.write` would not have written so."""
    kinds = {"labels": dict, "passing": dict, "ranking": dict, "thresholds": list, "versions": dict}
    wrong = [name for name in ("threshold", "tolerance") if not _is_within(getattr(found, name))]
    wrong += [name for name in ("risk", "confidence") if not _is_within(getattr(found, name), 1.0)]
    if not isinstance(found.guarantee, str):
        wrong.append("guarantee")
    model = found.model
    if not isinstance(model, dict) or not all(
        isinstance(model.get(key), str) for key in ("name", "weights_hash")
    ):
        wrong.append("model")
    return wrong + [
        name for name, kind in kinds.items() if not isinstance(getattr(found, name), kind)
    ]


def _is_within(value: object, above: float = math.inf) -> bool:
    """Whether it is a number between 0 and another."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < above  # type: ignore[operator]
