"""LoRA's linear layer in one autograd function: PEFT's layer in everything but the cost.

PEFT keeps adapters in float32 (bfloat16 would swallow small updates) and so turns every input of a bfloat16 model into float32,
computes there, and keeps the float32 copies for the backward pass. Here the adapters stay float32 and the matrix products are
the model's own type, added into the base layer's output in place; all that is kept is the input and a vector of ``rank`` numbers.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft import LoraConfig


def fused(config: "LoraConfig") -> "LoraConfig":
    """The same LoRA configuration, its plain linear layers computed by ``FusedLinear``."""
    config._register_custom_module({nn.Linear: FusedLinear})
    return config


class FusedLinear(Linear):
    """PEFT's LoRA layer on a plain ``nn.Linear`` (see the module's docstring)."""

    def at_work(self) -> tuple[Tensor, Tensor, float] | None:
        """``A`` ``[rank, in]``, ``B`` ``[out, rank]`` and the scale of the one adapter at work; None where only PEFT knows."""
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
        base: Any = self.base_layer
        a, b, scale = adapter
        if torch.is_grad_enabled():
            return _Fused.apply(x, base.weight, base.bias, a, b, scale)
        return _add(base(x), x.reshape(-1, x.shape[-1]) @ a.to(x.dtype).t(), b, scale)


def _add(out: Tensor, low: Tensor, b: Tensor, scale: float) -> Tensor:
    """``out`` ``[..., out]`` plus, in place, ``scale low B'`` for ``low`` ``[N, rank]``."""
    out.view(-1, out.shape[-1]).addmm_(low, b.to(out.dtype).t(), alpha=scale)
    return out


class _Fused(torch.autograd.Function):
    """``x W' + b + scale (x A') B'``; gradients for ``x``, ``A`` and ``B``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        low = x.reshape(-1, x.shape[-1]) @ a.to(x.dtype).t()
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scale = scale
        return _add(F.linear(x, weight, bias), low, b, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, low, weight, a, b = ctx.saved_tensors
        up = gradients[0].reshape(-1, gradients[0].shape[-1])
        back = (up @ b.to(up.dtype)).mul_(ctx.scale)
        into = None
        if ctx.needs_input_grad[0]:
            into = (up @ weight).addmm_(back, a.to(up.dtype)).view(x.shape)
        for_a = (back.t() @ x.reshape(-1, x.shape[-1])).to(a.dtype)
        for_b = (up.t() @ low).to(b.dtype).mul_(ctx.scale)
        return into, None, None, for_a, for_b, None
