"""OpenMM runs with hooks that may stop them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import openmm

from md_hooks import (
    Checkpoint,
    HookChain,
    RunInfo,
    RunResult,
    RunStoppedError,
    load_checkpoint,
)
from md_hooks.hook import AnyHook
from md_hooks.signals import end_after_the_step

from ..errors import ForceDeltaError
from .monitor import Monitor, find_monitor, find_monitors
from .state import restore
from .stepping import Frames, at_step

Hooks = Iterable[AnyHook] | HookChain
"""The hooks of one monitor."""

Restart = str | Path | Checkpoint
"""A recorded file, or its checkpoint."""


@overload
def run(
    simulation: Any,
    steps: int,
    hooks: Mapping[Monitor, Hooks],
    info: RunInfo | None = None,
    *,
    restart: Mapping[Monitor, Restart] | None = None,
    after_stop: bool = False,
    raise_on_stop: bool = False,
) -> dict[Monitor, RunResult]: ...


@overload
def run(
    simulation: Any,
    steps: int,
    hooks: Hooks,
    info: RunInfo | None = None,
    *,
    restart: Restart | None = None,
    after_stop: bool = False,
    raise_on_stop: bool = False,
) -> RunResult: ...


def run(
    simulation: Any,
    steps: int,
    hooks: Hooks | Mapping[Monitor, Hooks],
    info: RunInfo | None = None,
    *,
    restart: Restart | Mapping[Monitor, Restart] | None = None,
    after_stop: bool = False,
    raise_on_stop: bool = False,
) -> RunResult | dict[Monitor, RunResult]:
    """Run an OpenMM simulation with hooks until it is done, stopped or interrupted.

    Before each step the model is evaluated at the present configuration and the hooks get its
    `md_hooks.Frame`; the integrator then reuses the computed forces. A run that a hook stops has
    therefore not taken the step: positions, velocities, box, time and random numbers of the context
    are those of the frame that stopped it, and a run continued from there equals an uninterrupted
    one. Reporters of the simulation work as usual and see the same steps.

    The frame holds the model's atoms, energy and forces. OpenMM's leapfrog integrators (Verlet,
    Langevin, LangevinMiddle, NoseHoover) keep velocities half a step behind the positions, and so
    do CustomIntegrators whose expression of the kinetic energy contains the time step. If the model's
    force is the only one that acts on its atoms, the frame has velocities at the time of the positions;
    with other forces or constraints it has OpenMM's, and ``velocity_offset`` in the run's settings is
    -0.5 (steps) instead of 0. The temperature is that of the frame's velocities.

    With multiple time steps a step is one of the integrator, an outer step, and its frame has both
    forces and U. Where the model's force is the only one and the integrator is VerletIntegrator or
    MTSIntegrator, the frame's ``extra`` holds the total energy as "conserved_energy", eV.

    A System with several monitored regions takes ``hooks={monitor: [...], other: [...]}``: each region
    has its own frames, U and file, and the run ends for all when a hook of one stops it.

    Further calls with the same hooks are legs of one run (`md_hooks.legs`): they continue its file and
    its count of steps, also in another Simulation of the same atoms. The first configuration of a leg is
    the last frame, and makes no further one; if atoms or cell were changed, it is a step of its own.

    Ctrl-C and SIGTERM end the run after the current step; a second signal ends it within the step.
    For other ways of stepping see `forcedelta.openmm.ForceDeltaReporter`.

    Args:
        simulation: an `openmm.app.Simulation` with positions, of a System to which
            `forcedelta.openmm.add_force_delta` added its force.
        steps: number of steps.
        hooks: see `md_hooks.HookChain`; or a mapping of monitors to their hooks.
        info: about the run; missing entries are filled in.
        restart: a file written by `md_hooks.Recorder` in such a run or under a reporter, or its
            checkpoint: the simulation continues from the state of that step, and the first frame is
            that of the next step. For several regions a mapping with a file for each; if a killed
            process left checkpoints of different steps, all continue from the earliest.
        after_stop: go on with hooks that have stopped the run.
        raise_on_stop: raise if a hook or a signal ends the run, to end the loop of its caller.

    Returns:
        why and at which step the run ended; for several regions a dict with the result of each.

    Raises:
        ForceDeltaError: the System has no monitored force, or several and ``hooks`` is no
            mapping; the integrator does not fit its multiple time steps, or the checkpoint does not
            match.
        RunStoppedError: the hooks have stopped the run before; with ``raise_on_stop`` also at the stop
            itself, with its ``result``.
        Exception: errors of the model or of a hook, unchanged, after the hooks were closed; a note
            on the exception names the step.
    """
    info = RunInfo() if info is None else info
    info = replace(info, after_stop=after_stop or info.after_stop)
    if not isinstance(hooks, Mapping):
        if isinstance(restart, Mapping):
            raise ForceDeltaError("restart is a mapping, but hooks is not: pass one file")
        checkpoint = None if restart is None else checkpoint_of(restart)
        result = run_steps(simulation, steps, chain_of(hooks), info, checkpoint)
        if raise_on_stop:
            _raise_if_ended([result])
        return result
    if restart is not None and not isinstance(restart, Mapping):
        raise ForceDeltaError(
            "hooks is a mapping: pass restart={monitor: file} for each monitor too"
        )
    chains = {monitor: chain_of(given) for monitor, given in hooks.items()}
    checkpoints = {monitor: checkpoint_of(given) for monitor, given in (restart or {}).items()}
    results = _run_regions(simulation, steps, chains, info, checkpoints)
    if raise_on_stop:
        _raise_if_ended(results.values())
    return results


def _raise_if_ended(results: Iterable[RunResult]) -> None:
    for result in results:
        if result.reason in ("stopped", "interrupted"):
            raise RunStoppedError(f"the run was {result.reason} ({result.message})", result)


def chain_of(hooks: Hooks) -> HookChain:
    """The hooks of a run as a chain."""
    return hooks if isinstance(hooks, HookChain) else HookChain(hooks)


def checkpoint_of(restart: Restart) -> Checkpoint:
    """The checkpoint to continue from."""
    return load_checkpoint(restart) if isinstance(restart, str | Path) else restart


def run_steps(
    simulation: Any,
    steps: int,
    chain: HookChain,
    info: RunInfo,
    checkpoint: Checkpoint | None,
    per_step: int = 1,
) -> RunResult:
    """`run` of a System with one monitor, with another count of steps.

    Args:
        simulation, chain, info, checkpoint: see `run`.
        steps: steps of the integrator.
        per_step: what a step of the integrator adds to the number of the frame.
    """
    monitor = find_monitor(simulation.system)
    checkpoints = {} if checkpoint is None else {monitor: checkpoint}
    return _run_regions(simulation, steps, {monitor: chain}, info, checkpoints, per_step)[monitor]


def _run_regions(
    simulation: Any,
    steps: int,
    chains: Mapping[Monitor, HookChain],
    info: RunInfo,
    checkpoints: Mapping[Monitor, Checkpoint],
    per_step: int = 1,
) -> dict[Monitor, RunResult]:
    _check_regions(simulation, chains, checkpoints)
    if checkpoints:
        info = resume(simulation.context, chains, checkpoints, info)
    if info.planned_steps is None:
        info = replace(info, planned_steps=steps * per_step)
    regions: list[Frames] = []

    def interrupt(why: str) -> None:
        for frames in regions:
            frames.session.interrupt(why)

    with end_after_the_step(interrupt), _closing(regions):
        for monitor, chain in chains.items():
            regions.append(Frames(simulation, monitor, chain, info, per_step))
        for frames in regions:
            frames.begin()
        for frames in regions:
            frames.catch_up()
        for _ in range(steps):
            if any(frames.session.over for frames in regions):
                break
            _step(simulation, regions)
            for frames in regions:
                frames.show()
    return {frames.monitor: frames.result for frames in regions}


def _check_regions(
    simulation: Any, chains: Mapping[Monitor, HookChain], checkpoints: Mapping[Monitor, Checkpoint]
) -> None:
    if not chains:
        raise ForceDeltaError("hooks is empty: pass {monitor: [...]} with at least one monitor")
    known = find_monitors(simulation.system)
    for monitor in chains:
        if not any(monitor is one for one in known):
            raise ForceDeltaError(
                f"hooks names {monitor!r}, which is no monitor of the simulation's System: pass those that "
                "add_force_delta returned for it"
            )
        monitor.check_integrator(simulation.system, simulation.integrator)
    if checkpoints and checkpoints.keys() != chains.keys():
        raise ForceDeltaError(
            f"restart has {len(checkpoints)} files for {len(chains)} monitors: pass the file of each "
            "monitor in hooks"
        )


def resume(
    context: openmm.Context,
    chains: Mapping[Monitor, HookChain],
    checkpoints: Mapping[Monitor, Checkpoint],
    info: RunInfo,
) -> RunInfo:
    """Put a context and hooks into the state of checkpoints, of which the earliest counts.

    Returns:
        ``info`` of a run that continues from there.

    Raises:
        ForceDeltaError: see `forcedelta.openmm.state.restore`.
    """
    latest_first = sorted(checkpoints.items(), key=lambda one: one[1].step, reverse=True)
    for monitor, checkpoint in latest_first:
        restore(context, monitor, checkpoint)
        chains[monitor].load_state_dict(checkpoint.hooks)
    earliest = latest_first[-1][1]
    return replace(info, restart_step=earliest.step, restart_time=earliest.time)


def _step(simulation: Any, regions: list[Frames]) -> None:
    """One step of the integrator, with the simulation's reporters."""
    step = regions[0].number
    for frames in regions:
        frames.begin_step()
    try:
        simulation.step(1)
    except openmm.OpenMMException as error:
        raise at_step(_model_error(regions) or error, step) from None
    except RunStoppedError:  # of a reporter, before the step
        for frames in regions:
            frames.end_step()
        raise
    failed = _model_error(regions)
    if failed is not None:
        raise at_step(failed, step)
    for frames in regions:
        frames.end_step()


def _model_error(regions: list[Frames]) -> BaseException | None:
    errors = [frames.monitor.take_error() for frames in regions]
    return next((error for error in errors if error is not None), None)


@contextmanager
def _closing(regions: list[Frames]) -> Iterator[None]:
    """Close the hooks of all regions at the end, also after an error."""
    try:
        yield
    except BaseException as error:
        for frames in regions:
            frames.close_after(error)
        if not isinstance(error, KeyboardInterrupt):
            raise
    else:
        _close(regions)


def _close(regions: list[Frames]) -> None:
    """Close all regions, even if closing one fails; then raise the first error."""
    stopped = [frames.session.reason for frames in regions if frames.session.stopped is not None]
    failed: list[Exception] = []
    for frames in regions:
        alone = not stopped or frames.session.stopped is not None
        ending = ("", "") if alone else ("stopped", f"with another region: {stopped[0]}")
        try:
            frames.close(*ending)
        except Exception as error:
            failed.append(error)
    if failed:
        raise failed[0]
