"""Consistency tuning of Orb networks with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from orb_networks import acetaldehyde, graph, rock_salt, small
from torch import nn

from forcedelta import ForceDelta
from forcedelta.models.tuned import Assembled, assemble
from forcedelta.tuning.loop import Target, loss_of, trained_parameters

pytestmark = pytest.mark.usefixtures("silent")


def tuned(kind: str, reach: str, steps: int = 5) -> tuple[Assembled, float, float]:
    """A small network after a few steps on one structure, and the loss before and after."""
    torch.manual_seed(0)
    assembled = assemble(reach, lambda: small(kind))
    arguments = graph(acetaldehyde(), assembled.model)
    target = Target(arguments, small(kind).module(*arguments)[1].detach())
    parameters = trained_parameters(assembled.part, assembled.energy, target)
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3)
    losses = []
    for _ in range(steps):
        quantity, loss = loss_of(
            assembled.energy, target, shared=reach == "shared", first_order_only=False
        )
        losses.append(float(loss))
        optimizer.zero_grad()
        quantity.backward()
        optimizer.step()
    assembled.model.module.requires_grad_(False)
    return assembled, losses[0], losses[-1]


@pytest.mark.parametrize("kind", ["v2", "v3", "omol"])
@pytest.mark.parametrize("reach", ["head", "energy"])
def test_the_energy_learns_and_the_direct_forces_stay(kind: str, reach: str) -> None:
    assembled, before, after = tuned(kind, reach)
    assert after < before
    for structure in (acetaldehyde(), rock_salt()):
        arguments = graph(structure, assembled.model)
        base = small(kind).module(*arguments)
        mine = assembled.model.module(*arguments)
        assert torch.equal(base[1], mine[1])
        assert float((base[0] - mine[0]).abs().max()) > 0
        assert len(base) == len(mine)


@pytest.mark.parametrize("reach", ["head", "energy"])
def test_conservative_forces_are_finite_differences(reach: str) -> None:
    assembled, *_ = tuned("v3", reach)
    arguments = graph(acetaldehyde(), assembled.model)
    forces = ForceDelta(assembled.model.module)(*arguments)["conservative_forces"]
    direction = torch.tensor(np.random.default_rng(0).normal(size=forces.shape))
    step = 1e-4
    energies = [
        assembled.model.module(arguments[0] + sign * step * direction, *arguments[1:])[0].sum()
        for sign in (1, -1)
    ]
    slope = float(energies[0] - energies[1]) / (2 * step)
    assert slope == pytest.approx(-float((forces * direction).sum()), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("kind", ["v3", "omol"])
@pytest.mark.parametrize("reach", ["head", "energy", "shared"])
def test_the_scripted_form_is_the_same(kind: str, reach: str) -> None:
    assembled, *_ = tuned(kind, reach, steps=2)
    assert assembled.model.script is not None
    module: nn.Module = assembled.model.script()
    for structure in (acetaldehyde(), rock_salt()):
        arguments = graph(structure, assembled.model)
        scripted = module(*arguments)
        eager = assembled.model.module(*arguments)
        for mine, theirs in zip(scripted, eager[:2], strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-7)
