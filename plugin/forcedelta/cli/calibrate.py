"""``forcedelta calibrate``: determine a threshold for a given tolerance and risk from labelled frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..calibration.predicted_error_file import from_dict
from ..calibration.result import Calibration
from ..errors import ForceDeltaError
from ..reading_options import ReadingOptions
from .exit_status import ExitStatus, described
from .options import (
    Architecture,
    Compile,
    Device,
    Dtype,
    FileFormat,
    ForcesKey,
    Json,
    NoPbc,
    Threads,
    Trust,
)
from .prediction_words import prediction_shown, suggestion_shown
from .printing import print_json
from .tables import show, table

if TYPE_CHECKING:
    from rich.table import Table

EPILOG = (
    "The guarantee is that of Learn then Test (Angelopoulos et al. 2021): it holds for any model and "
    "any error distribution, for frames drawn from the same distribution as the labelled ones. "
    "Frames that the model was trained on do not qualify. "
    + described(ExitStatus.DONE, ExitStatus.BAD_INPUT)
)

_NAMES = {
    "force_delta": "U",
    "energy_per_atom": "energy per atom",
    "force_rms": "RMS of the forces",
    "rigid_force": "net force and torque",
}


def calibrate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="LABELLED.xyz",
            help="Frames with reference forces, eV/Å, as written by 'forcedelta recalc'; with --suggest, "
            "recorded runs or audits.",
        ),
    ],
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="eV/Å",
            help="Largest acceptable RMS error of the direct forces of a frame, eV/Å. Without it, only "
            "the predicted error is fitted, for which 10 labels suffice.",
            show_default=False,
        ),
    ] = None,
    risk: Annotated[
        float,
        typer.Option(
            help="Largest probability of an error above --tolerance among frames that pass, i.e. "
            "frames with U at or below the threshold."
        ),
    ] = 0.05,
    confidence: Annotated[
        float,
        typer.Option(help="Probability, over the draw of the labels, that --risk is not exceeded."),
    ] = 0.9,
    model: Annotated[
        str | None,
        typer.Option(
            help="Evaluate this model (name or path) on all frames. Without it, the predictions "
            "in the files are used.",
            show_default=False,
        ),
    ] = None,
    architecture: Architecture = None,
    trust: Trust = False,
    compile: Compile = False,
    forces_key: ForcesKey = None,
    file_format: FileFormat = None,
    no_pbc: NoPbc = False,
    energy_key: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Field of the files with the energy of the reference, e.g. REF_energy: checked to be a "
            "number in each frame, but not used, as a calibration rests on forces.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="File to write; pass it to --stop-above, --flag-above or --calibration of 'run' and "
            "'audit'. With --suggest, an extended XYZ file for 'forcedelta recalc'.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Figure to write: errors against U, and the risk of every threshold.",
            show_default=False,
        ),
    ] = None,
    suggest: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Suggest N frames of recorded runs or audits to label for a calibration: a stratified "
            "random sample over U.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out and --plot.")
    ] = False,
    json: Json = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = 1,
) -> int:
    """Find the threshold on U above which predictions of a model should not be trusted, and predict errors.

    The threshold is the largest one for which the labels show, with the requested confidence, that
    P(error > tolerance | U <= threshold) <= risk.

    The predicted error of the direct forces (eV/Å) is fitted to the labels by U and what else is
    free: largest u, energy, size of the forces, the model's expected error. It comes with an interval
    that covers 90 % of the errors of frames drawn like the labels, and a warning for frames outside
    their range. It bounds no risk: that does the threshold.

    Also printed: how well U ranks the errors (Spearman's r_s, AUROC, with 95 % bootstrap
    intervals) next to the energy and the size of the forces, and what thresholds cost. Frames
    of one run, if the files name runs, count as the number of independent ones that their
    correlation allows.

    The confidence refers to one draw of labels and one --tolerance: trying several tolerances on
    the same labels adds up the chances of a wrong threshold. It also counts draws that give no
    threshold: of the thresholds found, more than 1 - confidence may be wrong.
    """
    if suggest is not None:
        return _suggest(files, suggest, out, overwrite, json, tolerance, model, plot)
    reading = ReadingOptions(file_format, no_pbc=no_pbc)
    if tolerance is None:
        if plot is not None:
            raise ForceDeltaError("--plot shows thresholds: pass --tolerance, or omit --plot")
        from ..calibration.calibrate_error import calibrate_error

        error = calibrate_error(
            files, model, forces_key=forces_key, energy_key=energy_key, reading=reading,
            architecture=architecture, trust=trust, compile=compile, out=out, overwrite=overwrite,
            device=device, dtype=dtype, threads=threads,
        )  # fmt: skip
        if json:
            print_json(error.as_dict())
        else:
            show(*prediction_shown(error))
        return ExitStatus.DONE
    from ..calibration.calibrate import calibrate as calibrated

    found = calibrated(
        files, model, tolerance=tolerance, risk=risk, confidence=confidence, forces_key=forces_key,
        energy_key=energy_key, reading=reading, architecture=architecture, trust=trust,
        compile=compile, out=out, plot=plot, overwrite=overwrite, device=device, dtype=dtype, threads=threads,
    )  # fmt: skip
    if json:
        print_json(found.as_dict())
    else:
        show(*_shown(found))
    return ExitStatus.DONE


def _shown(found: Calibration) -> list[str | Table]:
    labels, passing = found.labels, found.passing
    share = passing["bad"] / passing["count"]
    reference = f", against {labels['reference']}" if labels["reference"] else ""
    return [
        f"threshold {found.threshold!r} eV/Å for model '{found.model['name']}'",
        found.guarantee,
        f"Based on {_number_of(labels)}{reference}: {passing['count']} of {passing['labels']} "
        f"pass, of which {passing['bad']} ({100 * share:.1f} %) exceed the tolerance; "
        f"{labels['above_tolerance']} of all labels exceed it.",
        "",
        _ranking(found),
        _thresholds(found.thresholds),
        *([""] if found.prediction else []),
        *(prediction_shown(from_dict(found.prediction, "the labels")) if found.prediction else []),
    ]


def _suggest(
    files: list[Path], count: int, out: Path | None, overwrite: bool, json: bool, *unused: object
) -> int:
    if any(option is not None for option in unused):
        raise ForceDeltaError(
            "--suggest chooses frames that have no labels yet: omit --tolerance, --model and --plot"
        )
    from ..labelling.selection.stratified import suggest

    found = suggest(files, count, out=out, overwrite=overwrite)
    if json:
        print_json(found.as_dict())
    else:
        show(*suggestion_shown(found))
    return ExitStatus.DONE


def _number_of(labels: dict[str, Any]) -> str:
    if not labels["runs"]:
        return f"{labels['count']} labels, taken as independent"
    runs = f"{labels['runs']} run" + "s" * (labels["runs"] > 1)
    return f"{labels['count']} labels of {runs}, equivalent to {labels['used']} independent labels"


def _ranking(found: Calibration) -> Table:
    heads = ("r_s", f"AUROC, error > {found.tolerance:g}", "AUROC, worst tenth")
    rows = [
        [_NAMES[name], *(_interval(measure) for measure in measures.values())]
        for name, measures in found.ranking.items()
    ]
    return table(["ranks errors by", *heads], rows)


def _interval(estimate: dict[str, float | None]) -> str:
    if estimate["value"] is None:
        return "-"
    text = f"{estimate['value']:.3f}"
    if estimate["low"] is None:
        return text
    return f"{text} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _thresholds(rows: list[dict[str, Any]]) -> Table:
    names = ("passing", "risk", "precision", "recall")
    return table(
        ["threshold", *names],
        [
            [f"{row['threshold']:.4g}"]
            + ["-" if row[name] is None else f"{row[name]:.3f}" for name in names]
            for row in rows
        ],
    )
