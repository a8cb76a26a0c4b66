"""Models by name: the embedded ones, those of other libraries and packages, and files."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forcedelta.models.registry import LoadedModel, load_model, model_names

__all__ = ["LoadedModel", "load_model", "model_names"]


def __getattr__(name: str) -> Any:
    # torch takes a second to import: the catalogue of names does without
    if name in __all__:
        from forcedelta.models import registry

        return getattr(registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
