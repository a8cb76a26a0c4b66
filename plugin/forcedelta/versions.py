"""The version of this package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("forcedelta")
except PackageNotFoundError:  # imported from a source tree
    __version__ = "unknown"
