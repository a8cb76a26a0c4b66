"""Factors between the package's units (eV, Å, fs) and OpenMM's (kJ/mol, nm, ps).

Nothing else in the package converts units for OpenMM.
"""

from __future__ import annotations

from ase import units

NM = 10.0
"""Å in a nanometre."""

PS = 1000.0
"""fs in a picosecond."""

EV = 1e4 * units.fs**2
"""kJ/mol in an eV. In OpenMM's units 1 kJ/mol = 1 amu nm^2/ps^2; with this value a force in eV/Å
accelerates an atom exactly as in ASE. It is larger by 8e-9 (relative) than with the exact SI
constants of 2019, because ASE uses CODATA 2014."""

EV_PER_ANGSTROM = EV * NM
"""kJ/(mol nm) in an eV/Å."""
