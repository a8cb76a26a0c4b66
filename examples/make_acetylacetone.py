"""
Make the structure of acetylacetone
===================================

Make acetylacetone.xyz: acetylacetone (enol form) from SMILES, relaxed with GFN2-xTB.

Needs ``pip install rdkit tblite``. The result is part of this folder.
"""

# ci: skip (needs rdkit and tblite)

from pathlib import Path

import ase.io
from ase import Atoms
from ase.optimize import BFGS
from rdkit import Chem
from rdkit.Chem import AllChem
from tblite.ase import TBLite

SMILES = "C/C(O)=C/C(C)=O"  # the cis enol, which can form the internal hydrogen bond

molecule = Chem.AddHs(Chem.MolFromSmiles(SMILES))
AllChem.EmbedMultipleConfs(molecule, numConfs=20, randomSeed=1)
candidates = []
for conformer in molecule.GetConformers():
    atoms = Atoms([atom.GetSymbol() for atom in molecule.GetAtoms()], conformer.GetPositions())
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    candidates.append((atoms.get_potential_energy(), atoms))
energy, atoms = min(candidates, key=lambda pair: pair[0])
relaxed = Atoms(atoms.symbols, atoms.positions - atoms.get_center_of_mass())
relaxed.info["smiles"] = SMILES
relaxed.info["method"] = "GFN2-xTB"
ase.io.write(Path(__file__).with_name("acetylacetone.xyz"), relaxed, format="extxyz")
print(f"acetylacetone.xyz: {len(relaxed)} atoms, GFN2-xTB energy {energy:.4f} eV")
