"""What the gallery does before each example."""

import builtins
from typing import Any


def name_the_file(gallery: dict[str, Any], path: str) -> None:
    """Gives an example its ``__file__``, which the gallery leaves undefined."""
    builtins.__file__ = str(path)  # type: ignore[attr-defined]
