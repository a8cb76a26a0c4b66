"""Comparison of models: audits of all structures with all models, joined and summarised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from forcedelta.comparison.audits import Auditing, model_folder
from forcedelta.comparison.common import common, settled, without_forces
from forcedelta.comparison.families import check_families, families_of
from forcedelta.comparison.result import Comparison
from forcedelta.comparison.rows import as_csv, rows_of
from forcedelta.comparison.statistics import FEWEST
from forcedelta.comparison.structures import StructureFile, check_names, read_structures
from forcedelta.comparison.summary import attack, family_scores, model_scores, system_scores
from forcedelta.comparison.table import Table, join
from forcedelta.errors import ForceDeltaError
from forcedelta.labelling.level_of_theory import difference
from forcedelta.outputs import Named, check_outputs
from forcedelta.reading_options import ReadingOptions
from md_hooks.replacing import replace_file

if TYPE_CHECKING:
    from forcedelta.models.loaded import LoadedModel

TABLE = "structures.csv"
"""Name of the table of all predictions in the folder of a comparison."""


def compare(
    files: str | Path | Iterable[str | Path],
    models: str | Path | LoadedModel | Iterable[str | Path | LoadedModel] = (),
    out: str | Path = "comparison",
    *,
    family: Mapping[str, Sequence[str]] | None = None,
    group_by: str | None = None,
    forces_key: str | None = None,
    reading: ReadingOptions | None = None,
    report: str | Path | None = None,
    overwrite: bool = False,
    architecture: str | None = None,
    trust: bool = False,
    compile: bool = False,
    executor: Executor | None = None,
    workers: int = 1,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    threads: int = 1,
    progress: bool = False,
    command: str | None = None,
) -> Comparison:
    """Compare models on the same structures: their U, how well it ranks their errors, and what else does.

    Each model audits each file into ``out/MODEL/FILE.h5``, with all frames; a finished audit is used
    again. Then all audits of these files in ``out`` are joined, also those of models that were audited
    there before: models whose libraries exclude each other are evaluated by calls in environments of
    their own. The errors are those of the direct forces against the forces in the files,
    ``eps = sqrt(1/(3N) sum_i |F_nc,i - F_ref,i|^2)`` in eV/Å.

    >>> found = compare("labelled.xyz", ["acac", "acac-direct"], "comparison")
    >>> found.models[0].name, found.models[0].ranking["force_delta"]["spearman"].value
    ('acac', 0.98)

    Args:
        files: structures that ASE reads, with or without forces of a reference, or recorded files.
            Frames with the fields ``path`` and ``move`` are those of attacks.
        models: names, paths of files, or models in memory to evaluate; none: only join.
        out: folder, made if missing.
        family: names of the models of each family; None: the models of one library are a family.
        group_by: field of the frames that names the system of each; None: each file is a system.
        forces_key: array of the reference's forces, eV/Å, if not in ASE's results.
        reading: how the files are read.
        report: HTML file to write, with its figures beside it as PNG.
        overwrite: replace the audits of ``models``, and ``report``.
        architecture, trust, compile: see `forcedelta.load_model`.
        executor, workers, device, dtype, threads, progress, command: see `forcedelta.audit`.

    Raises:
        ForceDeltaError: invalid input, or no model has predictions.
        KeyboardInterrupt: interrupted by Ctrl-C or SIGTERM; the same call continues.
    """
    paths = [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files]
    chosen = (
        list(models) if isinstance(models, Iterable) and not isinstance(models, str) else [models]
    )
    folder = Path(out)
    check_names(paths)
    _check_models(chosen)
    check_families(family or {})
    _check_outputs(paths, chosen, folder, report, overwrite)
    reading = reading or ReadingOptions()
    read = [read_structures(path, group_by, forces_key, reading) for path in paths]
    problems = []
    auditing = Auditing(
        folder, overwrite, architecture, trust, compile, executor, workers, device, dtype, threads,
        progress, command, reading,
    )  # fmt: skip
    if chosen:
        _make(folder)
    computed = set()
    for model in chosen:
        name, failed = auditing.run(model, read)
        problems += failed
        if not failed:
            computed.add(name)
    if not folder.is_dir():
        raise ForceDeltaError(f"{folder} is not a folder with predictions: give --model")
    try:
        table = join(folder, read)
    except ForceDeltaError as error:
        raise ForceDeltaError("; ".join([*problems, str(error)])) from error
    found = summarise(table, read, family, str(out), computed, problems)
    replace_file(folder / TABLE, as_csv(found.rows), "give another --out", ForceDeltaError)
    if report is not None:
        from forcedelta.comparison.page import write_page  # Matplotlib takes a second to import

        write_page(found, Path(report))
    return found


def _check_models(models: Sequence[str | Path | LoadedModel]) -> None:
    """Refuse models whose audits would be in one folder."""
    seen: dict[str, object] = {}
    for model in models:
        name = model_folder(model)
        if name in seen:
            raise ForceDeltaError(
                f"the audits of {seen[name]} and {model} would both be in the folder {name}: rename a file, or "
                "give a model once"
            )
        seen[name] = model


def _check_outputs(
    paths: Sequence[Path],
    models: Sequence[str | Path | LoadedModel],
    folder: Path,
    report: str | Path | None,
    overwrite: bool,
) -> None:
    outputs = [Named("the table", folder / TABLE)]
    if report is not None:
        from forcedelta.comparison.page import check_page

        pictures = check_page(Path(report), overwrite)
        outputs += [
            Named("--report", report),
            *(Named("the report's picture", one) for one in pictures),
        ]
    inputs = [Named("structure file", path) for path in paths]
    inputs += [Named("model", model) for model in models if isinstance(model, str | Path)]
    check_outputs(outputs, inputs)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ForceDeltaError(
            f"{folder} cannot be made a folder ({error.strerror}): give another --out"
        ) from error


def summarise(
    table: Table,
    files: Sequence[StructureFile],
    family: Mapping[str, Sequence[str]] | None,
    out: str,
    computed: Iterable[str] = (),
    problems: Sequence[str] = (),
) -> Comparison:
    """All scores of a table of predictions; see `compare`."""
    families, missing = families_of(table.models, family)
    shared, left_out = common(table)
    calm = shared.subset(settled(shared.structures))
    scores = model_scores(table, shared, calm, families)
    systems, systems_ranking = system_scores(calm)
    labelled = int(shared.labelled.sum())
    notes = [note for file in files for note in file.notes]
    notes += [*table.notes, *left_out, *missing, *_levels(table), *_copies(table)]
    notes += filter(None, [without_forces(shared)])
    if 0 < labelled < FEWEST:
        notes.append(f"{labelled} labelled structures: rank correlations need at least {FEWEST}")
    here = set(computed)
    return Comparison(
        out=out,
        files=[str(file.path) for file in files],
        structures=len(table.structures),
        common=len(shared.structures),
        labelled=labelled,
        settled=len(calm.structures),
        models=scores,
        families=family_scores(calm, families, scores),
        systems=systems,
        systems_ranking=systems_ranking,
        attack=attack(shared),
        computed=[score.name for score in scores if score.name in here],
        found=[score.name for score in scores if score.name not in here],
        notes=notes,
        problems=[*problems, *table.problems],
        rows=rows_of(table, shared, families),
    )


def _levels(table: Table) -> list[str]:
    """Notes on levels of theory that differ among labels, or between models and labels."""
    named = dict.fromkeys(one.reference for one in table.structures if one.reference is not None)
    references = list(named)
    notes = []
    for other in references[1:]:
        parts = difference(references[0], other)
        if parts is not None:
            notes.append(
                f"labels of different levels of theory are mixed ({parts}): {references[0]} | {other}; their "
                "errors are not comparable"
            )
            break
    trained: dict[str, list[str]] = {}
    for model in table.models:
        if model.level_of_theory:
            trained.setdefault(model.level_of_theory, []).append(model.name)
    for level, names in trained.items():
        for reference in references:
            parts = difference(level, reference)
            if parts is not None:
                notes.append(
                    f"{', '.join(names)}: trained on another level of theory than that of the labels ({parts}): "
                    f"{level} | {reference}; the errors contain the difference"
                )
                break
    return notes


def _copies(table: Table) -> list[str]:
    """Notes on models that are the same weights under two names: no members of an ensemble."""
    first: dict[str, str] = {}
    notes = []
    for model in table.models:
        other = first.setdefault(model.weights_hash, model.name)
        if other != model.name:
            notes.append(f"{other} and {model.name} are the same weights ({model.weights_hash})")
    return notes
