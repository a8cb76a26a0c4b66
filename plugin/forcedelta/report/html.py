"""A report on recorded files: one HTML page that needs nothing else, and its picture as PNG."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from forcedelta.errors import ForceDeltaError
from forcedelta.outputs import Named, check_outputs, refuse_existing
from forcedelta.report.attack_figure import attack_figure, is_attack
from forcedelta.report.audit_figures import overview, png, structure
from forcedelta.report.digest import MOST_REMARKS, MOST_ROWS, Digest
from forcedelta.versions import __version__
from md_hooks import Action, Trajectory
from md_hooks.predicted_error import predicted_summary
from md_hooks.replacing import replace_files
from md_hooks.text import printable

_FACTS = (
    ("training_set", "training set"),
    ("level_of_theory", "level of theory"),
    ("regime", "trained on"),
    ("licence", "licence of the weights"),
)
_TITLE, _HEAD = b"<title>Force Delta report", 400
"""Title, within so many first bytes, by which a report is recognised."""

_ROUNDED = ("XTC", "TNG")


def write_report(files: Sequence[str | Path], report: Path) -> None:
    """Write a report on audits or runs.

    Existing files are replaced; see `check_report`.

    Args:
        files: recorded files, in the order in which they are to appear.
        report: the HTML page. The first picture of the first file goes beside it, with ``.png``.

    Raises:
        ForceDeltaError: there is nothing to report, the page cannot be written, or would replace
            one of the files.
        HookError: a file cannot be read.
    """
    check_outputs(
        [Named("report", report), Named("the report's picture", picture_of(report))],
        [Named("recorded file", file) for file in files],
    )
    digests = []
    for file in files:
        trajectory = Trajectory(file)
        if len(trajectory.series["step"]):
            digests.append(Digest(trajectory))
    if not digests:
        raise ForceDeltaError(f"{report}: not written, as there are no frames to report")
    pictures = [_pictures(digest) for digest in digests]
    page = (
        page_environment()
        .get_template("report.html")
        .render(
            sections=[
                _section(digest, found) for digest, found in zip(digests, pictures, strict=True)
            ],
            version=__version__,
            most_rows=MOST_ROWS,
            most_remarks=MOST_REMARKS,
        )
    )
    fix = "choose another file for the report"
    written = [
        (report, page.encode(errors="replace"), fix),
        (picture_of(report), pictures[0]["overview"], fix),
    ]
    replace_files(written, ForceDeltaError)


def page_environment() -> Environment:
    """What fills in the templates of pages: names are escaped, ``| inline`` embeds a PNG."""
    environment = Environment(
        loader=PackageLoader("forcedelta.report", "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = _inline
    return environment


def picture_of(report: Path) -> Path:
    """Where the picture beside a report is written."""
    return report.with_suffix(".png")


def check_report(report: Path, replace: bool, continues: bool = False) -> None:
    """Whether a report may be written, before what it reports is computed.

    Args:
        report: the HTML page.
        replace: the user asked for a file that exists to be replaced.
        continues: an audit goes on, and a report that was made of it before is made again.

    Raises:
        ForceDeltaError: it or its picture exists, or there is no folder for it.
    """
    again = replace or (continues and _is_report(report))
    for path in (report, picture_of(report)):
        refuse_existing("report", path, again)


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _TITLE in file.read(_HEAD)
    except OSError:
        return False


def _pictures(digest: Digest) -> dict[str, bytes]:
    attack = is_attack(digest.trajectory)
    found = {"overview": png(attack_figure(digest.trajectory) if attack else overview(digest))}
    if digest.worst is not None:
        found["worst"] = png(structure(digest.worst))
    if digest.stopped is not None:
        found["stopped"] = png(structure(digest.stopped))
    return found


def _section(digest: Digest, pictures: dict[str, bytes]) -> dict[str, Any]:
    model = digest.trajectory.metadata.get("model", {})
    metadata = model.get("metadata", {})
    return {
        "digest": digest,
        "pictures": pictures,
        "attack": is_attack(digest.trajectory),
        "frames": len(digest.series["step"]),
        "stored": len(digest.trajectory),
        "flagged": digest.marked(Action.FLAG),
        "stops": digest.marked(Action.STOP),
        "thresholds": digest.trajectory.thresholds,
        "policies": digest.trajectory.policies,
        "outcome": digest.trajectory.outcome,
        "quantiles": digest.quantiles(),
        "predicted": predicted_summary(digest.series),
        "error_stop": digest.settings.get("stop_error"),
        "error_flag": digest.settings.get("flag_error"),
        "prediction": _guarantee(digest.settings.get("calibration")),
        "model": model,
        "calibrations": digest.settings.get("calibrations", {}),
        "facts": [(title, metadata[key]) for key, title in _FACTS if metadata.get(key)],
        "symmetric": digest.remark_counts.get("symmetric", 0),
        "rounded": str(digest.settings.get("format", "")) in _ROUNDED,
        "not_audited": sum(
            digest.remark_counts.get(kind, 0) for kind in ("not audited", "unreadable", "end")
        ),
    }


def _guarantee(calibration: Any) -> str:
    """The guarantee of a stored predicted error; "" if there is none."""
    return str(calibration.get("guarantee", "")) if isinstance(calibration, dict) else ""


def _shown(value: Any) -> Any:
    """Names and remarks come from files: no control characters on the page."""
    return printable(value) if type(value) is str else value


def _inline(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
