"""Checks that no output of a command is one of its inputs or another output.

Light on purpose: every command asks this before it reads or loads anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .errors import ForceDeltaError


class Named(NamedTuple):
    """A path and what the user knows it as.

    Attributes:
        name: a flag, or a word such as "structure".
        path: the path; None and paths that are no files are passed over among inputs.
    """

    name: str
    path: str | Path | None


def check_outputs(
    outputs: Iterable[Named], inputs: Iterable[Named], folders: Iterable[Named] = ()
) -> None:
    """Refuse to write into what is read, or twice into one file.

    Files are compared, not names: links, hard links and other spellings of a path are seen through.

    Args:
        outputs: of one call.
        inputs: of one call. What is not there is not compared: it may be the name of a model.
        folders: whose content is written anew or removed.

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
                    f"the {source.name} {source.path} lies in {folder.name} {folder.path}, where it would "
                    "be lost: copy it to another place first"
                )
        found = written.get(_identity(source.path))
        if found is not None:
            raise ForceDeltaError(
                f"{found.name} {found.path} is the {source.name} itself ({source.path}), which would be "
                f"lost: give another {found.name}"
            )


def refuse_existing(name: str, path: Path, overwrite: bool) -> None:
    """Whether a file may be written that a command replaces only when asked to.

    Raises:
        ForceDeltaError: it exists, its folder does not, or no file can have its name.
    """
    linked = Path(os.path.realpath(path)).parent  # of what a link leads to
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
    """The same for all names of one file, there or not."""
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
