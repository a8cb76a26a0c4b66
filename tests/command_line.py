"""Small untrained networks, and the program as a process of its own, for tests of commands."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from forcedelta.models.files import save_network
from forcedelta.models.network import DirectForceNetwork

# Ctrl-C is ignored by processes whose parent ignores it, as that of a script in the background does.
PROGRAM = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from forcedelta.cli import main; main()",
]


def untrained_network(
    path: Path, elements: list[int], periodic: bool | None, seed: int = 0
) -> Path:
    """Write a network with random weights: it is quick, and its two forces disagree."""
    torch.manual_seed(seed)
    network = DirectForceNetwork(elements, 4.0, features=8, channels=4, layers=1, radial=4)
    metadata = {
        "name": path.stem,
        "training_set": "none",
        "source": "random numbers",
        "level_of_theory": "none",
        "periodic": periodic,
        "regime": "untrained",
        "tests": {"direct MAE (meV/Å)": 1000},
        "licence": "MIT",
    }
    save_network(path, network, metadata)
    return path
