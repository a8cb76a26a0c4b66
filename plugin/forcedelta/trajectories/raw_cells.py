"""Cell vectors as a file has them, where MDAnalysis keeps lengths and angles alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError

_NM = 10.0  # Å
_RIGHT = 1e-3  # degrees
_WRITERS = ("NAMD", "LAMMPS", "OPENMM", "VMD", "DCD PLUGIN", "MDANALYSIS")
"""Programs whose DCD files have lengths and angles of the cell."""

TURNED = (
    "the file has lengths and angles of a cell that is not orthogonal: its first vector is taken "
    "along x and the second in the xy plane; in any other orientation U is wrong"
)


class RawCells:
    """Cell vectors [3, 3] (Å) of the frames of a reader of MDAnalysis.

    MDAnalysis turns every cell until the first vector lies along x, but not the positions. XTC and TRR
    store vectors, and DCD may have CHARMM's symmetric matrix.

    Args:
        reader: of MDAnalysis, for a trajectory.
        kind: its format.
    """

    def __init__(self, reader: Any, kind: str) -> None:
        self._reader, self._kind = reader, kind
        self._box: NDArray[np.floating] | None = None
        if kind in ("XTC", "TRR", "DCD"):
            convert = reader._frame_to_ts

            def keep(frame: Any, ts: Any) -> Any:
                self._box = frame.unitcell if kind == "DCD" else frame.box
                return convert(frame, ts)

            reader._frame_to_ts = keep

    def of(self, frame: Any) -> tuple[NDArray[np.float64] | None, list[str]]:
        """The cell of a frame that was just read, and notes on its orientation.

        Raises:
            ForceDeltaError: a DCD file whose cell may be a matrix, or lengths and angles.
        """
        found = frame.dimensions
        if found is None or not np.all(found[:3] > 0):
            return None, []
        if self._kind in ("XTC", "TRR") and self._box is not None:
            return np.array(self._box, dtype=float).reshape(3, 3) * _NM, []
        if (np.abs(found[3:] - 90) < _RIGHT).all():
            return frame.triclinic_dimensions.astype(float), []
        if self._kind == "DCD" and self._box is not None:
            matrix = _symmetric_matrix(self._box, self._reader._file.header["remarks"])
            if matrix is not None:
                return matrix, []
        return frame.triclinic_dimensions.astype(float), [TURNED]


def _symmetric_matrix(box: NDArray[np.floating], remarks: str) -> NDArray[np.float64] | None:
    """CHARMM's matrix from the six numbers of a DCD file; None where these are lengths and angles.

    Raises:
        ForceDeltaError: they may be either, and the file does not tell its program.
    """
    off = box[[1, 3, 4]].astype(float)
    matrix = np.array(box[[[0, 1, 3], [1, 2, 4], [3, 4, 5]]], dtype=float)
    told = remarks.upper()
    if (np.abs(off) <= 1).all():
        if "CHARMM" in told:
            return matrix
        if not any(name in told for name in _WRITERS):
            raise ForceDeltaError(
                "the six numbers of its cell may be CHARMM's symmetric matrix, or lengths and "
                "cosines of angles: convert the file to XTC or extended XYZ, or pass --no-pbc for "
                "molecules"
            )
        return None
    if (off < 0).any() or (off > 180).any():
        return matrix
    return None
