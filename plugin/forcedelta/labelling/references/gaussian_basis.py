"""Gaussian basis sets and their effective core potentials in PySCF, element by element.

A basis set for valence electrons (def2 from Rb on, LANL2DZ, cc-pVnZ-PP, ...) is half of a method: the
other half is the potential that stands for the core. PySCF takes the one without the other and
converges to nonsense, HI at 1.62 Å to a force of 133 eV/Å instead of 0.24.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from forcedelta.errors import ForceDeltaError

OWN, NONE = "basis", "none"
"""What the setting ``ecp`` says besides the name of a potential."""

CORE_ENERGY = 0.5
"""Bases with core functions reach 0.69 (ANO-RCC, Au) to 1.0 of the 1s energy of the bare nucleus,
bases for valence electrons 0.03 (LANL2DZ, I) to 0.27."""

UNIVERSAL = "def2-universal-jkfit"

LAST_ALL_ELECTRON = 36
"""Atomic number of the last element for which auxiliary basis sets have functions for the core."""

Choice = str | Mapping[str, str]
"""A name for all elements, or names by symbol and for "default"."""


@dataclass(frozen=True)
class Assigned:
    """What an element gets.

    Attributes:
        basis: name of its basis set.
        ecp: name of its effective core potential, None for all electrons.
    """

    basis: str
    ecp: str | None


def assign(symbols: Iterable[str], basis: Choice, ecp: Choice) -> dict[str, Assigned]:
    """Basis set and potential of each element.

    Raises:
        ForceDeltaError: a basis set that lacks an element, or has no functions for its core
            electrons and no potential for them; a potential that does not go with the basis set.
    """
    return {
        symbol: _assign(symbol, named(basis, symbol, "basis"), named(ecp, symbol, "ecp"))
        for symbol in sorted(set(symbols))
    }


def named(choice: Choice, symbol: str, setting: str) -> str:
    """The name that a setting has for an element.

    Raises:
        ForceDeltaError: none.
    """
    if isinstance(choice, str):
        return choice
    for key in (symbol, "default"):
        if key in choice:
            return choice[key]
    if setting == "ecp":
        return OWN
    raise ForceDeltaError(
        f"pyscf: {setting} has no entry for {symbol}: give one, or one for 'default'"
    )


def check_names(choice: Choice, setting: str) -> None:
    """Whether all names are known to PySCF.

    Raises:
        ForceDeltaError: no.
    """
    for key, name in [("default", choice)] if isinstance(choice, str) else choice.items():
        if key != "default" and key not in chemical_symbols[1:]:
            raise ForceDeltaError(
                f"pyscf: {setting} has an entry for '{key}', which is no element: give symbols, "
                "or 'default'"
            )
        if not isinstance(name, str) or not name.strip():
            raise ForceDeltaError(f"pyscf: {setting} of {key} is {name!r}: give a name")
        if setting == "ecp" and name in (OWN, NONE):
            continue
        find = _functions if setting == "basis" else _potential
        if not any(_found(find, name, symbol) for symbol in chemical_symbols[1:104]):
            raise ForceDeltaError(
                f"PySCF has no {'basis set' if setting == 'basis' else 'effective core potential'} "
                f"'{name}': give one by its name, e.g. --set {setting}=def2-svp"
            )


def words(basis: Choice, ecp: Choice) -> str:
    """Basis set and treatment of the core, for a level of theory."""
    text = _names(basis)
    if isinstance(ecp, str) and ecp == NONE:
        return f"{text}, all-electron"
    if isinstance(ecp, str) and ecp == OWN:
        families = {basis} if isinstance(basis, str) else set(basis.values())
        return f"{text} with its ECPs" if any(has_potentials(name) for name in families) else text
    return f"{text} with ECP {_names(ecp)}"


def all_have_potentials(basis: Choice) -> bool:
    """Whether each basis set has a potential for some element."""
    return all(
        has_potentials(name) for name in ([basis] if isinstance(basis, str) else basis.values())
    )


@cache
def has_potentials(basis: str) -> bool:
    """Whether a basis set has a potential for any element."""
    return any(own_potential(basis, symbol) for symbol in chemical_symbols[1:104])


@cache
def own_potential(basis: str, symbol: str) -> str | None:
    """Name of the potential that belongs to a basis set, None where it has none for an element."""
    plain = basis.lower().replace("-", "").replace("_", "").replace(" ", "")
    names = [basis]
    if plain.endswith("pp") and "ccp" in plain:
        # one set of potentials for all of them, which PySCF lists with the plain ones only
        names += ["cc-pvdz-pp", "cc-pvtz-pp"]
    elif plain.startswith("ccecp"):
        names.append("ccecp")
    elif plain.startswith("bfd"):
        names.append("bfd")
    return next((name for name in names if _found(_potential, name, symbol)), None)


def auxiliary(assigned: Mapping[str, Assigned], xc: str) -> dict[str, str] | None:
    """Names of the auxiliary basis sets for density fitting, by element.

    Those that belong to the basis set, else def2's universal ones for Coulomb and exchange; not
    PySCF's even-tempered functions, which are wrong by 0.04 eV/Å for LANL2DZ.

    Args:
        assigned: of `assign`.
        xc: functional, in PySCF's words.

    Returns:
        None where an element has none that fits: auxiliary functions from Rb on are made for valence
        electrons, and wrong by 2 eV/Å (HI) with all electrons.
    """
    from pyscf import gto
    from pyscf.df.addons import predefined_auxbasis

    found = {}
    for symbol, choice in assigned.items():
        if choice.ecp is None and gto.charge(symbol) > LAST_ALL_ELECTRON:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = predefined_auxbasis(gto.Mole(verbose=0), choice.basis, xc)
        names = [name for name in (own, UNIVERSAL) if name and _found(_functions, name, symbol)]
        if not names:
            return None
        found[symbol] = names[0]
    return found


def _assign(symbol: str, basis: str, ecp: str) -> Assigned:
    functions = _found(_functions, basis, symbol)
    if not functions:
        raise ForceDeltaError(
            f"pyscf: the basis set {basis} has no {symbol}: choose another, --basis, or one for "
            f'{symbol} alone, --set \'basis={{"{symbol}": "NAME", "default": "{basis}"}}\''
        )
    own = own_potential(basis, symbol)
    has_core = _core_energy(basis, symbol) > CORE_ENERGY
    if ecp == OWN:
        chosen = own
    elif ecp == NONE:
        chosen = None
    else:
        chosen = ecp if _found(_potential, ecp, symbol) else None
    if chosen is None and not has_core:
        what = "none is taken (ecp=none)" if ecp == NONE else f"'{ecp}' has none"
        missing = "PySCF has none with it" if ecp == OWN else what
        fix = f"--set ecp={own}" if own else "--set ecp=NAME, or a basis set for all electrons"
        raise ForceDeltaError(
            f"pyscf: the basis set {basis} has no functions for the core electrons of {symbol} and "
            f"needs an effective core potential, but {missing}: give {fix}"
        )
    if chosen is None:
        return Assigned(basis, None)
    electrons = _potential(chosen, symbol)[0]
    if has_core and electrons > 0 and chosen != own:
        raise ForceDeltaError(
            f"pyscf: the basis set {basis} has functions for the core electrons of {symbol}, which "
            f"the effective core potential {chosen} replaces: give --set ecp=none, or the basis set "
            "that belongs to the potential"
        )
    if own is not None and electrons != (theirs := _potential(own, symbol)[0]):
        raise ForceDeltaError(
            f"pyscf: the effective core potential {chosen} replaces {electrons} electrons of "
            f"{symbol}, but the basis set {basis} was made for one of {theirs}: give --set "
            f"ecp={own}, or the basis set that belongs to the potential"
        )
    lacking = "" if own else _shells_without_functions(basis, symbol, electrons)
    if lacking:
        raise ForceDeltaError(
            f"pyscf: the basis set {basis} has too few {lacking} functions for the electrons of "
            f"{symbol} that the effective core potential {chosen} leaves: give the basis set that "
            "belongs to the potential"
        )
    return Assigned(basis, chosen)


def _shells_without_functions(basis: str, symbol: str, electrons: int) -> str:
    """Letters of the angular momenta with fewer functions than shells outside a core."""
    from pyscf import gto
    from pyscf.data.elements import CONFIGURATION

    core = gto.ecp.core_configuration(electrons)
    there = [0, 0, 0, 0]
    for shell in _found(_functions, basis, symbol):
        if shell[0] < len(there):
            there[shell[0]] += len(shell[-1]) - 1  # columns beside the exponent
    occupied = [
        -(-n // (4 * angular + 2)) for angular, n in enumerate(CONFIGURATION[gto.charge(symbol)])
    ]
    return ", ".join(
        letter
        for letter, have, all_shells, of_core in zip("spdf", there, occupied, core, strict=True)
        if have < all_shells - of_core
    )


def _names(choice: Choice) -> str:
    if isinstance(choice, str):
        return choice
    others = ", ".join(
        f"{symbol}: {name}" for symbol, name in sorted(choice.items()) if symbol != "default"
    )
    return f"{choice['default']} ({others})" if "default" in choice else f"({others})"


def _functions(basis: str, symbol: str) -> list[Any]:
    from pyscf import gto

    return gto.basis.load(basis, symbol)


def _potential(name: str, symbol: str) -> list[Any]:
    from pyscf import gto

    return gto.basis.load_ecp(name, symbol)


def _found(load: Callable[[str, str], list[Any]], name: str, symbol: str) -> list[Any]:
    """What PySCF has, empty where it has nothing: it tells that in many ways."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about packages with further basis sets
        try:
            return load(name, symbol) or []
        except Exception:  # RuntimeError, FileNotFoundError, TypeError, KeyError, ...
            return []


@cache
def _core_energy(basis: str, symbol: str) -> float:
    """Energy of the lowest s orbital at the bare nucleus, in units of the exact -Z^2/2 Hartree."""
    from pyscf import gto

    functions = [shell for shell in _found(_functions, basis, symbol) if shell[0] == 0]
    if not functions:
        return 0.0
    charge = gto.charge(symbol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atom = gto.M(
            atom=[[symbol, (0, 0, 0)]], basis={symbol: functions}, spin=charge % 2, verbose=0
        )
    hamiltonian = atom.intor("int1e_kin") + atom.intor("int1e_nuc")
    norms, vectors = np.linalg.eigh(atom.intor("int1e_ovlp"))
    kept = norms > 1e-10
    change = vectors[:, kept] / np.sqrt(norms[kept])
    lowest = np.linalg.eigvalsh(change.T @ hamiltonian @ change)[0]
    return float(lowest / (-0.5 * charge**2))
