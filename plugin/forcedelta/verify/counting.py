"""How often an evaluation runs a model forward and backward."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ase import Atoms
from torch import Tensor, nn

from forcedelta.verify.probe import Probe

MOST = 0.5
"""A part with this share of the parameters is the network, whatever it is called."""


@dataclass(frozen=True)
class Count:
    """Passes of one evaluation of U.

    Attributes:
        forwards: calls of the module.
        backwards: gradients that arrive at its energy.
        repeated: names of parts with most of the parameters that were called more than once, as
            an adapter does that asks its network first for energies and then for forces.
    """

    forwards: int
    backwards: int
    repeated: tuple[str, ...]


def count_passes(probe: Probe, atoms: Atoms) -> Count:
    """Counts the passes of one evaluation, by hooks on the module and on its energy.

    TorchScript calls its own parts without Python, where hooks see nothing: `repeated` is then
    empty.
    """
    module = probe.model.module
    graph = probe.graph(atoms)
    calls: Counter[str] = Counter()

    def seen(name: str) -> Any:
        def hook(child: nn.Module, arguments: Any, output: Any) -> None:
            calls[name] += 1

        return hook

    def arrived(gradient: Tensor) -> None:
        calls["backward"] += 1

    def outer(child: nn.Module, arguments: Any, output: Any) -> None:
        calls["forward"] += 1
        if output[0].requires_grad:
            output[0].register_hook(arrived)

    whole = sum(parameter.numel() for parameter in module.parameters())
    handles = [module.register_forward_hook(outer)]
    for name, child in module.named_modules():
        inside = sum(parameter.numel() for parameter in child.parameters())
        if name and inside > MOST * whole:
            handles.append(child.register_forward_hook(seen(f"part {name}")))
    try:
        probe.evaluate_graph(graph)
    finally:
        for handle in handles:
            handle.remove()
    repeated = tuple(n.removeprefix("part ") for n, k in calls.items() if n[0] == "p" and k > 1)
    return Count(calls["forward"], calls["backward"], repeated)
