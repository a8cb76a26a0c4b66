"""The supported libraries of models, by the names that their authors publish.

Nothing here imports torch or the libraries, and ``forcedelta models`` lists them at once. The adapter
of a library loads its models and is imported when one is requested.
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
    """A request to an adapter: the model to load, and how.

    Attributes:
        name: a published name, or the stem of a file's name.
        file: local weights; None: the published ones.
        architecture: the network in a file that does not name it itself.
        dtype: of positions and weights.
        device: on which it runs.
        trust: a file may run code when it is loaded.
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
        name: as published.
        elements: of the training set, as text.
        periodic: True: only crystals; False: only molecules; None: both.
        licence: of the weights.
        weights: name of the file that is downloaded.
        note: a remark for users, one line.
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
        title: for display.
        distribution: name of the package to install.
        versions: tested with the adapter, as a specifier.
        install: the exact command (`forcedelta.installing`).
        loader: "module:function" of the adapter, ``load(request) -> LoadedModel``.
        published: the models.
        architectures: values of ``--architecture`` for local files.
        apart: why it cannot be installed beside another library; empty where it can.
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
            ForceDeltaError: the library is not installed, or not in a tested version; or an
                error of its adapter.
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
                f"'{name}' predicts no direct forces beside the gradient of its energy; "
                f"U cannot be computed: choose one of {others}"
            )


def family_for(architecture: str) -> Family:
    """The family of an architecture, or of a published name with that architecture.

    Raises:
        ForceDeltaError: an unknown architecture, or one without direct forces.
    """
    check_direct(architecture)
    known = {name: family for family in families() for name in family.architectures}
    known |= {model.name: family for family in families() for model in family.published}
    if architecture in known:
        return known[architecture]
    names = ", ".join(name for family in families() for name in family.architectures)
    raise ForceDeltaError(
        f"no architecture is called '{architecture}': pass --architecture with one of {names}, or "
        "with a published name of 'forcedelta models'"
    )
