"""Checks that outputs are neither inputs nor each other.

Light to import, as every command checks this before it reads or loads anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .errors import ForceDeltaError


class Named(NamedTuple):
    """A path with its name for the user.

    Attributes:
        name: a flag, or a word such as "structure".
        path: the path; inputs that are None or do not exist are ignored.
    """

    name: str
    path: str | Path | None


def check_outputs(
    outputs: Iterable[Named], inputs: Iterable[Named], folders: Iterable[Named] = ()
) -> None:
    """Refuse to write an input, or one file twice.

    Files are compared, not names: links, hard links and other spellings of a path are resolved.

    Args:
        outputs: of one call.
        inputs: of one call. Missing ones are ignored, as they may be names of models.
        folders: whose content is replaced or removed.

    Raises:
        ForceDeltaError: two of them are one file.
    """
    written: dict[tuple[object, ...], Named] = {}
    for output in outputs:
        if output.path is None:
            continue
        other = written.setdefault(_identity(output.path), output)
        if other is not output:
            raise ForceDeltaError(
                f"{output.name} {output.path} and {other.name} {other.path} are the same file: give "
                "two files"
            )
    replaced = [(Path(os.path.realpath(folder.path)), folder) for folder in folders if folder.path]
    for source in inputs:
        if source.path is None or not os.path.exists(source.path):
            continue
        for real, folder in replaced:
            if Path(os.path.realpath(source.path)).is_relative_to(real):
                raise ForceDeltaError(
                    f"the {source.name} {source.path} lies in {folder.name} {folder.path} and would be "
                    "lost: copy it elsewhere first"
                )
        found = written.get(_identity(source.path))
        if found is not None:
            raise ForceDeltaError(
                f"{found.name} {found.path} is the {source.name} itself ({source.path}), which would be "
                f"lost: give another {found.name}"
            )


def refuse_existing(name: str, path: Path, overwrite: bool) -> None:
    """Refuse to replace an existing file without ``overwrite``.

    Raises:
        ForceDeltaError: the file exists, its folder does not, or the name is invalid.
    """
    linked = Path(os.path.realpath(path)).parent  # of the target of a link
    folder = linked if os.path.islink(path) else path.parent
    if not folder.is_dir():
        raise ForceDeltaError(f"{path} cannot be written: make the folder {folder} first")
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ForceDeltaError(
            f"{path} cannot be written ({error.strerror}): give another {name}"
        ) from error
    if os.path.exists(path) and not os.path.isfile(path):
        raise ForceDeltaError(
            f"{path} cannot be written: it is not a regular file, give another {name}"
        )
    if not overwrite:
        raise ForceDeltaError(f"{path} exists: pass --overwrite, or give another {name}")


def _identity(path: str | Path) -> tuple[object, ...]:
    """Equal for all names of one file, whether it exists or not."""
    try:
        there = os.stat(path)
    except OSError:
        real = os.path.realpath(path)
        try:
            folder = os.stat(os.path.dirname(real))
        except OSError:
            return (real,)
        return (folder.st_dev, folder.st_ino, os.path.basename(real))
    return (there.st_dev, there.st_ino)
