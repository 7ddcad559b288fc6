"""Linear layers while a CPU samples: weights laid out beforehand the way the processor's bfloat16 kernels want them.

A step of decoding multiplies few rows by every weight of the model. PyTorch's linear layer lays each weight out anew each time,
which is a good part of the step. The same kernel takes weights that are laid out already, and gives the same. LoRA's adapters are
turned into the model's type and packed once, too, but not merged: merged weights would be rounded, and be another policy.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from redline.lora import FusedLinear


@contextmanager
def packed(model: nn.Module, rows: int) -> Iterator[None]:
    """Inside, the linear layers of a bfloat16 model on a CPU run on packed copies of their weights, made for about ``rows`` rows
    at a time. Only for passes without gradients; a change of the weights inside goes unnoticed."""
    layers: list[Any] = [module for module in model.modules() if type(module) is nn.Linear and module.weight.device.type == "cpu"
                         and module.weight.dtype == torch.bfloat16] if _can_pack() else []
    adapted: list[Any] = [module for module in model.modules() if isinstance(module, FusedLinear) and module.base_layer in layers]
    for layer in layers:
        layer.forward = functools.partial(_linear, _pack(layer.weight, rows), layer.bias)
    for layer in adapted:
        if (adapter := layer.at_work()) is not None:
            a, b, scale = adapter
            layer.forward = functools.partial(_adapted, layer.base_layer.forward, _pack(a, rows), _pack(scale * b, rows))
            layers.append(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the instance's: the class's is seen again


def _pack(weight: Tensor, rows: int) -> Tensor:
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(torch.bfloat16), rows)
    return found


def _adapted(base: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """The base layer's output and ``x A' B'``, with packed ``A`` and (scaled) ``B``."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(_linear(a, None, x), base(x), b, None, "add")
    return found


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
