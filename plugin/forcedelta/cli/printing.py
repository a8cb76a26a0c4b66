"""Machine-readable output."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from md_hooks.progress import print_line


def print_json(value: Any) -> None:
    """Print a value as one line of JSON on stdout, with null for numbers that are not finite."""
    print_line(json.dumps(_finite(value), ensure_ascii=False), sys.stdout)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
