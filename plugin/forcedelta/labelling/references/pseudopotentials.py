"""What files of pseudopotentials say of themselves: UPF (Quantum ESPRESSO) and GTH (CP2K)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ase.data import atomic_numbers

from forcedelta.errors import ForceDeltaError

HEADER_BYTES = 200_000
"""A header stands at the beginning, after remarks on how the potential was made."""

FUNCTIONALS = {
    "sla pw pbx pbc": "PBE", "sla pw pbe pbe": "PBE", "sla pw psx psc": "PBEsol", "sla pz nogx nogc": "LDA",
    "sla pw nogx nogc": "LDA", "pz": "LDA", "pw": "LDA", "b88 lyp blyp": "BLYP", "sla lyp b88 blyp": "BLYP",
    "sla pw rpb pbc": "RPBE", "sla pw ggx ggc": "PW91",
}  # fmt: skip
"""Quantum ESPRESSO's words for the parts of a functional, and its usual name."""

CP2K_FOLDERS = ("/usr/share/cp2k", "/usr/local/share/cp2k")


@dataclass(frozen=True)
class UPF:
    """Header of a UPF file.

    Attributes:
        symbol: element.
        valence: number of electrons that are calculated.
        functional: e.g. "PBE"; the file's own words where these have no usual name.
    """

    symbol: str
    valence: float
    functional: str


@cache
def read_upf(path: Path) -> UPF | None:
    """The header of a UPF file, of version 1 or 2; None where there is none, as pw.x will tell.

    Raises:
        ForceDeltaError: the file cannot be read, or the header says nothing that can be.
    """
    try:
        with path.open("rb") as file:
            text = file.read(HEADER_BYTES).decode(errors="replace")
    except OSError as error:
        raise ForceDeltaError(f"espresso: {path} cannot be read ({error.strerror})") from error
    found = re.search(r"<PP_HEADER(.*?)(?:/>|</PP_HEADER>)", text, re.DOTALL)
    if found is None:
        return None
    header = found.group(1)
    values = {
        name: _first(header, rf"{name}\s*=\s*[\"']\s*([^\"']*?)\s*[\"']", older)
        for name, older in (
            ("element", r"^\s*([A-Za-z]+)\s+Element"),
            ("z_valence", r"^\s*([-+.\dEeDd]+)\s+Z valence"),
            ("functional", r"^\s*(.*?)\s+Exchange-Correlation"),
        )
    }
    try:
        valence = float(values["z_valence"].lower().replace("d", "e"))
    except ValueError:
        valence = 0.0
    symbol = values["element"].capitalize()
    if symbol not in atomic_numbers or not 0 < valence <= atomic_numbers[symbol]:
        raise ForceDeltaError(
            f"espresso: the header of {path} has no element with a number of valence electrons that it "
            "can have: the file is damaged, give another"
        )
    words = " ".join(re.split(r"[\s\-+]+", values["functional"].lower())).strip()
    return UPF(symbol, valence, FUNCTIONALS.get(words, values["functional"] or "unknown"))


def _first(text: str, *patterns: str) -> str:
    for pattern in patterns:
        found = re.search(pattern, text, re.IGNORECASE | re.MULTILINE)
        if found:
            return found.group(1)
    return ""


def cp2k_data(name: str) -> Path | None:
    """A file of CP2K's data, None where it is not found: then CP2K knows where."""
    folders = [os.environ.get("CP2K_DATA_DIR", ""), *CP2K_FOLDERS]
    return next((Path(f) / name for f in folders if f and (Path(f) / name).is_file()), None)


@cache
def cp2k_names(path: Path) -> dict[str, list[list[str]]]:
    """Names of the entries of a file of CP2K's basis sets or potentials, by element."""
    entries: dict[str, list[list[str]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = re.match(r"\s*([A-Z][a-z]?)\s+([A-Za-z].*)$", line)
        if found and found.group(1) in atomic_numbers:
            entries.setdefault(found.group(1), []).append(found.group(2).split())
    return entries


def gth_potential(symbol: str, basis: str, family: str) -> str:
    """Name of the GTH potential that was made for as many valence electrons as a basis set.

    Args:
        symbol: element.
        basis: name of the basis set, of BASIS_MOLOPT.
        family: e.g. "GTH-PBE".

    Returns:
        with the number of electrons, e.g. "GTH-PBE-q18", where CP2K's files tell it.

    Raises:
        ForceDeltaError: no basis set or potential for the element, or none that go together.
    """
    basis_file, potential_file = cp2k_data("BASIS_MOLOPT"), cp2k_data("POTENTIAL")
    if basis_file is None or potential_file is None:
        return family
    sets = [names for names in cp2k_names(basis_file).get(symbol, []) if basis in names]
    potentials = [
        names
        for names in cp2k_names(potential_file).get(symbol, [])
        if any(name == family or name.startswith(f"{family}-q") for name in names)
    ]
    if not sets or not potentials:
        similar = [n for names in cp2k_names(basis_file).get(symbol, []) for n in names]
        what = f"basis set {basis} (it has {', '.join(similar) or 'none'})"
        raise ForceDeltaError(
            f"cp2k: there is no {family + ' potential' if sets else what} for {symbol}: choose another "
            f"{'--xc' if sets else '--basis'}, or another reference"
        )
    wanted = _electrons(sets[0])
    if wanted is None:
        return family
    for names in potentials:
        if _electrons(names) == wanted:
            return f"{family}-q{wanted}"
    there = ", ".join(names[0] for names in potentials)
    raise ForceDeltaError(
        f"cp2k: the basis set {basis} of {symbol} is made for {wanted} valence electrons, and the "
        f"potentials are {there}: choose another --basis, or another reference"
    )


def _electrons(names: list[str]) -> int | None:
    """The number in "...-q18", of one of the names."""
    found = [re.search(r"-q(\d+)$", name) for name in names]
    return next((int(match.group(1)) for match in found if match), None)
