"""``forcedelta calibrate``: determine a threshold for a given tolerance and risk from labelled frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..calibration.result import Calibration
from .exit_status import ExitStatus, described
from .options import Architecture, Compile, Device, Dtype, Json, Threads, Trust
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
}


def calibrate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="LABELLED.xyz",
            help="Frames with reference forces, eV/Å, as written by 'forcedelta recalc'.",
        ),
    ],
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="eV/Å",
            help="Largest acceptable RMS error of the direct forces of a frame, eV/Å.",
        ),
    ],
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
    forces_key: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Array of the files that holds the reference forces, eV/Å, if its name is not 'forces', "
            "e.g. REF_forces.",
            show_default=False,
        ),
    ] = None,
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
            help="File to write; pass it to --stop-above or --flag-above of 'run' and 'audit'.",
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out and --plot.")
    ] = False,
    json: Json = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = 1,
) -> int:
    """Find the threshold on U above which predictions of a model should not be trusted.

    The largest one for which the labels show, with the requested confidence, that
    P(error > tolerance | U <= threshold) <= risk.

    Also printed: how well U ranks the errors (Spearman's r_s, AUROC, with 95 % bootstrap
    intervals) next to the energy and the size of the forces, and what thresholds cost. Frames
    of one run, if the files name runs, count as the number of independent ones that their
    correlation allows.

    The confidence refers to one draw of labels and one --tolerance: trying several tolerances on
    the same labels adds up the chances of a wrong threshold. It also counts draws that give no
    threshold: of the thresholds found, more than 1 - confidence may be wrong.
    """
    from ..calibration.calibrate import calibrate as calibrated

    found = calibrated(
        files, model, tolerance=tolerance, risk=risk, confidence=confidence, forces_key=forces_key,
        energy_key=energy_key, architecture=architecture, trust=trust, compile=compile, out=out,
        plot=plot, overwrite=overwrite, device=device, dtype=dtype, threads=threads,
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
    ]


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
