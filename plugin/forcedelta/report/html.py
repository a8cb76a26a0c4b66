"""A report on recorded files: one HTML page that needs nothing else, and its picture as PNG."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from forcedelta.errors import ForceDeltaError
from forcedelta.monitoring import recorded_monitoring
from forcedelta.outputs import Named, check_outputs, refuse_existing
from forcedelta.report.attack_figure import attack_figure, is_attack
from forcedelta.report.audit_figures import overview, png, points, structure
from forcedelta.report.digest import MOST_REMARKS, MOST_ROWS, Digest
from forcedelta.report.in_words import legs_in_words, overview_in_words, structure_in_words
from forcedelta.report.structure_view import MOST_VIEWED, palette, viewer_library
from forcedelta.versions import __version__
from md_hooks import Action, Frame, Trajectory, drift_of
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


def write_report(
    files: Sequence[str | Path], report: Path, failed: Mapping[str, str] | None = None
) -> None:
    """Write a report on audits or runs.

    Existing files are replaced; see `check_report`.

    Args:
        files: recorded files, in the order in which they are to appear.
        report: the HTML page. The first picture of the first file goes beside it, with ``.png``.
        failed: trajectories of which there is nothing to report, and why.

    Raises:
        ForceDeltaError: there is nothing to report, the page cannot be written, or would replace
            one of the files.
        HookError: a file cannot be read.
    """
    check_outputs(
        [Named("report", report), Named("the report's picture", picture_of(report))],
        [Named("recorded file", file) for file in files],
    )
    failed = dict(failed or {})
    trajectories = []
    for file in files:
        trajectory = Trajectory(file)
        if len(trajectory.series["step"]):
            trajectories.append(trajectory)
        else:
            failed[str(file)] = "no frames"
    if not trajectories:
        raise ForceDeltaError(f"{report}: not written, as there are no frames to report")
    digests = [Digest(found, MOST_VIEWED // len(trajectories)) for found in trajectories]
    sections = [_section(digest) for digest in digests]
    viewed = [[view.as_dict() for view in digest.views] for digest in digests]
    page = (
        page_environment()
        .get_template("report.html")
        .render(
            sections=sections,
            failed=failed,
            version=__version__,
            most_rows=MOST_ROWS,
            most_remarks=MOST_REMARKS,
            views=viewed,
            palette=palette(),
            library=viewer_library() if any(viewed) else "",
        )
    )
    fix = "choose another file for the report"
    written = [
        (report, page.encode(errors="replace"), fix),
        (picture_of(report), sections[0]["pictures"]["overview"], fix),
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


def _structures(digest: Digest) -> list[dict[str, Any]]:
    """The frames of which a picture is shown, each once."""
    found, steps = [], set()
    for kind in ("worst", "stopped", "last_finite"):
        frame: Frame | None = getattr(digest, kind)
        if frame is not None and frame.step not in steps:
            steps.add(frame.step)
            entry = {"kind": kind, "frame": frame, "words": structure_in_words(frame)}
            found.append(entry | {"picture": png(structure(frame))})
    return found


def _section(digest: Digest) -> dict[str, Any]:
    attack = is_attack(digest.trajectory)
    figure = attack_figure(digest.trajectory) if attack else overview(digest)
    pictures = {"overview": png(figure)}
    viewed = {view.step for view in digest.views}
    at = [] if attack else [spot for spot in points(figure, digest) if spot[0].step in viewed]
    model = digest.trajectory.metadata.get("model", {})
    metadata = model.get("metadata", {})
    return {
        "digest": digest,
        "pictures": pictures,
        "attack": attack,
        "overview_words": overview_in_words(digest),
        "structures": _structures(digest),
        "points": at,
        "viewed": viewed,
        "frames": len(digest.series["step"]),
        "stored": len(digest.trajectory),
        "flagged": digest.marked(Action.FLAG),
        "stops": digest.marked(Action.STOP),
        "thresholds": digest.trajectory.thresholds,
        "policies": digest.trajectory.policies,
        "outcome": digest.trajectory.outcome,
        "quantiles": digest.quantiles(),
        "monitoring": recorded_monitoring(digest.trajectory),
        "drift": drift_of(digest.trajectory),
        "legs": legs_in_words(digest.trajectory),
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
