"""Adversarial attacks on a model, recorded like a run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from ase import Atoms

from md_hooks import Trajectory, load_checkpoint

from ..errors import ForceDeltaError
from ..models import LoadedModel
from ..outputs import Named, check_outputs, refuse_existing
from ..restarts import check_stored_model
from ..structures import checked_structure, read_structures
from .picks import picks_file
from .result import AttackResult
from .search import Search
from .settings import AttackSettings, continued, torsions_of


def attack(
    structures: str | Path | Atoms | Iterable[str | Path | Atoms] = (),
    model: str | Path | LoadedModel | None = None,
    out: str | Path = "attack.h5",
    *,
    starts: int = 8,
    steps: int = 50,
    optimizer: Literal["plain", "adam"] = "adam",
    alpha: float = 1.0,
    beta: float = 0.01,
    rate: float = 0.01,
    cap: float = 0.05,
    displacement: float = 0.02,
    strain: bool = False,
    torsions: Sequence[str] = (),
    ceiling: float | None = None,
    temperature: float = 1000.0,
    closest: float = 0.7,
    dissociation: bool = False,
    seed: int = 0,
    picks: int = 16,
    architecture: str | None = None,
    trust: bool = False,
    charge: int | None = None,
    spin: int | None = None,
    type_map: str | None = None,
    no_pbc: bool = False,
    file_format: str | None = None,
    select: str | None = None,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    threads: int = 1,
    mode: Literal["create", "restart", "overwrite"] = "create",
    progress: bool = False,
    given: Collection[str] | None = None,
    command: str | None = None,
) -> AttackResult:
    """Search for structures of low energy with a large Force Delta.

    From randomly displaced copies of each structure, paths follow

    ``r <- r + alpha grad U - beta grad E``                                      (eq. 3)

    Every accepted structure is a frame of ``out``, an H5MD file like that of a run, whose series
    "path" and "move" tell where it belongs; move 0 is a displaced start. Why a path ended is a
    remark (`md_hooks.Trajectory.remarks`). The picks are written beside it, as extended XYZ.

    >>> found = attack("molecule.xyz", "acac", "attack.h5", starts=2, steps=5, picks=2)
    >>> len(found.paths)
    2

    Args:
        structures: files that ASE reads (``file@0:10`` names several structures of one), or
            structures. Optional with ``mode="restart"`` if all were files.
        model: a name, the path of a file, or a model in memory.
        out: file to write.
        starts, steps, optimizer, alpha, beta, rate, cap, displacement, strain: see `AttackSettings`.
        ceiling, temperature, closest, dissociation, seed, picks: see `AttackSettings`.
        architecture, trust, charge, spin, device, dtype, threads: see `AttackSettings`.
        type_map, no_pbc, file_format, select: see `AttackSettings`.
        torsions: four atoms each, counted from 0, such as "0-1-2-3", or "all".
        mode: "create" refuses a file that exists, "restart" continues it, "overwrite" replaces it.
        progress: show progress on stderr.
        given: names of the arguments that a restart compares with the attack in ``out``; None: all.
        command: the command line for the record.

    Returns:
        the outcome of each path.

    Raises:
        ForceDeltaError, HookError: invalid input.
    """
    loaded = model if isinstance(model, LoadedModel) else None
    name = loaded.name if loaded is not None else None if model is None else str(model)
    sources = [structures] if isinstance(structures, str | Path | Atoms) else list(structures)
    files = [str(source) for source in sources if not isinstance(source, Atoms)]
    check_outputs(
        [Named("--out", out), Named("the picks", picks_file(out))],
        [Named("model", name), *(Named("structure", file.rpartition("@")[0] or file) for file in files),
         *(Named("structure", file) for file in files)],
    )  # fmt: skip
    settings = AttackSettings(
        "" if name is None else name, str(out), starts, steps, optimizer, alpha, beta, rate, cap,
        displacement, strain, torsions_of(torsions), ceiling, temperature, closest, dissociation,
        seed, picks, architecture, trust, charge, spin, device, dtype, threads, type_map, no_pbc,
        file_format, select,
    )  # fmt: skip
    checkpoint, stored = None, {}
    _check_out(Path(out), mode, picks)
    if mode == "restart" and Path(out).exists():
        stored = Trajectory(out).metadata.get("settings", {})
        settings = continued(settings, None if given is None else {*given}, stored)
        if name is None:
            name = str(stored.get("model"))
            check_stored_model(name, settings.architecture, str(out))
            settings = replace(settings, model=name)
        checkpoint = load_checkpoint(out)
        sources = sources or [str(entry["file"]) for entry in stored["structures"]]
    if name is None:
        raise ForceDeltaError("no model: pass --model with a name of 'forcedelta models' or a path")
    settings.check()
    named = _named(sources, settings.reading)
    record = shlex.join(sys.argv) if command is None else command
    torch.set_num_threads(settings.threads)
    return Search(settings, named, loaded, checkpoint, stored, record).run(progress)


def _check_out(out: Path, mode: str, picks: int) -> None:
    """Check both files before anything is computed; a restart replaces its own picks."""
    if mode == "create" and out.exists():
        raise ForceDeltaError(
            f"{out} exists: pass --restart to continue it, --overwrite to replace it, or give another "
            "--out"
        )
    refuse_existing("--out", out, overwrite=True)
    if picks:
        refuse_existing("--out", picks_file(out), overwrite=mode != "create")


def _named(
    sources: Sequence[str | Path | Atoms], reading: dict[str, Any]
) -> list[tuple[str, Atoms]]:
    """All structures with their names."""
    found = []
    for source in sources:
        if isinstance(source, Atoms):
            found.append((str(source.symbols), checked_structure(source)))
            continue
        several = read_structures(str(source), **reading)
        found += [
            (str(source) if len(several) == 1 else f"{source}, structure {k}", atoms)
            for k, atoms in enumerate(several)
        ]
    if not found:
        raise ForceDeltaError(
            "no structure: give one or more files that ASE reads, e.g. molecule.xyz"
        )
    return found
