"""Hashes of weights, which identify a model in runs, calibrations and labels."""

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn


def hash_of(module: nn.Module, more: str = "") -> str:
    """16 hex digits of a SHA-256 over parameters and buffers, and over ``more``.

    Files are not hashed, as two files with the same weights may differ in the order of headers.
    """
    return hash_of_tensors(module.state_dict(), more)


def hash_of_tensors(tensors: Mapping[str, Tensor], more: str = "") -> str:
    """`hash_of` of weights outside a module."""
    digest = hashlib.sha256(more.encode())
    for key, value in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
