"""The version of this package."""

from md_hooks.versions import versions_of

__version__ = versions_of("forcedelta").get("forcedelta", "unknown")  # unknown in a source tree
