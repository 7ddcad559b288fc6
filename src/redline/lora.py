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

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``x`` ``[..., in]`` -> ``[..., out]``."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1 or torch.is_autocast_enabled(x.device.type):
            return super().forward(x, *args, **kwargs)
        name = self.active_adapters[0]
        base = self.base_layer
        inputs = x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        return _Fused.apply(*inputs) if torch.is_grad_enabled() else _adapted(*inputs)[0]


def _adapted(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    rows = x.reshape(-1, x.shape[-1])
    low = rows @ a.to(x.dtype).t()
    out = F.linear(rows, weight, bias).addmm_(low, b.to(x.dtype).t(), alpha=scale)
    return out.view(*x.shape[:-1], out.shape[-1]), low


class _Fused(torch.autograd.Function):
    """``x W' + b + scale (x A') B'``; gradients for ``x``, ``A`` and ``B``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        out, low = _adapted(x, weight, bias, a, b, scale)
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scale = scale
        return out

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
