"""A training that begins from a policy which was trained before; the original stays the recipe's model."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from redline.engine.settings import ADAPTER
from redline.errors import UserError
from redline.policy.actor import ActorCritic

POLICY = "default"  # PEFT's name of the adapter that is trained
WEIGHTS = "adapter_model.safetensors"


@torch.no_grad()
def load_policy(actor: ActorCritic, folder: Path | str, strength: float = 1.0) -> None:
    """Put a finished policy's weights into an actor: training goes on from there, and the original stays what
    it is.

    ``strength`` is how far of the way from the original: 1 is the policy itself. With adapters, B is scaled.
    Raises UserError where the policy's weights are not those that the actor trains."""
    folder = Path(folder)
    if actor.peft is None:
        loaded, path = _whole_weights(folder), folder
    else:
        path = folder / ADAPTER
        loaded = _adapter(path)
    trained = {
        name: parameter
        for name, parameter in actor.named_parameters()
        if parameter.requires_grad and not name.startswith("value_head")
    }
    lacking = [name for name in trained if name not in loaded or loaded[name].shape != trained[name].shape]
    if lacking:
        raise UserError(
            f"{path}: has no weights for {len(lacking)} of the {len(trained)} tensors that this recipe "
            f"trains ({lacking[0]}). Give policy.adapt as that policy had it."
        )
    for name, parameter in trained.items():
        new = loaded[name].to(parameter.device, parameter.dtype)
        if actor.peft is None:
            parameter.add_(strength * (new - parameter))
        else:
            parameter.copy_(strength * new if ".lora_B." in name else new)


def _adapter(path: Path) -> dict[str, Tensor]:
    """The tensors of a saved adapter, by the names that they have in an actor."""
    if not (path / WEIGHTS).exists():
        raise UserError(
            f"{path}: is no adapter. Give the folder of a policy that was trained with "
            "policy.adapt.lora_rank above 0, or set it to 0 here too."
        )
    config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    ours = 2.0  # the scale of our adapters: lora_alpha is twice the rank
    scale = config["lora_alpha"] / config["r"] / ours
    tensors = {}
    for name, tensor in load_file(path / WEIGHTS).items():
        inside = name.removeprefix("base_model.model.")
        inside = inside.replace(".lora_A.", f".lora_A.{POLICY}.").replace(".lora_B.", f".lora_B.{POLICY}.")
        tensors[f"lm.{inside}"] = scale * tensor if ".lora_B." in name and scale != 1 else tensor
    return tensors


def _whole_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a plain model folder. Raises UserError for weights of 16 bits: a change read from them
    is mostly rounding."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: holds no weights (.safetensors).")
    tensors = {f"lm.{name}": tensor for file in files for name, tensor in load_file(file).items()}
    low = [
        name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.dtype.itemsize < 4
    ]
    if low:
        raise UserError(
            f"{folder}: its weights are {tensors[low[0]].dtype}, in which the change from the original is "
            "mostly rounding. Give a policy with an adapter, or one trained whole, which is kept in float32."
        )
    return tensors
