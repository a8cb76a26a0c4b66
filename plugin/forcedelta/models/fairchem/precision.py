"""AllScAIP and EScAIP in float64, for which their code has no setting."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Float64Throughout(TorchFunctionMode):
    """Reads float32 as float64 wherever code names it: ``x.float()``, ``x.to(torch.float32)``."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Runs code that was written for float32 in float64, the default dtype included.

    These networks make tensors of the default dtype and convert what lies between their blocks and
    heads to float32, so that fairchem's own calculator raises in float64. Energies, forces and
    gradients are true float64 in here: they agree with finite differences to what float64 allows.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64Throughout():
            yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def attention_kept() -> Iterator[None]:
    """Puts back which kernels of attention torch may use; these networks set it at each call."""
    flash = torch.backends.cuda.flash_sdp_enabled()
    efficient = torch.backends.cuda.mem_efficient_sdp_enabled()
    try:
        yield
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)
        torch.backends.cuda.enable_mem_efficient_sdp(efficient)
