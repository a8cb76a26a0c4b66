"""Figures of a comparison: systems, structures and models, U against the true error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from forcedelta.comparison.result import Comparison, Ranked
from md_hooks.text import printable

U_LABEL = "Force Delta $U$ (eV/Å)"
ERROR_LABEL = "RMS error of the direct forces (eV/Å)"
_PANELS = 3  # in a row
_DECADES = 1e-5  # smallest value of an axis over its largest
_NAMED = 12  # systems or models in a legend
_MARKERS = "osD^vP*Xhp"


def draw(found: Comparison) -> dict[str, Figure]:
    """The figures by name: "systems", "structures", "starts" (with attacks) and "models".

    With labels they show U against the error, on logarithmic scales; without labels there is
    "structures" alone, the distribution of U.
    """
    labelled = [row for row in found.rows if row["epsilon"] is not None]
    if not labelled:
        return {"structures": _distribution(found)} if found.common else {}
    figures = {}
    if any(system.epsilon for system in found.systems):
        figures["systems"] = _systems(found)
    figures["structures"] = _structures(found, labelled)
    if found.attack is not None:
        figures["starts"] = _starts(found)
    if any(model.epsilon for model in found.models):
        figures["models"] = _models(found)
    return figures


def _systems(found: Comparison) -> Figure:
    figure, axes = _square()
    systems = [system for system in found.systems if system.epsilon]
    for system, style in zip(systems, _styles(len(systems)), strict=True):
        axes.scatter(system.force_delta, system.epsilon, s=46, label=_name(system.name), **style)
    _scales(axes)
    _legend(axes, len(systems))
    ranked = found.systems_ranking
    title = "mean over models and structures of each system"
    axes.set_title(_with_r_s(title, _own(ranked)), fontsize=9)
    return figure


def _structures(found: Comparison, rows: Sequence[dict[str, Any]]) -> Figure:
    """Every labelled structure, one panel for each model, coloured by system; crosses: moved by an attack."""
    models = [m for m in found.models if any(row["model"] == m.name for row in rows)]
    columns = min(_PANELS, len(models))
    lines = -(-len(models) // columns)
    figure = Figure(figsize=(1.2 + 3.3 * columns, 1.1 + 3.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    names = list(dict.fromkeys(row["system"] for row in rows))
    styles = dict(zip(names, _styles(len(names)), strict=True))
    for k, (axes, model) in enumerate(zip(panels, models, strict=False)):
        for name in names:
            own = [row for row in rows if row["model"] == model.name and row["system"] == name]
            if own:
                axes.scatter(
                    [row["force_delta"] for row in own], [row["epsilon"] for row in own],
                    s=9 if len(own) > 30 else 22, alpha=0.6, linewidths=0, label=_name(name),
                    **styles[name],
                )  # fmt: skip
        _scales(axes)
        axes.label_outer()
        axes.tick_params(labelbottom=k + columns >= len(models))
        ranked = model.ranking
        if found.attack is not None:
            ranked = found.attack.ranking.get(model.name, ranked)
        title = _with_r_s(_name(model.name), _own(ranked))
        axes.set_title(title, fontsize=9, parse_math=False)
    for axes in panels[len(models) :]:
        axes.set_axis_off()
    if 1 < len(names) <= _NAMED:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False
        )
    return figure


def _starts(found: Comparison) -> Figure:
    """r_s along attacks against the error at their start."""
    assert found.attack is not None
    figure, axes = _square()
    several = found.attack.over == "systems"
    scores = found.attack.systems if several else found.attack.each
    models = list(dict.fromkeys(one.model for one in scores))
    for model, style in zip(models, _styles(len(models)), strict=True):
        own = [
            one for one in scores if one.model == model and one.spearman["force_delta"] is not None
        ]
        label = _with_r_s(_name(model), found.attack.start_spearman[model])
        axes.scatter(
            [one.start_error for one in own], [one.spearman["force_delta"] for one in own],
            s=30, label=label, **style,
        )  # fmt: skip
        if several:
            for one in own:
                _beside(axes, one.start_error, one.spearman["force_delta"], one.system)
    axes.axhline(0, color="#999999", linewidth=0.8)
    if all(one.start_error > 0 for one in scores):
        axes.set_xscale("log")
        _ticks(axes.xaxis)
    axes.set_ylim(-1.08, 1.08)
    axes.set_xlabel("RMS error of the direct forces at the start (eV/Å)")
    axes.set_ylabel("Spearman's $r_s$ of $U$ and the error")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, loc="lower left")
    axes.set_title(f"{found.attack.over} of attacks; in the legend r_s of the points", fontsize=9)
    return figure


def _models(found: Comparison) -> Figure:
    figure, axes = _square()
    models = [model for model in found.models if model.epsilon and model.force_delta is not None]
    families = [family for family in found.families if any(m.family == family.name for m in models)]
    for family, style in zip(families, _styles(len(families)), strict=True):
        own = [model for model in models if model.family == family.name]
        axes.scatter(
            [model.force_delta for model in own], [model.epsilon for model in own], s=46,
            label=_with_r_s(_name(family.name), family.models_spearman.get("force_delta")), **style,
        )  # fmt: skip
        for model in own:
            _beside(axes, model.force_delta, model.epsilon, model.name)
    axes.margins(0.12)
    _scales(axes)
    axes.legend(fontsize=7)
    axes.set_title("mean over structures of each model", fontsize=9)
    return figure


def _distribution(found: Comparison) -> Figure:
    """U of every structure by system and model, where there are no labels."""
    known = [row for row in found.rows if row["force_delta"] is not None]
    names = list(dict.fromkeys(row["system"] for row in known))
    figure = Figure(figsize=(max(5.0, 2.0 + 0.8 * len(names)), 4.2), layout="constrained")
    axes = figure.subplots()
    models = [model for model in found.models if model.force_delta is not None]
    for k, (model, style) in enumerate(zip(models, _styles(len(models)), strict=True)):
        own = [row for row in known if row["model"] == model.name]
        shift = 0.6 * ((k + 0.5) / len(models) - 0.5)
        axes.scatter(
            [names.index(row["system"]) + shift for row in own], [row["force_delta"] for row in own],
            s=12, alpha=0.6, linewidths=0, label=_name(model.name), **style,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), [_name(name) for name in names], rotation=30, ha="right")
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel(U_LABEL)
    axes.grid(alpha=0.25, axis="y")
    axes.legend(fontsize=7)
    return figure


def _square() -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    return figure, figure.subplots()


def _styles(count: int) -> Iterable[dict[str, Any]]:
    """Colours, and markers where there are more points than colours."""
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    return [
        {"color": colours[k % len(colours)], "marker": _MARKERS[k // len(colours) % len(_MARKERS)]}
        for k in range(count)
    ]


def _scales(axes: Any) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, set_limits in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        low, high = axis.get_view_interval()
        if low < _DECADES * high:  # zeros by symmetry are rounding errors
            set_limits(_DECADES * high, high)
        _ticks(axis)
    axes.set_xlabel(U_LABEL)
    axes.set_ylabel(ERROR_LABEL, fontsize=9)
    axes.grid(alpha=0.25)


def _ticks(axis: Any) -> None:
    low, high = axis.get_view_interval()
    decades = np.log10(high / low) if low > 0 else np.inf
    subs = (
        (1.0,)
        if decades > 2
        else (1.0, 2.0, 5.0)
        if decades > 0.8
        else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    )
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _legend(axes: Any, count: int) -> None:
    if count <= 2 * _NAMED:
        axes.legend(fontsize=7, ncols=1 if count <= _NAMED else 2)


def _beside(axes: Any, x: float | None, y: float | None, text: str) -> None:
    axes.annotate(
        _name(text), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6, color="#555555",
        parse_math=False,
    )  # fmt: skip


def _own(ranked: Ranked | None) -> float | None:
    return None if ranked is None else ranked["force_delta"]["spearman"].value


def _with_r_s(text: str, value: float | None) -> str:
    return text if value is None else f"{text}, r_s = {value:.2f}"


def _name(text: str) -> str:
    """A name from files: no control characters, and no formulas."""
    return printable(text, keep="").replace("$", r"\$")
