"""The loop: Adam on the mean length of F_c - F_nc, until the held-out frames stop improving."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from forcedelta.errors import ForceDeltaError
from forcedelta.graph import Graph
from md_hooks.replacing import replacing

STEP = 2e-4
"""Å, the largest displacement of an atom in the finite difference of `surrogate`. Of `acac-direct` in float32 the
gradient is then within 0.03 %; 0.01 Å is too long (10 %), and below 3e-5 Å rounding takes over."""


@dataclass(frozen=True)
class TuningSettings:
    """Settings of the loop.

    Attributes:
        epochs: at most so many passes over the training frames.
        batch_size: frames per step.
        learning_rate: largest one, of Adam.
        patience: the loop ends after so many epochs without improvement on the held-out frames.
        average: decay of the moving average of the weights, which is what is kept.
        warm_up: steps until the largest learning rate, at most a tenth of all steps.
        clip: largest norm of a gradient.
        seed: of the order of the frames and of the weights of a new head.
    """

    epochs: int = 20
    batch_size: int = 5
    learning_rate: float = 1e-3
    patience: int = 10
    average: float = 0.995
    warm_up: int = 50
    clip: float = 10.0
    seed: int = 0


@dataclass(frozen=True)
class Target:
    """A frame: the model's arguments, and the direct forces [N, 3] eV/Å of the base model."""

    graph: Graph
    forces: Tensor


def collate(parts: Sequence[Target]) -> Target:
    """Frames side by side, with atoms and structures renumbered."""
    columns = [list(column) for column in zip(*(part.graph for part in parts), strict=True)]
    atoms = structures = 0
    for k, part in enumerate(parts):
        columns[3][k] = columns[3][k] + atoms
        columns[5][k] = columns[5][k] + structures
        atoms += len(part.graph[0])
        structures += len(part.graph[2])
    graph = tuple(torch.cat(column, int(k == 3)) for k, column in enumerate(columns))
    return Target(graph, torch.cat([part.forces for part in parts]))


def mean_length(difference: Tensor) -> Tensor:
    """Mean length [] of vectors [N, 3], less sensitive to outliers than squares."""
    return torch.sqrt((difference * difference).sum(1) + 1e-10).mean()


def surrogate(
    energy_of: Callable[..., tuple[Tensor, ...]], target: Target
) -> tuple[Tensor, Tensor]:
    """A quantity [] with the gradient of ``mean_length(F_c - F_nc)``, and that loss [] itself.

    With v the derivative of the loss L with respect to F_c, dL/dtheta = -v . d/dtheta dE/dr, a
    directional derivative of dE/dtheta:

    ``dL/dtheta = -( dE/dtheta(r + h v) - dE/dtheta(r - h v) ) / 2h``

    for models with first derivatives only. h moves no atom by more than `STEP`.
    """
    positions = target.graph[0].clone().requires_grad_(True)
    energy = energy_of(positions, *target.graph[1:])[0].sum()
    (gradient,) = torch.autograd.grad(energy, positions)
    conservative = (-gradient).detach().requires_grad_(True)
    loss = mean_length(conservative - target.forces)
    (direction,) = torch.autograd.grad(loss, conservative)
    h = STEP / max(float(direction.norm(dim=1).max()), 1e-30)
    energies = [
        energy_of(target.graph[0] + sign * h * direction, *target.graph[1:])[0].sum()
        for sign in (1.0, -1.0)
    ]
    return (energies[1] - energies[0]) / (2.0 * h), loss.detach()


def loss_of(
    module: nn.Module, target: Target, *, shared: bool, first_order_only: bool
) -> tuple[Tensor, Tensor]:
    """A quantity [] to differentiate, and the loss [] in eV/Å.

    ``L = M(F_c - F_nc,base)``, with M the mean length over the atoms. With the reach ``shared`` the
    direct forces change, and are held close to those of the base:
    ``L = M(F_c - F_nc) + M(F_nc - F_nc,base)``.
    """
    if first_order_only:
        return surrogate(module, target)
    positions = target.graph[0].clone().requires_grad_(True)
    energy, direct, *_ = module(positions, *target.graph[1:])
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    if shared:
        loss = mean_length(gradient + direct) + mean_length(direct - target.forces)
    else:
        loss = mean_length(gradient + target.forces)
    return loss, loss.detach()


def trained_parameters(part: nn.Module, module: nn.Module, target: Target) -> dict[str, Tensor]:
    """The parameters of a part that the energy of a frame depends on, by name; all others are frozen.

    Raises:
        ForceDeltaError: there are none.
    """
    part.requires_grad_(True)
    named = dict(part.named_parameters())
    energy = module(*target.graph)[0].sum()
    found: Sequence[Tensor | None] = [None] * len(named)
    if energy.requires_grad:
        found = torch.autograd.grad(energy, list(named.values()), allow_unused=True)
    part.requires_grad_(False)
    chosen = {
        name: parameter.requires_grad_(True)
        for (name, parameter), gradient in zip(named.items(), found, strict=True)
        if gradient is not None
    }
    if not chosen:
        raise ForceDeltaError(
            "the energy of the model does not depend on parameters that torch can train: choose "
            "another model"
        )
    return chosen


