"""LoRA's linear layers in one autograd function: PEFT's layer in everything but the cost.

PEFT keeps adapters in float32 (bfloat16 would swallow small updates) and so turns every input of a bfloat16
model into float32, computes there, and keeps the float32 copies for the backward pass. Here the adapters stay
float32 and the matrix products are the model's own type, added into the base layer's output in place; all
that is kept is the input and a vector of ``rank`` numbers. Layers that read the same input share the products
with their A matrices and add up its gradient in place.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from safetensors import safe_open
from torch import Tensor, nn

from redline.engine.siblings import Together, siblings
from redline.engine.switch import plain
from redline.types import Network

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


def fused(config: "LoraConfig") -> "LoraConfig":
    """The same LoRA configuration, its plain linear layers computed by ``FusedLinear``."""
    if plain():
        return config
    config._register_custom_module({nn.Linear: FusedLinear})
    return config


@torch.no_grad()
def put_weights(wrapped: nn.Module, folder: Path) -> None:
    """Put the weights of an adapter's folder into the adapter of the same names in a model. PEFT has put them
    there already, but for a family whose checkpoints name modules otherwise it renames them, some to names
    that no module has."""
    own = {
        path.replace(".default.", "."): parameter
        for path, parameter in wrapped.named_parameters()
        if "lora_" in path
    }
    with safe_open(str(folder / "adapter_model.safetensors"), "pt") as file:
        names = set(file.keys())
        for path, parameter in own.items():
            key = path if path in names else f"base_model.model.{path}"
            if key in names:
                parameter.copy_(file.get_tensor(key))


def joined(model: "PeftModel") -> "PeftModel":
    """The same model, in which passes with gradients compute the fused layers of one input together."""
    for parent in model.modules():
        for layers in siblings(
            {name: child for name, child in parent.named_children() if isinstance(child, FusedLinear)}
        ):
            together = Together(functools.partial(_outputs, layers))
            for place, layer in enumerate(layers):
                layer.together = functools.partial(together, place)
    return model


class FusedLinear(Linear):
    """PEFT's LoRA layer on a plain ``nn.Linear`` (see the module's docstring)."""

    together: Any = None  # gives the layer's output where it is computed with its siblings'

    def at_work(self) -> tuple[Tensor, Tensor, float] | None:
        """``A`` ``[rank, in]``, ``B`` ``[out, rank]`` and the scale of the one adapter at work; None where
        only PEFT knows."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name = self.active_adapters[0]
        a: Any = self.lora_A[name].weight
        b: Any = self.lora_B[name].weight
        return a, b, self.scaling[name]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``x`` ``[..., in]`` -> ``[..., out]``."""
        adapter = self.at_work()
        if adapter is None or torch.is_autocast_enabled(x.device.type):
            return super().forward(x, *args, **kwargs)
        if torch.is_grad_enabled():
            found: Tensor = self.together(x) if self.together else _outputs([self], x)[0]
            return found
        base: Network = self.base_layer
        a, b, scale = adapter
        return _add(base(x), x.reshape(-1, x.shape[-1]) @ a.to(x.dtype).t(), b.to(x.dtype), scale)


def _outputs(layers: Sequence[FusedLinear], x: Tensor) -> Sequence[Tensor]:
    """What some layers make of one input ``[..., in]``: ``[..., out]`` each."""
    adapters = [adapter for layer in layers if (adapter := layer.at_work()) is not None]
    if len(adapters) < len(layers):  # some are switched off alone: no matter of speed
        return [Linear.forward(layer, x) for layer in layers]
    bases: list[Any] = [layer.base_layer for layer in layers]
    a, b, scales = zip(*adapters, strict=True)
    found: tuple[Tensor, ...] = _Fused.apply(
        x, scales, [base.bias for base in bases], *[base.weight for base in bases], *a, *b
    )
    return found


def _add(out: Tensor, low: Tensor, b: Tensor, scale: float) -> Tensor:
    """``out`` ``[..., out]`` plus, in place, ``scale low B'`` for ``low`` ``[N, rank]``."""
    out.view(-1, out.shape[-1]).addmm_(low, b.t(), alpha=scale)
    return out


class _Fused(torch.autograd.Function):
    """``x W' + b + scale (x A') B'`` of one or more layers; gradients for ``x``, each ``A`` and each
    ``B``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scales: Sequence[float], biases: Sequence[Tensor | None], *tensors: Tensor
    ) -> Any:
        count = len(scales)
        weights, parts, bs = (
            tensors[:count],
            tensors[count : 2 * count],
            [b.to(x.dtype) for b in tensors[2 * count :]],
        )
        a = torch.cat(parts).to(x.dtype)
        low = x.reshape(-1, x.shape[-1]) @ a.t()
        ctx.save_for_backward(x, low, a, *weights, *bs)
        ctx.scales, ctx.ranks, ctx.dtype = scales, [part.shape[0] for part in parts], parts[0].dtype
        return tuple(
            _add(F.linear(x, weight, bias), own, b, scale)
            for weight, bias, own, b, scale in zip(
                weights, biases, low.split(ctx.ranks, 1), bs, scales, strict=True
            )
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        count = len(ctx.scales)
        x, low, a, *tensors = ctx.saved_tensors
        weights, bs, flat = tensors[:count], tensors[count:], x.reshape(-1, x.shape[-1])
        ups = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        back = torch.cat([(up @ b).mul_(scale) for up, b, scale in zip(ups, bs, ctx.scales, strict=True)], 1)
        into = None
        if ctx.needs_input_grad[0]:
            into = ups[0] @ weights[0]
            for up, weight in zip(ups[1:], weights[1:], strict=True):
                into.addmm_(up, weight)
            into = into.addmm_(back, a).view(x.shape)
        for_a = [part.to(ctx.dtype) for part in (back.t() @ flat).split(ctx.ranks)]
        for_b = [
            (up.t() @ own).to(ctx.dtype).mul_(scale)
            for up, own, scale in zip(ups, low.split(ctx.ranks, 1), ctx.scales, strict=True)
        ]
        return into, None, None, *[None] * count, *for_a, *for_b
