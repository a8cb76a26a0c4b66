"""On a page each parameter has its own description, also where docstrings share them."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sphinx")

from sphinx.ext.napoleon import Config, GoogleDocstring

import forcedelta
from forcedelta.adversarial.settings import AttackSettings

EXTENSION = Path(__file__).parents[2] / "docs" / "_ext" / "parameters.py"


def _extension() -> Any:
    spec = importlib.util.spec_from_file_location("parameters", EXTENSION)
    assert spec is not None
    assert spec.loader is not None
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    return extension


def separate(text: str, module: str = __name__) -> list[str]:
    found: list[str] = _extension().separate(inspect.cleandoc(text).splitlines(), module)
    return found


def origin(a: float, long_name: float) -> None:
    """A function.

    Args:
        a: first, Å: of two
            lines.
        long_name: second, eV.

    Returns:
        a, b: not a parameter.
    """


GROUPED = """A summary: of two, three: parts.

Args:
    a, long_name: see `origin`.
    b, c,
        d: shared,
        on two lines.
    e: alone,
        on two lines.

Returns:
    f, g: left as it is.
"""


def test_groups_are_taken_apart_and_references_followed() -> None:
    assert separate(GROUPED) == [
        "A summary: of two, three: parts.",
        "",
        "Args:",
        "    a: first, Å: of two lines.",
        "    long_name: second, eV.",
        "    b: shared, on two lines.",
        "    c: shared, on two lines.",
        "    d: shared, on two lines.",
        "    e: alone,",
        "        on two lines.",
        "",
        "Returns:",
        "    f, g: left as it is.",
    ]


def test_a_reference_to_nothing_stays() -> None:
    text = "A summary.\n\nArgs:\n    a: see `nowhere.at.all`.\n    b: see `origin`.\n    c: see `None`."
    assert separate(text) == text.splitlines()


@pytest.mark.parametrize("function", [forcedelta.guarded_run, forcedelta.attack, forcedelta.screen])
def test_every_parameter_of_a_command_has_its_own_line(function: object) -> None:
    lines = separate(function.__doc__ or "", function.__module__)
    described = [line.strip().partition(": ") for line in lines]
    for name in inspect.signature(function).parameters:  # type: ignore[arg-type]
        (text,) = (text for found, _, text in described if found == name)
        assert text
        assert "Settings`" not in text or name == "ensemble"


def test_the_settings_of_an_attack_stand_with_its_arguments() -> None:
    lines = separate(forcedelta.attack.__doc__ or "", forcedelta.attack.__module__)
    text = next(line for line in lines if line.strip().startswith("alpha:"))
    assert text.strip() in (AttackSettings.__doc__ or "")


def test_a_property_may_have_a_colon_in_its_first_line() -> None:
    lines = ["Where it is worse: after tuning."]
    _extension().process(None, "property", "worse", property(), None, lines)
    shown = str(GoogleDocstring(lines, Config(), what="property", name="worse"))
    assert shown.split("\n") == ["..", "", "Where it is worse: after tuning."]
