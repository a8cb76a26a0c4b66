"""The legs of a recorded run, as its file tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Leg:
    """A leg of a recorded run (`md_hooks.legs`), with the restarts in it.

    Attributes:
        number: from 1.
        after_step: the last step before it; -1 for the first leg.
        last_step: its last step so far.
        settings: of the run, as known to the engine: dynamics, timestep (fs), temperature (K), ...
        outcome: how it ended, as `md_hooks.Trajectory.outcome`.
        seamless: it goes on from the leg before without any change (`md_hooks.RunInfo.seamless`).
    """

    number: int
    after_step: int
    last_step: int
    settings: Mapping[str, Any]
    outcome: Mapping[str, Any]
    seamless: bool


def legs_of(runs: Sequence[Mapping[str, Any]], last_step: int) -> list[Leg]:
    """The legs of a file.

    Args:
        runs: as of `md_hooks.Trajectory.runs`.
        last_step: the last step in the file.
    """
    groups: list[list[Mapping[str, Any]]] = []
    for run in runs:
        number = run["info"].get("leg")  # files written before runs had legs have one leg
        if not groups or (number is not None and number != groups[-1][-1]["info"].get("leg", 1)):
            groups.append([])
        groups[-1].append(run)
    begins = [_after_step(group[0]) for group in groups]
    return [
        Leg(
            number=index + 1,
            after_step=begins[index],
            last_step=begins[index + 1] if index + 1 < len(groups) else last_step,
            settings=group[-1]["info"].get("settings", {}),
            outcome=group[-1].get("outcome", {}),
            seamless=bool(group[0]["info"].get("seamless", False)),
        )
        for index, group in enumerate(groups)
    ]


def _after_step(run: Mapping[str, Any]) -> int:
    step = run["info"].get("after_step")
    return step if isinstance(step, int) else -1
