"""A calculator of ASE that stands for a reference method: springs between bonded atoms."""

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    CalculatorSetupError,
    all_changes,
)
from ase.data import covalent_radii


class Springs(Calculator):
    """E = 1/2 sum of k (d - d0)^2 over the bonds of a molecule, d0 the sum of the covalent radii.

    Atoms are bonded if they are closer than 1.3 d0.

    Args:
        stiffness: k, eV/Å^2.
        charge: total charge, e; 0 is all that springs can do.

    Raises:
        CalculatorSetupError: a stiffness that is not positive, or a charge.
    """

    implemented_properties = ("energy", "forces")

    def __init__(self, stiffness: float = 30.0, charge: int = 0) -> None:
        super().__init__()
        if not stiffness > 0 or charge != 0:
            raise CalculatorSetupError(f"no springs of {stiffness} eV/Å^2 at charge {charge}")
        self.stiffness = stiffness

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Energy (eV) and forces [N, 3] (eV/Å) of ``atoms``."""
        super().calculate(atoms, properties, system_changes)
        radii = covalent_radii[self.atoms.numbers]
        first, second = np.triu_indices(len(radii), k=1)
        vectors = self.atoms.positions[second] - self.atoms.positions[first]
        lengths = np.linalg.norm(vectors, axis=1)
        natural = radii[first] + radii[second]
        stretch = np.where(lengths < 1.3 * natural, lengths - natural, 0.0)
        pull = (self.stiffness * stretch / lengths)[:, None] * vectors
        forces = np.zeros_like(self.atoms.positions)
        np.add.at(forces, first, pull)
        np.add.at(forces, second, -pull)
        self.results = {
            "energy": 0.5 * self.stiffness * float((stretch**2).sum()),
            "forces": forces,
        }
