"""A model exported to TorchScript, behind an `openmmtorch.TorchForce`."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from numpy.typing import NDArray

from md_hooks.electronic_state import ElectronicState

from ..checks import check_supported
from ..errors import ForceDeltaError
from ..evaluation import Evaluation, model_info
from ..installing import command
from ..models import LoadedModel
from ..models.metadata import check_cutoff, check_numbers, check_periodic, parse_json
from ..models.scripted_code import load_script, reason, records
from ..monitoring import Every
from .evaluator import Measurement
from .export import AHEAD, DESCRIPTION, FULL, OTHER, PLAIN
from .monitor import Forces, Monitor
from .units import EV, EV_PER_ANGSTROM

_REQUEST = "forcedelta_request"
_GROUPS = 32
_REQUIRED = ("name", "weights_hash", "library", "elements", "cutoff", "periodic", "dtype", "torch")


class TorchMonitor(Monitor):
    """An exported model, evaluated in C++ and read through the context.

    Args:
        path: a file of `forcedelta.openmm.export.export`.
        trust: whether its code may do more than compute.

    Raises:
        ForceDeltaError: openmmtorch cannot be imported, the file is not an exported model, its code
            is refused, or the model does not support the atoms.
    """

    def __init__(
        self,
        path: str | Path,
        atoms: NDArray[np.int64],
        numbers: NDArray[np.int64],
        periodic: bool,
        forces: Forces,
        every: Every,
        part: bool,
        trust: bool = False,
    ) -> None:
        torch_force = _torch_force()
        module, description = load_exported(path, trust)
        model = _described(description)
        molecule = part and model.periodic is False
        check_supported(numbers, np.full(3, periodic and not molecule), model)
        versions = {
            "exported with torch": description["torch"],
            "openmm": openmm.Platform.getOpenMMVersion(),
        }
        info = model_info(
            model,
            versions,
            forces=forces,
            every=every,
            device="openmm's",
            dtype=description["dtype"],
        )
        super().__init__(atoms, numbers, periodic, forces, every, info)
        self.electronic_state = ElectronicState(description.get("charge"), description.get("spin"))
        module.bind(
            torch.as_tensor(atoms.astype(np.int64)),
            torch.as_tensor(numbers.astype(np.int64)),
            forces == "conservative",
        )
        self._make = lambda: torch_force(module)
        self._context: openmm.Context | None = None

    def add_to(self, system: openmm.System, group: int = 0) -> None:
        """Add the force to a System; group 0 selects the last force group without other forces."""
        force = self._make()
        force.setUsesPeriodicBoundaryConditions(self.periodic)
        force.setOutputsForces(True)
        force.addGlobalParameter(_REQUEST, PLAIN)
        taken = {other.getForceGroup() for other in system.getForces()}
        if group == 0:  # a separate group, to read its energy and forces alone
            group = next(g for g in range(_GROUPS - 1, -1, -1) if g not in taken)
        force.setForceGroup(group)
        self._group = group
        self._register(system, force)
        # the C++ force does not hold this object; a run finds it through the System
        system._force_delta = self

    @property
    def evaluations(self) -> int:
        """Passes of the model so far, in the last context that was measured."""
        if self._context is None:
            return 0
        before = self._context.getParameter(_REQUEST)
        self._context.setParameter(_REQUEST, OTHER)
        state = self._context.getState(energy=True, groups={self._group})
        self._context.setParameter(_REQUEST, before)
        return round(state.getPotentialEnergy()._value)

    def watch(self, context: openmm.Context, running: bool) -> None:
        """See `Monitor.watch`."""
        self._context = context
        context.setParameter(_REQUEST, AHEAD if running else PLAIN)

    def take_error(self) -> BaseException | None:
        """See `Monitor.take_error`."""
        return None  # TorchForce keeps nothing of an error but OpenMM's exception

    def measure(
        self, context: openmm.Context, full: bool = True, energy: bool = True
    ) -> Measurement:
        """See `Monitor.measure`; an exported model gives the energy in any case."""
        self._context = context
        full = full or self.forces == "conservative"
        context.setParameter(_REQUEST, FULL if full else PLAIN)
        groups = {self._group}
        state = context.getState(positions=True, energy=True, forces=True, groups=groups)
        energy = state.getPotentialEnergy()._value / EV
        direct = driving = self._forces(state)
        conservative = deltas = u = None
        if full:
            context.setParameter(_REQUEST, OTHER)
            other = self._forces(context.getState(forces=True, groups=groups))
            pair = (other, driving) if self.forces == "conservative" else (driving, other)
            direct, conservative = pair
            deltas = np.sqrt(((direct - conservative) ** 2).sum(axis=1) / 3)
            u = float(np.sqrt(np.mean(deltas**2)))
        # the next evaluation belongs to the next frame, or to a trial of a barostat
        due = self.due(context.getStepCount() + 1 + self.offset)
        context.setParameter(_REQUEST, AHEAD if due else PLAIN)
        positions = state.getPositions(asNumpy=True)._value[self.atoms]
        box = state.getPeriodicBoxVectors(asNumpy=True)._value if self.periodic else None
        found = Evaluation(energy, direct, conservative, deltas, u)
        return Measurement.of(found, self.forces, positions, box)

    def _forces(self, state: openmm.State) -> NDArray[np.float64]:
        forces: NDArray[np.float64] = state.getForces(asNumpy=True)._value[self.atoms]
        return forces / EV_PER_ANGSTROM


def _torch_force() -> Any:
    try:
        from openmmtorch import TorchForce
    except (ImportError, OSError) as error:
        raise ForceDeltaError(
            f"path='torchscript' needs openmmtorch and the version of torch that it was built for "
            f"({error}): in a separate environment, {command('torchforce')}; or use path='python'"
        ) from error
    _load_plugins_again()
    return TorchForce


def _load_plugins_again() -> None:
    """Load TorchForce's plug-ins that OpenMM could not load during its import.

    OpenMM loads all plug-ins during its import. Those of TorchForce need the libraries of torch,
    which are missing if OpenMM is imported before torch. Remaining failures, such as the plug-in
    of a GPU that this machine lacks, are reported by OpenMM when their platform is requested.
    """
    for failure in openmm.Platform.getPluginLoadFailures():
        found = re.search(r"(/.*OpenMMTorch\w*\.\w+):", failure)
        if found and found[1] not in _loaded_again:
            with contextlib.suppress(openmm.OpenMMException):
                openmm.Platform.loadPluginLibrary(found[1])
                _loaded_again.add(found[1])  # OpenMM does not clear its list of failures


_loaded_again: set[str] = set()


def load_exported(path: str | Path, trust: bool = False) -> tuple[Any, dict[str, Any]]:
    """The module and the description in a file of `forcedelta export`.

    Raises:
        ForceDeltaError: another kind of file, a damaged one, or code that does more than compute,
            without ``trust``.
    """
    if not isinstance(path, str | Path) or not Path(path).is_file():
        raise ForceDeltaError(
            f"path='torchscript' needs a file written by 'forcedelta export', not {path!r}: export "
            "the model first"
        )
    advice = f"write it with 'forcedelta export MODEL --out {path}'"
    try:
        _, names = records(Path(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise ForceDeltaError(
            f"{path} is not an exported model ({reason(error)}): {advice}"
        ) from error
    if f"extra/{DESCRIPTION}" not in names:
        raise ForceDeltaError(f"{path} is not an exported model: {advice}")
    extra: dict[str, Any] = {DESCRIPTION: ""}
    module = load_script(Path(path), torch.device("cpu"), trust, extra)
    where = f"{path}: {DESCRIPTION}"
    description = parse_json(extra[DESCRIPTION], f"{where} in it")
    missing = [
        name for name in _REQUIRED if not isinstance(description, dict) or name not in description
    ]
    if missing or not all(module._c._has_method(name) for name in ("bind", "forward")):
        lacks = ", ".join(missing) or "its methods"
        raise ForceDeltaError(f"{path} is not an exported model (it lacks {lacks}): {advice}")
    check_cutoff(description["cutoff"], where)
    check_periodic(description["periodic"], where)
    if description["elements"] is not None:
        check_numbers(description["elements"], where)
    return module, description


def _described(description: dict[str, Any]) -> LoadedModel:
    """The model in an exported file, as described; its module stays with OpenMM."""
    elements = description["elements"]
    return LoadedModel(
        module=torch.nn.Module(),
        name=description["name"],
        weights_hash=description["weights_hash"],
        elements=None if elements is None else frozenset(elements),
        cutoff=description["cutoff"],
        periodic=description["periodic"],
        library=description["library"],
        metadata={"level_of_theory": description.get("level_of_theory")},
    )
