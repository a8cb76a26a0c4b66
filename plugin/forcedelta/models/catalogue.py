"""The supported model libraries, with their models by published name.

Nothing here imports torch or the libraries, so that ``forcedelta models`` lists them at once. The
adapter of a library is imported when one of its models is loaded.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet

from forcedelta.errors import ForceDeltaError

if TYPE_CHECKING:
    import torch

    from forcedelta.models.loaded import LoadedModel


@dataclass(frozen=True)
class LoadRequest:
    """A request to an adapter to load a model.

    Attributes:
        name: a published name, or the stem of a file name.
        file: local weights; None: the library's published ones.
        architecture: the network in a file that does not name it.
        dtype: of positions and weights.
        device: of the model.
        trust: whether the file may run code when it is loaded.
        compile: pass the network to ``torch.compile``.
    """

    name: str
    file: Path | None
    architecture: str | None
    dtype: torch.dtype
    device: torch.device
    trust: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Published:
    """A model as its authors publish it.

    Attributes:
        name: published name.
        elements: description of the elements in its training set.
        periodic: True: only crystals; False: only molecules; None: both.
        licence: of the weights.
        weights: name of the file to download.
        note: further information for users, one line.
        charge_spin: whether it takes a total charge and a spin multiplicity.
    """

    name: str
    elements: str
    periodic: bool | None
    licence: str
    weights: str
    note: str = ""
    charge_spin: bool = False


@dataclass(frozen=True)
class Family:
    """The models of one library.

    Attributes:
        key: short name.
        title: displayed name.
        distribution: name of the package to install.
        versions: versions that the adapter was tested with, as a specifier.
        install: the exact command (`forcedelta.installing`).
        loader: "module:function" of the adapter, ``load(request) -> LoadedModel``.
        published: the models.
        architectures: values of ``--architecture`` for local files.
        apart: reason for a separate environment; empty if none is needed.
        conservative: the library's models without direct forces, which are refused.
        pythons: versions of Python that the library supports, as a specifier; empty if they are
            those of forcedelta.
    """

    key: str
    title: str
    distribution: str
    versions: str
    install: str
    loader: str
    published: tuple[Published, ...]
    architectures: tuple[str, ...] = ()
    apart: str = ""
    conservative: tuple[str, ...] = ()
    pythons: str = ""

    def problem(self) -> str:
        """Why the library cannot be used here; empty if it can. Nothing is imported."""
        try:
            found = version(self.distribution)
        except PackageNotFoundError:
            python = platform.python_version()
            wrong = not SpecifierSet(self.pythons).contains(python, prereleases=True)
            needs = f" and needs Python {self.pythons} (this is {python})" if wrong else ""
            return f"{self.distribution} is not installed{needs}"
        if not SpecifierSet(self.versions).contains(found, prereleases=True):
            return f"{self.distribution} {found} is installed, but {self.versions} is needed"
        return ""

    def load(self, request: LoadRequest) -> LoadedModel:
        """A model of the family.

        Raises:
            ForceDeltaError: the library is missing or its version is not supported, or an error of
                its adapter.
        """
        problem = self.problem()
        if problem:
            apart = f" ({self.apart})" if self.apart else ""
            raise ForceDeltaError(
                f"model '{request.name}' needs the library {self.title}, but {problem}: "
                f"{self.install}{apart}"
            )
        module, _, function = self.loader.partition(":")
        load: Callable[[LoadRequest], LoadedModel] = getattr(
            importlib.import_module(module), function
        )
        return load(request)


def families() -> tuple[Family, ...]:
    """All libraries with an adapter."""
    found: list[Family] = []
    for name in _CATALOGUES:
        module: Any = importlib.import_module(f"forcedelta.models.{name}")
        found.append(module.FAMILY)
    return tuple(found)


_CATALOGUES: tuple[str, ...] = (
    "orb.catalogue",
    "eqv2.catalogue",
    "fairchem.catalogue",
    "metatomic.catalogue",
)
"""Modules of this package that hold a ``FAMILY``; none of them imports its library."""


def family_of(published: str) -> Family | None:
    """The family of a published name, or None."""
    for family in families():
        if any(model.name == published for model in family.published):
            return family
    return None


def check_direct(name: str) -> None:
    """Refuse published models without direct forces.

    Raises:
        ForceDeltaError: the name belongs to such a model.
    """
    for family in families():
        if name in family.conservative:
            others = ", ".join(model.name for model in family.published)
            raise ForceDeltaError(
                f"'{name}' predicts no direct forces, so there is no Force Delta: use one of {others}"
            )


def family_for(architecture: str) -> Family:
    """The family of an architecture, or of a published name with that architecture.

    Raises:
        ForceDeltaError: no adapter supports it, or it has no direct forces.
    """
    check_direct(architecture)
    known = {name: family for family in families() for name in family.architectures}
    known |= {model.name: family for family in families() for model in family.published}
    if architecture in known:
        return known[architecture]
    names = ", ".join(name for family in families() for name in family.architectures)
    raise ForceDeltaError(
        f"unknown architecture '{architecture}': pass --architecture with one of {names}, or with a "
        "published name listed by 'forcedelta models'"
    )
