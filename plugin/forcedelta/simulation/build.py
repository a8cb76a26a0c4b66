"""Second stage of a guarded run: set up structure, model and MD engine."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase import Atoms

from md_hooks import Trajectory
from md_hooks.atoms import bare_atoms
from md_hooks.text import one_line

from ..ase import ForceDeltaCalculator
from ..calibration.error_guard import check_prediction
from ..checks import check_structure, check_takes_charge
from ..ensembles import EnsembleSettings, prepare
from ..errors import ForceDeltaError
from ..evaluation import DTYPES, usable_device
from ..graph import charge_and_spin
from ..installing import command
from ..models import LoadedModel, load_model
from ..structures import checked_structure, continued_structure, read_structure
from .anew import new_run
from .ase_engine import ASEEngine
from .resolve import RunPlan
from .settings import RunSettings

if TYPE_CHECKING:
    from ..openmm.engine import OpenMMEngine

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A run ready to start.

    Attributes:
        settings: settings of the run, with the charge and spin that the model receives.
        atoms: the structure.
        constraints: constraints of the structure, without those that the run adds.
        engine: MD engine with the model.
        velocities: phrase that names the origin of the velocities.
    """

    settings: RunSettings
    atoms: Atoms
    constraints: list[Any]
    engine: ASEEngine | OpenMMEngine
    velocities: str


def build(plan: RunPlan, structure: str | Path | Atoms | None, model: LoadedModel | None) -> Built:
    """Read the structure, load the model once, and set up the engine.

    Args:
        plan: resolved settings.
        structure: a file or a structure in memory; None: the structure of the continued run.
        model: a model in memory; None: the model named in the settings.

    Raises:
        ForceDeltaError, HookError: invalid input; nothing has been written.
    """
    settings, checkpoint = plan.settings, plan.checkpoint
    began_as = None
    if checkpoint is None:
        if isinstance(structure, Atoms):
            atoms = checked_structure(structure)
        else:
            path = None if structure is None else str(structure)
            atoms = read_structure(path, **settings.reading)
    else:
        recorded = settings.out
        given = structure if isinstance(structure, Atoms) else settings.structure
        atoms = continued_structure(given, recorded, **settings.reading)
        began_as = bare_atoms(Trajectory(recorded).frame(0))
    constraints = list(atoms.constraints)
    loaded = _load(settings, model)
    if checkpoint is not None:
        _check_model(plan, loaded)
    for calibration in plan.calibrations.values():
        calibration.check_use(loaded.name, loaded.weights_hash, settings.on, settings.forces)
    check_prediction(settings, loaded.name, loaded.weights_hash, settings.forces)
    settings = _with_charge_and_spin(settings, atoms, loaded)
    if checkpoint is None:
        check_structure(atoms, loaded)
    velocities = prepare(atoms, plan.ensemble, began_as)
    if checkpoint is not None:
        velocities = f"continued from step {checkpoint.step}"
    engine = _engine(settings, plan.ensemble, atoms, loaded)
    return Built(settings, atoms, constraints, engine, velocities)


def _check_model(plan: RunPlan, loaded: LoadedModel) -> None:
    """Refuse to continue a run with another model."""
    begun = Trajectory(plan.settings.out)
    recorded = begun.metadata.get("model", {})
    for key, now in (("name", loaded.name), ("weights_hash", loaded.weights_hash)):
        known = recorded.get(key)
        if known is not None and known != now:
            raise ForceDeltaError(
                f"{begun.path} was recorded with another model ({key} {one_line(known)}, now {now}): omit "
                f"--model to continue that run, or {new_run(plan.settings, ['model'], begun)}"
            )


def _load(settings: RunSettings, model: LoadedModel | None) -> LoadedModel:
    source = settings.model if model is None else model
    assert source is not None
    torch.set_num_threads(settings.threads)
    return load_model(
        source,
        DTYPES[settings.dtype],
        usable_device(settings.device),
        architecture=settings.architecture,
        trust=settings.trust,
        compile=settings.compile,
    )


def _with_charge_and_spin(settings: RunSettings, atoms: Atoms, model: LoadedModel) -> RunSettings:
    """Take charge and spin from the settings, or else from the structure, and set them in both."""
    if not model.takes_charge_spin:
        check_takes_charge(model, settings.charge, settings.spin)
        return settings
    given = {"charge": settings.charge, "spin": settings.spin}
    for name, value in given.items():
        stored = atoms.info.get(name)
        if None not in (value, stored) and value != stored:
            _log.warning("--%s %s replaces the %s %s of the structure", name, value, name, stored)
    atoms.info.update({name: value for name, value in given.items() if value is not None})
    charge_spin = charge_and_spin(atoms, model)
    assert charge_spin is not None
    charge, spin = (int(value) for value in charge_spin)
    return replace(settings, charge=charge, spin=spin)


def _engine(
    settings: RunSettings, ensemble: EnsembleSettings, atoms: Atoms, model: LoadedModel
) -> ASEEngine | OpenMMEngine:
    if settings.engine == "ase":
        calculator = ForceDeltaCalculator(
            model,
            forces=settings.forces,  # type: ignore[arg-type]
            every=settings.every,  # type: ignore[arg-type]
            inner=settings.inner,
            device=settings.device,
            dtype=settings.dtype,  # type: ignore[arg-type]
        )
        return ASEEngine(atoms, ensemble, calculator)
    try:
        from ..openmm.engine import OpenMMEngine
    except ModuleNotFoundError as error:
        raise ForceDeltaError(
            f"--engine openmm needs the package {error.name}: {command('openmm')}"
        ) from error
    return OpenMMEngine(
        atoms,
        ensemble,
        model,
        forces=settings.forces,  # type: ignore[arg-type]
        every=settings.every,  # type: ignore[arg-type]
        inner=settings.inner,
        device=settings.device,
        dtype=settings.dtype,
        charge=settings.charge,
        spin=settings.spin,
    )
