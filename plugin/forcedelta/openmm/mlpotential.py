"""The potential "forcedelta" of openmm-ml, which finds it by an entry point.

    potential = MLPotential("forcedelta", model="acac")
    system = potential.createMixedSystem(topology, mm_system, ml_atoms, mlLongRange=False)

openmmml imports this module in every process, so it imports nothing heavy.
"""

from __future__ import annotations

from typing import Any


class ForceDeltaPotentialFactory:
    """Makes the potential; openmm-ml prescribes the names of the methods."""

    def createImpl(self, name: str, model: Any = None, **settings: Any) -> Any:  # noqa: N802
        """The potential of a model.

        Args:
            name: "forcedelta".
            model: as for `forcedelta.openmm.add_force_delta`.
            settings: other keyword arguments of `add_force_delta`, such as forces, every, device,
                dtype, charge, spin, architecture or trust.

        Raises:
            ForceDeltaError: no model was given.
        """
        from openmmml.mlpotential import MLPotentialImpl

        from ..errors import ForceDeltaError

        if model is None:
            raise ForceDeltaError(
                "no model: use MLPotential('forcedelta', model='NAME'), with a name of "
                "'forcedelta models' or the path of a file"
            )

        class ForceDeltaPotential(MLPotentialImpl):
            """Adds the monitored force; `forcedelta.openmm.run` finds it in the System."""

            def addForces(  # noqa: N802
                self,
                topology: Any,
                system: Any,
                atoms: Any,
                forceGroup: int,
                **more: Any,
            ) -> None:
                from .force import add_force_delta

                more.pop("mlLongRange", None)
                add_force_delta(
                    system, model, topology, atoms, force_group=forceGroup, **{**settings, **more}
                )

            def getMLLongRange(self) -> bool:  # noqa: N802
                """False: the models see only neighbours within a cutoff."""
                return False

        return ForceDeltaPotential()
