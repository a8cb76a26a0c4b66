"""PyTorch's settings for the whole process, which a model must leave as it found them."""

import random
from typing import Any

import numpy as np
import torch


def torch_state() -> dict[str, Any]:
    """Settings by name, and the states of the random number generators, as values to compare."""
    state: dict[str, Any] = {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "inter-op threads": torch.get_num_interop_threads(),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic warnings": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cuDNN deterministic": torch.backends.cudnn.deterministic,
        "cuDNN benchmark": torch.backends.cudnn.benchmark,
        "TF32 in matmul": torch.backends.cuda.matmul.allow_tf32,
        "TF32 in cuDNN": torch.backends.cudnn.allow_tf32,
        "random numbers of torch": bytes(torch.get_rng_state().numpy()),
        "random numbers of numpy": repr(np.random.get_state()),  # noqa: NPY002
        "random numbers of Python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["random numbers of CUDA"] = [bytes(s.numpy()) for s in torch.cuda.get_rng_state_all()]
    return state


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the settings that differ, with the values of those that are short."""
    names = []
    for name, old in before.items():
        new = after[name]
        if old != new:
            long = name.startswith("random")
            names.append(name if long else f"{name} ({old} -> {new})")
    return names
