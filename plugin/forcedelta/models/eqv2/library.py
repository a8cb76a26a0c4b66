"""Imports fairchem-core 1.x without the packages that its EquiformerV2 never calls.

Its modules begin with ``from torch_scatter import scatter``. torch_scatter is not among fairchem's
requirements, and its installation compiles C++ against the installed torch. The EquiformerV2 classes
use only its ``scatter``, which torch_geometric also provides. A substitute module with this function
therefore exists during the import of fairchem, and only then, so that other packages are unaffected.
"""

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from torch import Tensor

from forcedelta.errors import ForceDeltaError
from forcedelta.models.eqv2.catalogue import FAMILY

_MODULES = (
    "fairchem.core.models.base",
    "fairchem.core.models.equiformer_v2.equiformer_v2",
    "fairchem.core.models.equiformer_v2.equiformer_v2_dens",
)


def import_fairchem() -> None:
    """Import the parts of fairchem-core 1.x that the adapter needs; repeated calls are cheap.

    The caller has checked its version. fairchem's trainers are not imported, as they need loggers
    and compilers of half a dozen other packages.

    Raises:
        ForceDeltaError: a package that fairchem needs is missing or incompatible.
    """
    if _MODULES[-1] in sys.modules:
        return
    try:
        with quiet_fairchem(), _scatter_lent():
            for name in _MODULES:
                importlib.import_module(name)
    except ImportError as error:
        raise ForceDeltaError(
            f"{FAMILY.title} is installed, but one of its requirements is not ({error}): "
            f"{FAMILY.install}"
        ) from error


@contextmanager
def quiet_fairchem() -> Iterator[None]:
    """Silence fairchem's warnings and logs for developers while it is imported or builds a network.

    It warns about outdated names of classes, in the files of all published models, and about
    torch.jit, which e3nn uses. It logs through the root logger, which adds a default handler, so
    that the program would also print the logs of all other packages.
    """
    root, silent = logging.getLogger(), logging.NullHandler()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return "fairchem" not in record.pathname

    root.addHandler(silent)
    root.addFilter(from_elsewhere)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        root.removeFilter(from_elsewhere)
        root.removeHandler(silent)


@contextmanager
def _scatter_lent() -> Iterator[None]:
    try:
        importlib.import_module("torch_scatter")
    except (ImportError, OSError):  # OSError: compiled for another torch
        pass
    else:
        yield
        return
    # first, because torch_geometric looks for torch_scatter during its import
    from torch_geometric.utils import scatter as scatter_geometric

    def scatter(
        src: Tensor,
        index: Tensor,
        dim: int = -1,
        *,
        dim_size: int | None = None,
        reduce: str = "sum",
    ) -> Tensor:
        """torch_scatter's function, whose default for ``dim`` differs from torch_geometric's."""
        result: Tensor = scatter_geometric(src, index, dim, dim_size=dim_size, reduce=reduce)
        return result

    lent = ModuleType("torch_scatter")
    lent.scatter = scatter  # type: ignore[attr-defined]
    sys.modules["torch_scatter"] = lent
    try:
        yield
    finally:
        del sys.modules["torch_scatter"]
