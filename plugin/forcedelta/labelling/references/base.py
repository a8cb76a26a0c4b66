"""What all reference codes share: settings, checks, charge and spin."""

from __future__ import annotations

import difflib
import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.util import find_spec
from typing import Any, ClassVar, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, kpts2sizeandoffsets

from forcedelta.errors import ForceDeltaError
from forcedelta.parts import as_molecule
from md_hooks.electronic_state import ElectronicState
from md_hooks.environment import Surroundings
from md_hooks.recalculation import results_of


@dataclass(frozen=True)
class ReferenceCode(ABC):
    """A reference (`md_hooks.recalculation.Reference`) with settings that a user can change.

    The fields of the subclass are its settings. Energies are in eV, lengths in Å.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    """Python packages without which it cannot run."""
    install: ClassVar[str]
    """The command that installs it."""

    @classmethod
    def with_settings(cls, settings: Mapping[str, Any]) -> Self:
        """A reference code with some settings changed.

        Raises:
            ForceDeltaError: a setting that it does not have, or a value of another kind.
        """
        known = {field.name: field for field in fields(cls)}
        for name, value in settings.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise ForceDeltaError(
                    f"{cls.key} has no setting '{name}': {hint}known are {', '.join(known)}"
                )
            _check_kind(cls.key, name, value, str(known[name].type))
        return cls(**settings)

    @property
    @abstractmethod
    def level(self) -> str:
        """Level of theory, e.g. "PBE-D3(BJ)/def2-SVP"."""

    @property
    @abstractmethod
    def details(self) -> str:
        """The settings on which the labels depend, beyond the level of theory."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the code."""

    @abstractmethod
    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """An ASE calculator for ``atoms`` on so many ``threads``, for use in an empty working directory.

        Raises:
            ForceDeltaError: settings that do not fit these atoms.
        """

    @property
    def embeds(self) -> bool:
        """Whether it labels a frame in the field of its environment."""
        return False

    def embedded(self) -> Self:
        """The reference for frames with an environment; the same if it takes no point charges."""
        return self

    @cached_property
    def description(self) -> str:
        """Code, version and settings in one line."""
        return f"{self.title} {self.version}: {self.level}; {self.details}"

    def check(self) -> None:
        """Whether it is installed and its settings make sense.

        Raises:
            ForceDeltaError: no; with the command that installs it.
        """
        for package in self.packages:
            if not _found(package):
                raise ForceDeltaError(
                    f"{self.title} needs {package}, which is not installed: {self.install}"
                )

    def check_structure(self, atoms: Atoms) -> None:  # noqa: B027  # most take any
        """Whether it can do these atoms.

        Raises:
            ForceDeltaError: no, and why.
        """

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """Results for ``atoms`` on ``threads``; see `md_hooks.recalculation.Reference.calculate`."""
        self.check_structure(atoms)  # frames of a running queue were not checked before
        molecule = out_of_box(atoms)
        if molecule is not atoms:  # whole, in its box: a code may ignore periodicity
            atoms = atoms.copy()
            atoms.positions = molecule.positions
        return results_of(atoms, self.calculator(atoms, threads))


def _found(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that contains it
        return False


def _check_kind(reference: str, name: str, value: Any, kind: str) -> None:
    wanted: dict[str, tuple[type, ...]] = {
        "bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "dict": (dict,),
    }  # fmt: skip
    allowed = [type_ for part in kind.split(" | ") for type_ in wanted.get(part.split("[")[0], ())]
    is_truth = isinstance(value, bool) and bool not in allowed
    if not (value is None and "None" in kind) and (
        is_truth or not isinstance(value, tuple(allowed))
    ):
        raise ForceDeltaError(f"{reference}: {name} is {value!r}, it has to be {kind}")


def words_of(reference: ReferenceCode, command: str) -> list[str]:
    """A command's program and arguments; no shell reads it, so that ``;`` and ``$`` mean themselves.

    Raises:
        ForceDeltaError: a quotation mark without its partner.
    """
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ForceDeltaError(f"{reference.key}: command is {command!r} ({error})") from error


def executable(reference: ReferenceCode, command: str) -> str:
    """The path of a program.

    Raises:
        ForceDeltaError: it is not there; with the command that installs it.
    """
    program = next(iter(words_of(reference, command)), "")
    found = shutil.which(program)
    if found is None:
        raise ForceDeltaError(
            f"{reference.title}: the program '{program}' is not there: {reference.install}, or give its "
            "path with --set command=..."
        )
    return found


def out_of_box(atoms: Atoms) -> Atoms:
    """A structure for a code that takes molecules: a part of a System is one also in a periodic box."""
    if Surroundings.usable(atoms).others is None:
        return atoms
    return as_molecule(atoms) or atoms


def need_molecule(reference: ReferenceCode, atoms: Atoms) -> None:
    """Raises ForceDeltaError for a periodic structure."""
    if atoms.pbc.any():
        raise ForceDeltaError(
            f"{reference.key} is for molecules here, and {atoms.symbols} is periodic: use gpaw, "
            "espresso, cp2k or vasp"
        )


def need_crystal(reference: ReferenceCode, atoms: Atoms) -> None:
    """Raises ForceDeltaError for a structure that is not periodic in three directions."""
    if not atoms.pbc.all():
        raise ForceDeltaError(
            f"{reference.key} needs a structure that is periodic in three directions, and "
            f"{atoms.symbols} is not: use pyscf or tblite for molecules, a cell with vacuum for "
            "surfaces"
        )


def charge_and_multiplicity(atoms: Atoms, charge: int | None, spin: int | None) -> tuple[int, int]:
    """Total charge (e) and spin multiplicity 2S+1 of a structure.

    What is given goes before what the atoms tell (`md_hooks.electronic_state`); without either,
    neutral, and the multiplicity of the initial magnetic moments if the number of electrons can
    have it, else a singlet or doublet.

    Raises:
        ForceDeltaError: a multiplicity that this number of electrons cannot have.
        HookError: a charge or multiplicity that is no whole number.
    """
    known = ElectronicState.of(atoms)
    total = charge if charge is not None else known.charge or 0
    electrons = int(atoms.numbers.sum()) - total
    multiplicity = known.spin if spin is None else spin
    if multiplicity is None:
        moment = 0.0 if known.magnetic_moments is None else known.magnetic_moments.sum()
        unpaired = round(abs(float(moment)))
        fits = (electrons - unpaired) % 2 == 0 and unpaired <= electrons
        multiplicity = 1 + (unpaired if fits else electrons % 2)
    if multiplicity < 1 or (electrons - multiplicity) % 2 == 0 or multiplicity > electrons + 1:
        raise ForceDeltaError(
            f"{atoms.symbols} with charge {total} has {electrons} electrons, which cannot have the "
            f"multiplicity {multiplicity}: give charge and spin (2S+1) that fit"
        )
    return total, multiplicity


def charge_words(charge: int | None, spin: int | None) -> list[str]:
    """What was given of the two, in words for the description of a reference code."""
    words = [] if charge is None else [f"charge {charge}"]
    return words if spin is None else [*words, f"multiplicity {spin}"]


def k_points(atoms: Atoms, density: float) -> tuple[int, int, int]:
    """A mesh with at least ``density`` points per Å⁻¹ (with the factor 2 pi) in each direction."""
    size, _ = kpts2sizeandoffsets(density=density, gamma=True, even=False, atoms=atoms)
    first, second, third = (int(number) for number in np.asarray(size))
    return first, second, third
