"""The exact state of an ASE dynamics, for restarts that equal no restart.

Positions, momenta and cell are taken from the atoms bit by bit. Of the dynamics itself every
number and every numerical array is taken, and the same of the objects of `ase.md` that it owns
(thermostats, barostats), so that a temperature ramp, a Nosé-Hoover chain or a half-finished
acceleration all come back; and the state of its random numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from .errors import HookError
from .h5md.checkpoint import Checkpoint

_NOT_STATE = frozenset({"max_steps"})


def atoms_of(dynamics: Any) -> Atoms:
    """The atoms of a dynamics, also where it works on a filter around them; the first image of a band.

    Raises:
        HookError: it moves no structure.
    """
    moved = getattr(dynamics, "atoms", None)
    if moved is None or not hasattr(dynamics, "attach"):
        raise HookError(
            f"{type(dynamics).__name__} is no dynamics or optimiser of ASE that hooks can be attached to: "
            "attach them to what it runs"
        )
    while not isinstance(moved, Atoms):
        if len(getattr(moved, "images", ())):
            return moved.images[0]
        if not hasattr(moved, "atoms"):
            raise HookError(
                f"{type(dynamics).__name__} moves a {type(moved).__name__}, which holds no atoms "
                "that hooks could watch: give a dynamics of one structure"
            )
        moved = moved.atoms
    return moved


def capture(dynamics: Any) -> dict[str, Any]:
    """The state of a dynamics between two steps, as a dict of JSON values and arrays."""
    atoms, images = atoms_of(dynamics), _images_of(dynamics)
    return {
        "class": type(dynamics).__name__,
        "positions": atoms.positions.copy(),
        "momenta": atoms.get_momenta(),
        "cell": np.array(atoms.cell),
        "dynamics": _numbers(dynamics),
        "random": _random_state(getattr(dynamics, "rng", None)),
        **({} if images is None else {"images": np.array([image.positions for image in images])}),
    }


def _images_of(dynamics: Any) -> list[Atoms] | None:
    """The images of the band that a dynamics moves; None if it moves one structure."""
    images = getattr(dynamics.atoms, "images", None)
    return None if images is None else list(images)


def restore(dynamics: Any, checkpoint: Checkpoint) -> None:
    """Put a dynamics and its atoms into the state of a checkpoint.

    Args:
        dynamics: made for the same system, with the same class and settings as in the run that
            wrote the checkpoint.
        checkpoint: from `md_hooks.load_checkpoint`.

    Raises:
        HookError: the checkpoint belongs to another class of dynamics or number of atoms.
    """
    state = checkpoint.state
    atoms = atoms_of(dynamics)
    written = state.get("class")
    if written is None:
        engine = (
            "OpenMM" if state.get("engine") == "openmm" else "another engine than ASE, or an audit"
        )
        raise HookError(f"the checkpoint was written by {engine}: continue with what wrote it")
    if written != type(dynamics).__name__:
        raise HookError(
            f"the checkpoint was written by {written} and this run uses {type(dynamics).__name__}: use "
            f"{written} to continue"
        )
    if len(state.get("positions", ())) != len(atoms):
        raise HookError(
            f"the checkpoint has {len(state.get('positions', ()))} atoms and the run {len(atoms)}: "
            "continue with the same structure"
        )
    images = _images_of(dynamics)
    if (images is None) != ("images" not in state) or len(images or ()) != len(
        state.get("images", ())
    ):
        raise HookError(
            f"the checkpoint has {len(state.get('images', ())) or 'no'} images of a band and this run "
            f"{len(images or ()) or 'none'}: continue with the same number of images"
        )
    try:
        for image, positions in zip(images or (), state.get("images", ()), strict=True):
            image.positions[:] = positions
        atoms.set_cell(state["cell"])
        atoms.positions[:] = state["positions"]
        atoms.set_momenta(state["momenta"], apply_constraint=False)
        _set_numbers(dynamics, state["dynamics"])
        _set_random_state(getattr(dynamics, "rng", None), state["random"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise HookError(
            f"the checkpoint does not hold the state of a {type(dynamics).__name__} ({error!r}): it "
            "was written by another version or is damaged; begin the run anew"
        ) from error


def _owned(value: Any) -> bool:
    return type(value).__module__.startswith("ase.md") and hasattr(value, "__dict__")


def _numbers(thing: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in vars(thing).items():
        if name in _NOT_STATE:
            continue
        if isinstance(value, bool | int | float | np.number):
            found[name] = value
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            found[name] = value.copy()
        elif _owned(value):
            found[name] = _numbers(value)
    return found


def _set_numbers(thing: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        if isinstance(value, dict):
            _set_numbers(getattr(thing, name), value)
        else:
            setattr(thing, name, value)


def _random_state(rng: Any) -> Any:
    if isinstance(rng, np.random.Generator):
        return rng.bit_generator.state
    if isinstance(rng, np.random.RandomState):
        return rng.get_state(legacy=False)
    if rng is np.random:  # ASE's default: numpy's global generator
        return np.random.get_state(legacy=False)  # noqa: NPY002
    return None


def _set_random_state(rng: Any, state: Any) -> None:
    if state is None:
        return
    if isinstance(rng, np.random.Generator):
        rng.bit_generator.state = state
    elif isinstance(rng, np.random.RandomState):
        rng.set_state(state)
    elif rng is np.random:
        np.random.set_state(state)  # noqa: NPY002
