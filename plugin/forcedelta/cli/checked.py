"""Every flag of every command against `forcedelta.limits`, before a command does anything."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from ..limits import LIMITS, check_value, flag

_FREE = ("set_",)
"""Options whose text is no name: KEY=VALUE of a calculator."""


class CheckedCommand(TyperCommand):
    """A command whose flags are within their limits when it runs, and whose help says which."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for parameter in self.params:
            limits = LIMITS.get(str(parameter.name))
            text = getattr(parameter, "help", None)
            if limits is None or not text or not limits.unit:
                continue
            span = f"({limits.low:g} to {limits.high:g} {limits.unit})"
            if span not in text:
                parameter.help = f"{text} {span}"  # type: ignore[attr-defined]

    def invoke(self, ctx: Any) -> Any:
        """Check, then run."""
        for parameter in self.params:
            name = str(parameter.name)
            if name in _FREE or name not in ctx.params:
                continue
            value = ctx.params[name]
            if isinstance(value, float):
                value = ctx.params[name] = value + 0.0  # no -0
            check_value(name, value, _label(ctx, parameter))
        return super().invoke(ctx)


def _label(ctx: Any, parameter: Any) -> str:
    """What the user calls it: a flag, an argument, or a key of the file of settings."""
    name = str(parameter.name)
    source = ctx.get_parameter_source(name)
    if source is not None and source.name == "DEFAULT_MAP":
        return f"{ctx.params.get('config')}: {name}"
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or name.upper())
    return flag(name)
