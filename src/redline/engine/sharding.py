"""What a model needs when FSDP2 shards it over processes: whole weights for a while, and the trained ones in
one piece.

Everything here does the right, plain thing for a model that is not sharded. All processes must call these
functions together.
"""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from redline.engine.processes import this_process
from redline.errors import UserError
from redline.types import JsonObject

if TYPE_CHECKING:
    from accelerate import Accelerator


def prepare(
    accelerator: "Accelerator", model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Any, Any]:
    """``accelerator.prepare``; under FSDP2 each decoder layer is sharded by itself, and what is around them
    together.

    Raises UserError for a way of distributing the weights that Redline's trainings cannot run with.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        from accelerate.utils import convert_outputs_to_fp32
        from torch.distributed.fsdp import MixedPrecisionPolicy
        from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

        if not accelerator.is_fsdp2:
            raise UserError(
                "FSDP version 1 is not supported. Set fsdp_version: 2 in Accelerate's configuration."
            )
        if plugin.cpu_ram_efficient_loading:
            raise UserError(
                "Every process needs the model's weights before they are sharded. Set "
                "fsdp_cpu_ram_efficient_loading: false in Accelerate's configuration."
            )
        names = {
            name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()
        }
        layers = {type(module) for module in model.modules() if type(module).__name__ in names}
        warnings.filterwarnings(
            "ignore", message="FSDP2-wrapped module .* returned a view"
        )  # nothing here writes into one
        plugin.auto_wrap_policy = transformer_auto_wrap_policy
        plugin.transformer_cls_names_to_wrap = sorted(layer.__name__ for layer in layers)
        if (
            accelerator.mixed_precision != "no"
        ):  # as under DDP: weights stay float32, and autocast computes with less
            plugin.mixed_precision_policy = MixedPrecisionPolicy()
            forward: Any = convert_outputs_to_fp32(accelerator.autocast()(model.forward))
            model.forward = forward
        _unshare(model, layers)
    if accelerator.distributed_type == "DEEPSPEED":
        raise UserError(
            "Reward models and PPO do not run under DeepSpeed. Use FSDP2 "
            "(recipes/accelerate/8-gpus-fsdp2.yaml), which shards the same; supervised fine-tuning does."
        )
    prepared, optimizer = accelerator.prepare(model, optimizer)
    return prepared, optimizer


def _unshare(model: nn.Module, layers: set[type[nn.Module]]) -> None:
    """Give each layer weights of its own: FSDP2 cannot shard one that two layers share, as a critic shares
    the policy's."""
    seen: set[int] = set()
    for layer in [module for module in model.modules() if type(module) in layers]:
        for module in layer.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) in seen:
                    module._parameters[name] = nn.Parameter(
                        parameter.detach().clone(), requires_grad=parameter.requires_grad
                    )
        seen |= {id(parameter) for parameter in layer.parameters()}


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, every process has the whole weights, so any part of the model runs, any number of times,
    without the others."""
    parts: list[Any] = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if parts:
        parts[
            0
        ]._get_fsdp_state()._lazy_init()  # else the first part that runs would take itself for the whole
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
        if parts:
            # Shards the weights again, and forgets the order of the passes. A backward pass gathers layers
            # ahead in that order. What ran here differs by process: they would gather different layers.
            parts[0].reset_iter_state()


def unfinished(accelerator: "Accelerator", model: nn.Module) -> AbstractContextManager[None]:
    """Around a pass whose gradients others follow in the same step: DDP's processes exchange them with the
    last. FSDP2's do at once, since each would hold all gradients whole until then."""
    return nullcontext() if accelerator.is_fsdp2 else accelerator.no_sync(model)


def assemble(accelerator: "Accelerator", model: nn.Module) -> None:
    """End a sharded training: in the main process the model has whole weights again, on the CPU, and can be
    merged and saved.

    (While FSDP2 has gathered weights, a state dict still gives the sharded ones.)
    """
    _shard_again(model)
    found: dict[int, nn.Parameter | None] = {}  # by the sharded one, so that tied weights stay tied
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and hasattr(parameter, "full_tensor"):
                if id(parameter) not in found:
                    one = whole(parameter.detach())
                    found[id(parameter)] = (
                        nn.Parameter(one.cpu(), requires_grad=parameter.requires_grad)
                        if accelerator.is_main_process
                        else None
                    )
                if accelerator.is_main_process:
                    module._parameters[name] = found[id(parameter)]


def clip_gradients(accelerator: "Accelerator", model: nn.Module, limit: float) -> float:
    """Clip the gradients of a model to a norm of ``limit``; returns the norm they had, over all processes."""
    norm: Any = accelerator.clip_grad_norm_(model.parameters(), limit)
    return float(whole(norm))


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, in one piece."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that are trained, by name, in one piece each, on the CPU; empty tensors but in the main
    process."""
    return {
        name: _to_main(parameter.detach())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def load_trained(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put back what ``trained_weights`` gave, whatever the number of processes was then. Raises KeyError for
    a missing one."""
    _shard_again(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(_like(weights[name], parameter))


def optimizer_state(optimizer: torch.optim.Optimizer) -> JsonObject:
    """An optimizer's state with its tensors in one piece, on the CPU; empty ones but in the main process."""
    state = optimizer.state_dict()
    return state | {
        "state": {
            index: {
                name: _to_main(value) if isinstance(value, Tensor) else value
                for name, value in values.items()
            }
            for index, values in state["state"].items()
        }
    }


def load_optimizer(optimizer: torch.optim.Optimizer, state: JsonObject) -> None:
    """Put back what ``optimizer_state`` gave, whatever the number of processes was then."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.load_state_dict(
        state
        | {
            "state": {
                index: {
                    name: _like(value, parameters[index])
                    if getattr(value, "shape", None) == parameters[index].shape
                    else value
                    for name, value in values.items()
                }
                for index, values in state["state"].items()
            }
        }
    )


def _to_main(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, in one piece on the CPU of the main process, which alone writes."""
    one = whole(tensor)
    return one.contiguous().cpu() if this_process().is_main_process else one.new_empty(0)


def _shard_again(model: nn.Module) -> None:
    """After a forward pass FSDP2 leaves what is around the layers gathered."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, sharded as a parameter is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(parameter.device)
    return (
        distribute_tensor(value, parameter.device_mesh, parameter.placements)
        if isinstance(parameter, DTensor)
        else value
    )
