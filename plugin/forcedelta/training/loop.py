"""The training loop: AdamW, warm-up and cosine decay, moving average of the weights."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from forcedelta.force_delta import ForceDelta
from forcedelta.models.network import DirectForceNetwork
from forcedelta.training.data import Batch, collect


@dataclass(frozen=True)
class Settings:
    """Settings of training. The weights multiply losses in eV/atom (energy) and eV/Å (forces).

    ``direct_weight`` and ``gradient_weight`` multiply the mean length of F_nc - F_ref and of
    F_c - F_ref, ``consistency_weight`` that of F_nc - F_c, which needs no labels (`loss_of`).
    """

    epochs: int
    batch_size: int = 5
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warm_up: int = 200
    average: float = 0.999
    clip: float = 10.0
    energy_weight: float = 10.0
    direct_weight: float = 1.0
    gradient_weight: float = 1.0
    consistency_weight: float = 0.0
    seed: int = 0


def mean_norm(difference: Tensor) -> Tensor:
    """Mean length [] of vectors [N, 3]: the loss of forces, less sensitive to outliers than squares."""
    return torch.sqrt((difference * difference).sum(1) + 1e-10).mean()


def loss_of(force_delta: ForceDelta, batch: Batch, settings: Settings) -> Tensor:
    """Weighted loss [] of one batch, with M for the mean length over the atoms (`mean_norm`):

    ``energy_weight mean|E - E_ref|/N + direct_weight M(F_nc - F_ref)
    + gradient_weight M(F_c - F_ref) + consistency_weight M(F_nc - F_c)``

    The last term regularises both heads: it pulls the direct forces towards the gradient and the
    gradient towards the direct forces. The gradient of the energy is computed only if one of the
    last two terms is weighted.
    """
    loss = torch.zeros(())
    if settings.gradient_weight > 0 or settings.consistency_weight > 0:
        result = force_delta(
            batch.positions.clone().requires_grad_(True), *batch.graph[1:], create_graph=True
        )
        energy, direct = result["energy"], result["direct_forces"]
        conservative = result["conservative_forces"]
        if settings.gradient_weight > 0:
            loss = settings.gradient_weight * mean_norm(conservative - batch.forces)
        if settings.consistency_weight > 0:
            loss = loss + settings.consistency_weight * mean_norm(direct - conservative)
    else:
        energy, direct = force_delta.model(*batch.graph)
    atoms = torch.bincount(batch.batch)
    per_atom = ((energy - batch.energy) / atoms).to(torch.float32)
    loss = loss + settings.energy_weight * per_atom.abs().mean()
    return loss + settings.direct_weight * mean_norm(direct - batch.forces)


def shuffled(parts: list[Batch], size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Batches of ``size`` structures in random order; an incomplete last batch is dropped."""
    order = torch.randperm(len(parts), generator=generator).tolist()
    for first in range(0, len(parts) - size + 1, size):
        yield collect([parts[k] for k in order[first : first + size]])


def train(
    model: DirectForceNetwork,
    parts: list[Batch],
    settings: Settings,
    report: Callable[[int, float, float, DirectForceNetwork], None],
) -> DirectForceNetwork:
    """Trains ``model`` in place and returns the copy with averaged weights.

    ``report(epoch, loss, seconds, averaged)`` is called after every epoch.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    force_delta = ForceDelta(model)
    averaged = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    steps = settings.epochs * (len(parts) // settings.batch_size)

    def rate(step: int) -> float:
        return (
            min(1.0, (step + 1) / settings.warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
        )

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    weights: list[Tensor] = list(model.parameters())
    kept: list[Tensor] = list(averaged.parameters())
    step = 0
    for epoch in range(settings.epochs):
        start, total, count = time.perf_counter(), 0.0, 0
        for batch in shuffled(parts, settings.batch_size, generator):
            loss = loss_of(force_delta, batch, settings)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, settings.clip)
            optimizer.step()
            schedule.step()
            step += 1
            decay = min(settings.average, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(kept, weights, 1.0 - decay)
            total, count = total + loss.item(), count + 1
        report(epoch, total / count, time.perf_counter() - start, averaged)
    return averaged