@dataclass(frozen=True)
class Epoch:
    """Progress: the epoch from 1, mean loss and U of the held-out frames (eV/Å), and whether it is the best."""

    number: int
    loss: float
    held_out: float
    best: bool

    @property
    def line(self) -> str:
        """The epoch in words."""
        best = "  best so far" if self.best else ""
        return (
            f"epoch {self.number}: loss {self.loss:.4f}, U of held-out frames {self.held_out:.4f} "
            f"eV/Å{best}"
        )


class Loop:
    """Trains parameters; continues from its checkpoint as if it had not been interrupted.

    Args:
        parameters: by name.
        settings: of the loop.
        checkpoint: file that is written after every epoch.
        identity: JSON-able description of model and frames, which must be the same to continue.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        settings: TuningSettings,
        checkpoint: Path,
        identity: dict[str, Any],
    ) -> None:
        self.parameters, self.settings, self.checkpoint = parameters, settings, checkpoint
        text = json.dumps([asdict(settings), identity], sort_keys=True)
        self._identity = hashlib.sha256(text.encode()).hexdigest()
        self._weights: list[Tensor] = list(parameters.values())
        self._optimizer = torch.optim.Adam(self._weights, lr=settings.learning_rate, fused=True)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._average = [weight.detach().clone() for weight in self._weights]
        self._best = [weight.detach().clone() for weight in self._weights]
        self.best_held_out, self.best_epoch = math.inf, 0
        self.epoch = self._step = 0

    def restore(self) -> None:
        """Continue from the checkpoint.

        Raises:
            ForceDeltaError: it is damaged, or belongs to another model, other frames or settings.
        """
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            same = state["identity"] == self._identity
        except Exception as error:  # zip, pickle and torch have no common base
            raise ForceDeltaError(
                f"{self.checkpoint} is not a complete checkpoint: remove it, and start again"
            ) from error
        if not same:
            raise ForceDeltaError(
                f"{self.checkpoint} belongs to another model, other frames or other settings: give the "
                "same ones, or remove it"
            )
        with torch.no_grad():
            for name in ("weights", "average", "best"):
                kept = getattr(self, f"_{name}")
                for mine, stored in zip(kept, state[name], strict=True):
                    mine.copy_(stored)
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self.epoch, self._step = state["epoch"], state["step"]
        self.best_held_out, self.best_epoch = state["best_held_out"], state["best_epoch"]

    def _save(self) -> None:
        state = {
            "identity": self._identity,
            "weights": [weight.detach() for weight in self._weights],
            "average": self._average,
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "epoch": self.epoch,
            "step": self._step,
            "best_held_out": self.best_held_out,
            "best_epoch": self.best_epoch,
        }
        with replacing(self.checkpoint, error=ForceDeltaError) as file:
            torch.save(state, file)

    def run(
        self,
        loss: Callable[[Target], tuple[Tensor, Tensor]],
        frames: Sequence[Target],
        held_out: Callable[[], float],
        report: Callable[[Epoch], None],
    ) -> None:
        """Train to the end, and leave the best averaged weights in the parameters.

        Args:
            loss: see `loss_of`.
            frames: training frames.
            held_out: U of the held-out frames with the present weights, eV/Å.
            report: called after every epoch.
        """
        settings = self.settings
        if self.epoch == 0:
            self.best_held_out = held_out()
        size = min(settings.batch_size, len(frames))
        steps = settings.epochs * (len(frames) // size)
        while self.epoch < settings.epochs and not self.exhausted:
            order = torch.randperm(len(frames), generator=self._generator).tolist()
            total = 0.0
            batches = [order[k : k + size] for k in range(0, len(order) - size + 1, size)]
            for batch in batches:
                total += self._train(loss, collate([frames[k] for k in batch]), steps)
            self.epoch += 1
            found = self._with_average(held_out)
            better = found < self.best_held_out
            if better:
                self.best_held_out, self.best_epoch = found, self.epoch
                torch._foreach_copy_(self._best, self._average)
            self._save()
            report(Epoch(self.epoch, total / len(batches), found, better))
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._best)

    @property
    def exhausted(self) -> bool:
        """Whether the held-out frames have not improved for too long."""
        return self.epoch - self.best_epoch >= self.settings.patience

    def _train(
        self, loss: Callable[[Target], tuple[Tensor, Tensor]], batch: Target, steps: int
    ) -> float:
        settings = self.settings
        warm_up = max(1, min(settings.warm_up, steps // 10))
        rate = min(1.0, (self._step + 1) / warm_up)
        rate *= 0.5 * (1.0 + math.cos(math.pi * self._step / steps))
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        quantity, value = loss(batch)
        self._optimizer.zero_grad()
        quantity.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, settings.clip)
        self._optimizer.step()
        self._step += 1
        decay = min(settings.average, (1 + self._step) / (10 + self._step))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._weights, 1.0 - decay)
        return float(value)

    def _with_average(self, measure: Callable[[], float]) -> float:
        present = [weight.detach().clone() for weight in self._weights]
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._average)
        value = measure()
        with torch.no_grad():
            torch._foreach_copy_(self._weights, present)
        return value
