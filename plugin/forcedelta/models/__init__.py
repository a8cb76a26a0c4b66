"""Models by name or file: embedded ones and those of other libraries and packages."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forcedelta.models.ase_pair import from_calculators
    from forcedelta.models.loaded import LoadedModel
    from forcedelta.models.registry import load_model, model_names

__all__ = ["LoadedModel", "from_calculators", "load_model", "model_names"]

# torch takes a second to import: the catalogue of names does without
_HOMES = {
    "LoadedModel": "loaded",
    "from_calculators": "ase_pair",
    "load_model": "registry",
    "model_names": "registry",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"forcedelta.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
