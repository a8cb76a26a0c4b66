"""Commands that install what is missing, made from the project's own metadata.

A hint is of use only if it works where it is read: forcedelta may have been installed from a folder,
so that no index knows its name, and what it needs is pinned. All hints are therefore made here, from
the requirements that the installed package states and from where it was installed from.
"""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

NAME = "forcedelta"


def command(*extras: str) -> str:
    """The command that installs optional dependencies, to be pasted into a shell.

    From where this copy of forcedelta came from, if that is a folder, an archive or a repository
    that is still there: the command then works in a new environment, too. Otherwise the packages
    themselves, with the versions that forcedelta was tested with.
    """
    words = _source(extras)
    words = words or [_pin(found) for extra in extras for found in _required(extra)]
    return f"pip install {' '.join(shlex.quote(word) for word in dict.fromkeys(words))}"


def command_for(extra: str, *packages: str) -> str:
    """As `command`, for some of the packages of an extra, with their versions."""
    named = {canonicalize_name(found.name): _pin(found) for found in _required(extra)}
    words = [named.get(canonicalize_name(package), package) for package in packages]
    return f"pip install {' '.join(map(shlex.quote, words))}"


def versions(extra: str, package: str) -> str:
    """The versions of a package that an extra asks for, such as "<0.6,>=0.5.5"; "" for any."""
    name = canonicalize_name(package)
    return next(
        (str(f.specifier) for f in _required(extra) if canonicalize_name(f.name) == name), ""
    )


def unmet() -> str | None:
    """Which of forcedelta's own requirements this environment does not meet, in words.

    Returns:
        One line with the command that mends it; None where all are met.
    """
    wrong: list[Requirement] = []
    found: list[str] = []
    for requirement in _required(None):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            found.append(f"{requirement.name} is not installed")
        else:
            if requirement.specifier.contains(installed, prereleases=True):
                continue
            found.append(f"{requirement.name} {installed} is installed")
        wrong.append(requirement)
    if not wrong:
        return None
    pins = [_pin(requirement) for requirement in wrong]
    return (
        f"forcedelta needs {', '.join(pins)}, but {', '.join(found)}: "
        f"pip install {' '.join(map(shlex.quote, pins))}"
    )


def _pin(requirement: Requirement) -> str:
    """Lower limit first, as people write it; markers are of no use to pip's command line."""
    limits = sorted(str(requirement.specifier).split(","), key=lambda one: one.startswith("<"))
    return f"{requirement.name}{','.join(filter(None, limits))}"


def _required(extra: str | None) -> list[Requirement]:
    """The requirements of an extra; None: those that every installation has."""
    return [found for found, of in _requirements() if of == extra]


@cache
def _requirements() -> list[tuple[Requirement, str | None]]:
    return list(_stated())


def _stated() -> Iterator[tuple[Requirement, str | None]]:
    """All requirements, each with the extra it belongs to."""
    installed = _installed()
    if installed is None:
        project = _project(_tree()) or {}
        for text in project.get("dependencies", []):
            yield Requirement(text), None
        for extra, texts in project.get("optional-dependencies", {}).items():
            for text in texts:
                yield Requirement(text), extra
        return
    extras = installed.metadata.get_all("Provides-Extra") or []
    for text in installed.requires or []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # of a damaged installation
            continue
        marker = requirement.marker
        named = [extra for extra in extras if marker and f"extra == {extra!r}" in _single(marker)]
        if not named:
            yield requirement, None
        for extra in named:
            if marker is None or marker.evaluate({"extra": extra}):
                yield requirement, extra


def _single(marker: object) -> str:
    return str(marker).replace('"', "'")


def _source(extras: tuple[str, ...]) -> list[str]:
    """What to give to pip for this copy of forcedelta with extras; nothing if its origin is gone."""
    named = f"[{','.join(extras)}]" if extras else ""
    installed = _installed()
    if installed is None:
        return [f"{_tree()}{named}"] if _project(_tree()) else []
    try:
        origin = json.loads(installed.read_text("direct_url.json") or "{}")
        address = str(origin["url"])
    except (ValueError, KeyError, TypeError):
        return []
    if "vcs_info" in origin:
        told = origin["vcs_info"]
        version_control = f"{told.get('vcs', 'git')}+{address}@{told.get('commit_id', 'HEAD')}"
        return [f"{NAME}{named} @ {version_control}"]
    parsed = urlparse(address)
    if parsed.scheme != "file":
        return [f"{NAME}{named} @ {address}"]
    path = Path(unquote(parsed.path))
    if "dir_info" not in origin:
        return [f"{path}{named}"] if path.is_file() else []
    if not _project(path):
        return []
    editable = bool(origin["dir_info"].get("editable"))  # it stays what it is
    return [*(["-e"] if editable else []), f"{path}{named}"]


def _installed() -> Distribution | None:
    try:
        return distribution(NAME)
    except PackageNotFoundError:  # imported from a source tree
        return None


def _tree() -> Path:
    return Path(__file__).resolve().parents[2]


def _project(folder: Path) -> dict[str, Any] | None:
    """The table ``project`` of the folder's pyproject.toml, if that is forcedelta's."""
    try:
        with (folder / "pyproject.toml").open("rb") as file:
            project: dict[str, Any] = tomllib.load(file)["project"]
    except (OSError, ValueError, KeyError):
        return None
    return project if project.get("name") == NAME else None
