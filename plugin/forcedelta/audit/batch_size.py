"""Batch size of an audit, in atoms."""

import torch
from torch import nn


def batch_atoms(module: nn.Module, device: torch.device) -> int:
    """Number of atoms in a batch.

    A constant, so that batches follow the file alone and not the clock: an audit that was killed and
    continued has the same numbers, to the last bit, as one that was not. For the embedded networks
    256 atoms were the best or within 10 % of it on a CPU, from molecules of 3 atoms to crystals of
    64; large networks gain little from batches there, and a smaller one loses less to a kill.

    Args:
        module: the model.
        device: on which it runs.
    """
    if device.type != "cpu":
        return 2048
    weights = sum(parameter.numel() for parameter in module.parameters())
    return 256 if weights < 1_000_000 else 64
