"""AllScAIP and EScAIP in float64, for which their code has no setting."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Float64Throughout(TorchFunctionMode):
    """Replaces float32 by float64 wherever code names it: ``x.float()``, ``x.to(torch.float32)``."""

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
    """Run code written for float32 in float64, including the default dtype.

    These networks create tensors of the default dtype and convert values between their blocks and
    heads to float32, so that fairchem's own calculator fails in float64. Here energies, forces and
    gradients are true float64: they agree with finite differences to the accuracy of float64.
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
    """Restore torch's choice of attention kernels, which these networks set at each call."""
    flash = torch.backends.cuda.flash_sdp_enabled()
    efficient = torch.backends.cuda.mem_efficient_sdp_enabled()
    try:
        yield
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)
        torch.backends.cuda.enable_mem_efficient_sdp(efficient)
