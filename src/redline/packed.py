"""Linear layers while a CPU samples: weights laid out beforehand the way the processor's bfloat16 kernels want them.

A step of decoding multiplies few rows by every weight of the model. PyTorch's linear layer lays each weight out anew each time,
which is a good part of the step. The same kernel takes weights that are laid out already, and gives the same.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def packed(model: nn.Module, rows: int) -> Iterator[None]:
    """Inside, the linear layers of a bfloat16 model on a CPU run on packed copies of their weights, made for about ``rows`` rows
    at a time. Only for passes without gradients; a change of the weights inside goes unnoticed."""
    layers = [module for module in model.modules() if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16
              and module.weight.device.type == "cpu"] if _can_pack() else []
    for layer in layers:
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
        layer.forward = functools.partial(_linear, weight, layer.bias)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the instance's: the class's is seen again


def _linear(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


@functools.cache
def _can_pack() -> bool:
    """Whether this PyTorch and this processor have the kernel (they are PyTorch's own, for compiled models), and it agrees."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    values = torch.arange(96 * 64.0).sin().to(torch.bfloat16)  # nothing random: trainings count on the generators' states
    weight, x = values.view(96, 64), values[: 16 * 64].view(16, 64)
    try:
        found = _linear(torch.ops.mkldnn._reorder_linear_weight(weight, 16), None, x)
    except RuntimeError:
        return False
    return torch.allclose(found, nn.functional.linear(x, weight))
