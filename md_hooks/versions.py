"""Versions of libraries, as files record them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of installed packages, by the name of their distribution.

    Args:
        packages: names of distributions; those that are not installed are left out.
    """
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
