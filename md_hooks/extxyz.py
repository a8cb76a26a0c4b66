"""Frames as extended XYZ whose strings are read back unchanged.

ASE's writer does not escape strings: a line break in a file name ends the header, a backslash
disappears, and a file called ``2024`` comes back as a number. Its reader undoes backslashes and
reads JSON, and one of the two can represent every string.
"""

from __future__ import annotations

import io
import json
from typing import Any

from ase import Atoms

from .constraints import INFO, text_for_xyz


def frame_text(atoms: Atoms, labels: bool = False) -> bytes:
    """A frame with its results and ``info``, which `ase.io.read` reads back unchanged.

    `ase.io.read` makes `FixAtoms` and `FixCartesian` from the column ``move_mask``. Other constraints
    are text in ``info["constraints"]`` (`md_hooks.constraints.take_from_info`).

    Args:
        atoms: the frame.
        labels: its forces are labels: all constraints are text, so that ``get_forces()`` of whoever reads
            the file gives the forces on fixed atoms, too, instead of zeros.
    """
    from ase.io.extxyz import write_extxyz  # ase.io imports this package to register its reader

    written = atoms.copy()
    written.calc = atoms.calc
    constraints = text_for_xyz(atoms, mask=not labels)
    if labels:
        written.set_constraint()
    info = {**atoms.info, **({} if constraints is None else {INFO: constraints})}
    written.info = {
        name: _readable(value) if isinstance(value, str) else value for name, value in info.items()
    }
    text = io.StringIO()
    write_extxyz(text, [written])
    return text.getvalue().encode()


def header_values(comment: bytes) -> dict[str, Any]:
    """The fields in the second line of a frame, as `ase.io.read` reads them.

    Raises:
        ValueError: not a header of extended XYZ.
    """
    from ase.io.extxyz import key_val_str_to_dict

    values: dict[str, Any] = key_val_str_to_dict(comment.decode(errors="replace"))
    return values


def _readable(text: str) -> str:
    """The input of ASE's writer that its reader returns as this string."""
    from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

    plain = _doubled(text)
    if text.isprintable():
        try:
            found = key_val_str_to_dict(key_val_dict_to_str({"text": plain, "next": 1}))
        except ValueError:
            found = {}
        if isinstance(found.get("text"), str) and found == {"text": text, "next": 1}:
            return plain
    return _doubled(f"_JSON {json.dumps(text)}")


def _doubled(text: str) -> str:
    return text.replace("\\", "\\\\")
