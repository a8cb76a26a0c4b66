"""Reference calculations with real codes: PySCF, GPAW, Quantum ESPRESSO, CP2K, VASP, tblite."""

from forcedelta.labelling.references import AnyCalculator, ReferenceCode, reference

__all__ = ["AnyCalculator", "ReferenceCode", "reference"]
