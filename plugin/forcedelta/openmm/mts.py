"""Multiple time steps: two forces of one model for OpenMM's MTS integrators."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray

from ..errors import ForceDeltaError
from .evaluator import RememberingEvaluator
from .monitor import SLOW_NAME, PythonMonitor

_LAST_GROUP = 31


class MTSMonitor(PythonMonitor):
    """A model behind two forces of a System, for reversible r-RESPA.

    The fast force has the energy E and the direct forces F_nc, the slow one the energy 0 and the
    forces F_c - F_nc, so that a context has the energy E and the forces F_c. An MTS integrator
    applies the slow force as an impulse at both ends of a step and the fast one in its ``inner`` inner steps
    (Tuckerman, Berne and Martyna, J. Chem. Phys. 97, 1990 (1992)).

    The integrator requests the fast force of a configuration before the slow one. The evaluation that
    ends a step is the ``inner``-th since the last slow force; it is made with U, and the slow force
    takes it from memory. A miscount, after which the slow force makes an evaluation of its own,
    would cost time and change no force.

    Args:
        evaluator, rebuild, atoms, numbers, periodic, every, model_info, token: see `PythonMonitor`.
        forces: "mts".
        inner: inner steps, at least 2.
    """

    _SETTINGS = (*PythonMonitor._SETTINGS, "inner")

    def __init__(
        self,
        evaluator: RememberingEvaluator,
        rebuild: tuple[Callable[..., RememberingEvaluator], tuple[Any, ...]] | None,
        *,
        inner: int,
        **settings: Any,
    ) -> None:
        super().__init__(evaluator, rebuild, **settings)
        self.inner = inner
        self._since_slow = inner  # the first configuration begins a step
        # of the last two volumes with a slow force: a barostat may return to the one before
        self._slow_boxes: list[NDArray[np.floating]] = []

    def add_to(self, system: openmm.System, group: int = 0) -> None:
        """Add the fast force to a System in a force group, and the slow one in the next group."""
        super().add_to(system, group)
        slow = self._python_force(system, _SlowForce(self), group + 1)
        slow.setName(SLOW_NAME + self.token)
        system.addForce(slow)

    def slow(self, state: openmm.State) -> tuple[float, NDArray[np.floating]]:
        """The slow force at a state, for OpenMM: 0 kJ/mol and F_c - F_nc, [n, 3] kJ/(mol nm)."""
        latest, _ = self._evaluate(state, energy=True, exact=True)
        if latest is None:
            return 0.0, np.zeros((len(self.atoms), 3))
        self._since_slow = 0
        if latest.box is not None and not any(
            np.array_equal(latest.box, box) for box in self._slow_boxes[:1]
        ):
            self._slow_boxes = [latest.box, *self._slow_boxes[:1]]
        return 0.0, latest.openmm_slow_forces

    def _with_u(self, box: NDArray[np.floating] | None, frame: int, other_volume: bool) -> bool:
        """Whether a new configuration ends a step, or is a barostat's, which begins one."""
        self._since_slow += 1
        if self._since_slow >= self.inner:
            return True
        return box is not None and not any(np.array_equal(box, b) for b in self._slow_boxes)

    def _with_energy(self, caller: FrameType | None) -> bool:
        """Whether OpenMM may use the energy: not at an inner step, the others are made with U.

        Args:
            caller: see `PythonMonitor`.
        """
        return not self._forces_alone

    def check_integrator(self, system: openmm.System, integrator: openmm.Integrator) -> None:
        """Refuse an integrator that does not apply the slow force once and the fast one inside.

        Raises:
            ForceDeltaError: an integrator without multiple time steps, or with others.
        """
        names = {force.getName(): force.getForceGroup() for force in system.getForces()}
        fast, slow = names[self.force_name], names[SLOW_NAME + self.token]
        # read back from XML, both are CustomIntegrators
        if isinstance(integrator, openmm.CustomIntegrator):
            steps = range(integrator.getNumComputations())
            text = " ".join(integrator.getComputationStep(step)[2] for step in steps)
            # half a kick at the begin and half a kick at the end of each interval
            uses = [len(re.findall(rf"\bf{group}\b", text)) for group in (slow, fast)]
            if uses == [2, 2 * self.inner]:
                return
            found = f"{type(integrator).__name__} with other groups"
        else:
            found = type(integrator).__name__
        raise ForceDeltaError(
            f"forces='mts' with inner={self.inner} does not work with {found}: use MTSIntegrator or "
            f"MTSLangevinIntegrator with groups=[({slow}, 1), ({fast}, {self.inner})] and a step of "
            f"{self.inner} inner steps"
        )


class _SlowForce:
    """The function that OpenMM calls for the slow force."""

    def __init__(self, monitor: MTSMonitor) -> None:
        self.monitor = monitor

    def __call__(self, state: openmm.State) -> tuple[float, NDArray[np.floating]]:
        if not isinstance(self.monitor, MTSMonitor):
            return self.monitor(
                state
            )  # the placeholder of a model that was not found, which raises
        return self.monitor.slow(state)


def check_settings(path: str, force_group: int, particles: int) -> None:
    """Refuse settings that are not possible with multiple time steps.

    Args:
        path, force_group: of `add_force_delta`.
        particles: of the System.

    Raises:
        ForceDeltaError: see above.
    """
    if path != "python":
        raise ForceDeltaError("forces='mts' cannot drive an exported model: use path='python'")
    if not 0 <= force_group < _LAST_GROUP:
        raise ForceDeltaError(
            f"force_group is {force_group}, and forces='mts' also needs the next group: pass 0 to "
            f"{_LAST_GROUP - 1}"
        )
    if particles == 0:
        raise ForceDeltaError(
            "forces='mts' cannot be interpolated by openmm-ml, which joins the forces in one group: "
            "use interpolate=False"
        )
