"""Linear layers while a CPU samples: weights laid out beforehand the way the processor's bfloat16 kernels
want them.

A step of decoding multiplies few rows by every weight of the model. PyTorch's linear layer lays each weight
out anew each time, which is a good part of the step. The same kernel takes weights that are laid out already,
and gives the same. Layers that read the same input are one product. LoRA's adapters are turned into the
model's type and packed once, too, but not merged: merged weights would be rounded, and be another policy.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from redline.engine.adapters import FusedLinear
from redline.engine.siblings import Together, siblings
from redline.engine.switch import plain
from redline.types import Network


@contextmanager
def packed(model: nn.Module, rows: int) -> Iterator[None]:
    """Inside, the linear layers of a bfloat16 model on a CPU run on packed copies of their weights, made for
    about ``rows`` rows at a time. Only for passes without gradients; a change of the weights inside goes
    unnoticed."""
    groups = list(_groups(model)) if _can_pack() and not plain() else []
    for layers in groups:
        product = Together(_Product(layers, rows))
        for place, layer in enumerate(layers):
            layer.forward = functools.partial(product, place)
    try:
        yield
    finally:
        for layers in groups:
            for layer in layers:
                del layer.forward  # the instance's: the class's is seen again


def _groups(model: nn.Module) -> Iterator[list[Any]]:
    """The layers that can be packed, those of one input together."""
    for parent in model.modules():
        if isinstance(parent, FusedLinear) and parent.at_work() is not None:
            continue  # packed as a whole, as its parent's child
        yield from siblings({name: child for name, child in parent.named_children() if _can_be_packed(child)})


def _can_be_packed(layer: nn.Module) -> bool:
    if isinstance(layer, FusedLinear):
        return layer.at_work() is not None and _can_be_packed(layer.base_layer)
    return (
        type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.bfloat16
    )


class _Product:
    """The outputs of some layers for one input, by one product."""

    def __init__(self, layers: Sequence[Any], rows: int):
        plain: list[Any] = [layer.base_layer if isinstance(layer, FusedLinear) else layer for layer in layers]
        self.sizes = [layer.out_features for layer in plain]
        self.weight = _pack([layer.weight for layer in plain], rows)
        biases = [
            layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
            for layer in plain
        ]
        self.bias = torch.cat(biases).detach() if any(layer.bias is not None for layer in plain) else None
        self.adapter: tuple[Tensor, Tensor] | None = None
        if any(isinstance(layer, FusedLinear) for layer in layers):
            thin = [_adapter(layer) for layer in layers]
            self.adapter = (
                _pack([a for a, _ in thin], rows),
                _pack([torch.block_diag(*(b for _, b in thin))], rows),
            )

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """The outputs ``[..., out]`` of all layers for ``x`` ``[..., in]``."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        if self.adapter is not None:
            a, b = self.adapter
            low = torch.ops.mkldnn._linear_pointwise(x, a, None, "none", [], "")
            found = torch.ops.mkldnn._linear_pointwise.binary(low, found, b, None, "add")
        return found.split_with_sizes(self.sizes, -1)


def _adapter(layer: Network) -> tuple[Tensor, Tensor]:
    """``A`` ``[rank, in]`` and the scaled ``B`` ``[out, rank]`` of a layer, of rank 0 where it has none."""
    if isinstance(layer, FusedLinear) and (found := layer.at_work()) is not None:
        a, b, scale = found
        return a.detach(), scale * b.detach()
    return torch.zeros(0, layer.in_features), torch.zeros(layer.out_features, 0)


def _pack(weights: Sequence[Tensor], rows: int) -> Tensor:
    """Weights ``[out, in]``, one below the other."""
    parts = [weight.detach().to(torch.bfloat16) for weight in weights]
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(
        torch.cat(parts) if len(parts) > 1 else parts[0], rows
    )
    return found


@functools.cache
def _can_pack() -> bool:
    """Whether this PyTorch and this processor have the kernel (they are PyTorch's own, for compiled models),
    and it agrees."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    values = (
        torch.arange(96 * 64.0).sin().to(torch.bfloat16)
    )  # nothing random: trainings count on the generators' states
    weight, x = values.view(96, 64), values[: 16 * 64].view(16, 64)
    try:
        found = torch.ops.mkldnn._linear_pointwise(x, _pack([weight], 16), None, "none", [], "")
    except RuntimeError:
        return False
    return torch.allclose(found, nn.functional.linear(x, weight))
