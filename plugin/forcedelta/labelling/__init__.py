"""Reference calculations with real engines: PySCF, GPAW, Quantum ESPRESSO, CP2K, VASP, tblite."""

from forcedelta.labelling.references import AnyCalculator, Engine, engine

__all__ = ["AnyCalculator", "Engine", "engine"]
