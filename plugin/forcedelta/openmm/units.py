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
"""kJ/mol in an eV. OpenMM's units make 1 kJ/mol = 1 amu nm^2/ps^2; this is the value for which a
force in eV/Å moves an atom exactly as ASE moves it. It lies 8e-9 (relative) above that of the exact
constants of the SI since 2019, as ASE's units are those of CODATA 2014."""

EV_PER_ANGSTROM = EV * NM
"""kJ/(mol nm) in an eV/Å."""
