"""fairchem-core 1.x, imported without what its EquiformerV2 never calls.

Its modules begin with ``from torch_scatter import scatter``. torch_scatter is not among fairchem's
requirements, and installing it means compiling C++ against the torch at hand. Of all that the
EquiformerV2 classes import, only ``scatter`` is taken from it, which torch_geometric has as well; so
a module of that name with this one function exists while fairchem is being imported, and only then:
what other packages find when they look for torch_scatter does not depend on forcedelta.
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
    """Imports the parts of fairchem-core 1.x that the adapter needs; cheap when that was done.

    The caller has made sure of its version. fairchem's trainers stay out: they need loggers and
    compilers of half a dozen other packages.

    Raises:
        ForceDeltaError: a package that fairchem needs is missing or does not fit.
    """
    if _MODULES[-1] in sys.modules:
        return
    try:
        with quiet_fairchem(), _scatter_lent():
            for name in _MODULES:
                importlib.import_module(name)
    except ImportError as error:
        raise ForceDeltaError(
            f"{FAMILY.title} is installed, but something that it needs is not ({error}): "
            f"{FAMILY.install}"
        ) from error


@contextmanager
def quiet_fairchem() -> Iterator[None]:
    """Keeps back what fairchem says to its own developers while it is imported or builds a network.

    It warns of names of its classes that are out of date, in the files of all published models; of
    torch.jit, which e3nn uses; and it logs through the root logger, which attaches a handler to
    it where there is none, so that the program would print the log of every other package too.
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
    # first: it looks for torch_scatter when it is imported
    from torch_geometric.utils import scatter as scatter_geometric

    def scatter(
        src: Tensor,
        index: Tensor,
        dim: int = -1,
        *,
        dim_size: int | None = None,
        reduce: str = "sum",
    ) -> Tensor:
        """As torch_scatter's, whose default for ``dim`` is another than torch_geometric's."""
        result: Tensor = scatter_geometric(src, index, dim, dim_size=dim_size, reduce=reduce)
        return result

    lent = ModuleType("torch_scatter")
    lent.scatter = scatter  # type: ignore[attr-defined]
    sys.modules["torch_scatter"] = lent
    try:
        yield
    finally:
        del sys.modules["torch_scatter"]
