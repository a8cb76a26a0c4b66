"""Adding a monitored force to an OpenMM System."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import openmm
import torch
from ase import Atoms
from numpy.typing import NDArray

from md_hooks.electronic_state import ElectronicState

from ..checks import check_supported
from ..errors import ForceDeltaError
from ..evaluation import DTYPES, model_info, usable_device
from ..graph import charge_and_spin
from ..integrators import check_inner
from ..models import LoadedModel, load_model
from ..monitoring import ADAPTIVE, Every, check_every
from . import checks, mts
from .evaluator import RememberingEvaluator
from .monitor import Forces, Monitor, PythonMonitor


def add_force_delta(
    system: openmm.System,
    model: Any,
    topology_or_numbers: Any,
    atoms: Iterable[int] | None = None,
    *,
    forces: Forces = "direct",
    every: Every = 1,
    inner: int = 1,
    path: Literal["python", "torchscript"] = "python",
    periodic: bool | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    charge: int | None = None,
    spin: int | None = None,
    environment: bool = False,
    force_group: int = 0,
    architecture: str | None = None,
    trust: bool = False,
) -> Monitor:
    """Add a model's energy and forces to a System, monitored by the Force Delta.

    The integrator sees the energy of the model and its ``forces``; other forces of the System are
    unchanged. With ``atoms`` the model sees these particles only, as an isolated system (mechanical
    embedding is left to the other forces).

    >>> system = openmm.System()
    >>> for mass in (16.0, 1.0, 1.0):
    ...     _ = system.addParticle(mass)
    >>> monitor = add_force_delta(system, "acac", [8, 1, 1])
    >>> monitor.forces, system.getNumForces()
    ('direct', 1)

    Args:
        system: not yet used in a Context or Simulation.
        model: registered name, path of a file of weights, or a model in memory; for
            ``path="torchscript"`` a file written by ``forcedelta export``.
        topology_or_numbers: an `openmm.app.Topology`, or an atomic number for each particle.
        atoms: indices of the particles that the model sees; all of them if None.
        forces: "direct" or "conservative", those that drive the run; or "mts", multiple time steps:
            a fast force with the energy and the direct forces, and in the next force group a slow one
            with the difference of the conservative and the direct forces. They need an
            `openmm.mtsintegrator.MTSIntegrator` or ``MTSLangevinIntegrator`` of step ``inner * dt`` with
            ``groups=[(force_group + 1, 1), (force_group, inner)]``, which then conserves the energy
            and gives U at every step for one backward pass. Other forces of the System belong in
            the fast group, which is theirs by default.
        every: steps between two exact evaluations of U, above 1 only with direct forces; the steps
            between them need no backward pass, nor the energy of a model whose energy takes a forward
            pass of its own (``forcedelta tune --reach energy``); whoever asks for it gets it.
            "adaptive": in `forcedelta.openmm.run`, the work along the path decides
            (`forcedelta.sentinel.Sentinel`).
        inner: with "mts", inner steps in a step of the integrator, at least 2.
        path: "python" evaluates the model through `openmm.PythonForce`; "torchscript" runs an
            exported module in C++ through ``openmmtorch.TorchForce``, which has the device of
            OpenMM's platform and the dtype of the export.
        periodic: whether the model sees periodic images; None: as the topology does, or without one
            as the other forces of the System do.
        device: of the model.
        dtype: of the model's arithmetic, "float32" or "float64".
        charge: total charge of the atoms that the model sees, e, for models that take one and for
            reference calculations of the frames.
        spin: their spin multiplicity 2S + 1, likewise.
        environment: the frames of a run also hold the particles that the model does not see, with their
            charges in the System's NonbondedForce (`md_hooks.Environment`), for reference calculations
            in their field.
        force_group: OpenMM's group of the force; with ``path="torchscript"`` 0 selects the last
            group without other forces.
        architecture, trust: see `forcedelta.load_model`; code in an exported module that does more
            than compute also needs ``trust``.

    The platforms Reference and CPU are tested. On the others, including CUDA, the code differs in
    one place: each evaluation goes through the engine, which may shift positions by box vectors.
    This is tested on Reference only.

    ``path="torchscript"`` does not support: models that TorchScript refuses; another ``device`` or
    ``dtype`` than that of the platform and the export; errors of the model with their own type
    (OpenMM raises its OpenMMException with the text); a System that can be read back from XML
    (openmmtorch 1.5 ends the process); many thousands of atoms (a neighbour list is built by
    comparing all pairs of atoms).

    Returns:
        the handle of the force, which `forcedelta.openmm.run` finds in the System.

    Raises:
        ForceDeltaError: a topology of another size, virtual sites or particles without an element
            among ``atoms``, unsupported elements, a missing box, no particles for an environment, or an
            invalid setting.
    """
    if forces not in ("direct", "conservative", "mts"):
        raise ForceDeltaError(f"forces is {forces!r}: pass 'direct', 'conservative' or 'mts'")
    if path not in ("python", "torchscript"):
        raise ForceDeltaError(f"path is {path!r}: pass 'python' or 'torchscript'")
    every = check_every(every, forces)
    check_inner(forces, inner, every)
    if forces == "mts":
        mts.check_settings(path, force_group, system.getNumParticles())
    if dtype not in DTYPES:
        raise ForceDeltaError(f"dtype must be 'float32' or 'float64', not {dtype!r}")
    numbers, topology_says = checks.atomic_numbers(system, topology_or_numbers)
    particles = len(numbers)
    indices = checks.atom_indices(particles, atoms)
    system_numbers = checks.surrounded(numbers, indices) if environment else None
    numbers = numbers[indices]
    checks.check_particles(system, indices, numbers)
    images = checks.is_periodic(system, topology_says, periodic)
    part = len(indices) < particles
    if path == "torchscript":
        from .torch_monitor import TorchMonitor

        if every == ADAPTIVE:
            raise ForceDeltaError(
                "every='adaptive' does not work with an exported model: use path='python', or a number"
            )
        exported = TorchMonitor(model, indices, numbers, images, forces, every, part, trust)
        _same_state(exported.electronic_state, charge, spin)
        exported.system_numbers = system_numbers
        exported.add_to(system, force_group)
        return exported
    arguments = (numbers, images, forces, dtype, device, charge, spin, part, architecture, trust)
    evaluator = make_evaluator(model, *arguments)
    reference = None if isinstance(model, LoadedModel | torch.nn.Module) else str(model)
    rebuild = None if reference is None else (make_evaluator, (reference, *arguments))
    info = model_info(
        evaluator.model, {"openmm": openmm.Platform.getOpenMMVersion()},
        forces=forces, every=every, inner=int(inner), device=device, dtype=dtype,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "atoms": indices, "numbers": numbers, "periodic": images, "forces": forces,
        "every": every, "model_info": info,
    }  # fmt: skip
    monitor = (
        mts.MTSMonitor(evaluator, rebuild, inner=int(inner), **settings)
        if forces == "mts"
        else PythonMonitor(evaluator, rebuild, **settings)
    )
    monitor.electronic_state = ElectronicState(charge, spin)
    monitor.system_numbers = system_numbers
    monitor.add_to(system, force_group)
    return monitor


def _same_state(exported: ElectronicState, charge: int | None, spin: int | None) -> None:
    for name, given, known in (("charge", charge, exported.charge), ("spin", spin, exported.spin)):
        if given is not None and known is not None and given != known:
            raise ForceDeltaError(
                f"the model was exported for {name} {known}, not {given}: export it again with "
                f"--{name} {given}"
            )


def make_evaluator(
    model: Any,
    numbers: NDArray[np.int64],
    periodic: bool,
    forces: Forces,
    dtype: str,
    device: str,
    charge: int | None = None,
    spin: int | None = None,
    part: bool = True,
    architecture: str | None = None,
    trust: bool = False,
) -> RememberingEvaluator:
    """Load a model for the atoms that it sees.

    To the model, part of a System is a molecule even in a periodic box, whose images only make the
    molecule whole.
    """
    loaded = load_model(
        model, DTYPES[dtype], usable_device(device), architecture=architecture, trust=trust
    )
    molecule = part and loaded.periodic is False
    check_supported(numbers, np.full(3, periodic and not molecule), loaded)
    given = {"charge": charge, "spin": spin}
    info = {name: value for name, value in given.items() if value is not None}
    state = charge_and_spin(Atoms(numbers, info=info), loaded)
    return RememberingEvaluator(
        loaded, numbers, periodic, forces, DTYPES[dtype], usable_device(device), state
    )
