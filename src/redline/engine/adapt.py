"""Which weights are trained: LoRA adapters on every linear layer of the trained layers, and on the experts
that mixtures keep in stacked parameters, or the weights themselves."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from redline.console import say
from redline.embedded import quietly
from redline.engine.models import is_quantised
from redline.engine.settings import Adapt
from redline.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

MOST = 0.9  # of the trained layers' weights: where LoRA adapts less, the share is said
# layers of state space models whose fused kernels read the weight itself, past any adapter
BYPASSED = ("out_proj", "x_proj", "dt_proj")


@dataclass
class Targets:
    """The paths of linear layers and of stacked parameters to adapt, and the share of the trained layers'
    weights that they hold."""

    modules: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    adapted: int = 0
    weights: int = 0

    @property
    def share(self) -> float:
        """Adapted weights over all weights of the trained layers, 0 to 1."""
        return self.adapted / max(self.weights, 1)


def adapt(model: "PreTrainedModel", how: Adapt, depth: int) -> "PeftModel | PreTrainedModel":
    """Make the uppermost ``how.train_layers`` of a model's ``depth`` layers trainable: LoRA adapters, or the
    weights themselves.

    With LoRA the model is wrapped by PEFT (its modules change in place). Full fine-tuning of all layers
    trains every parameter; of the upper layers only, those layers and what follows them except the output
    embedding, which may be tied to the input's.
    """
    base, trained = model.base_model, range(depth - train_layers(how, depth), depth)
    whole = len(trained) == depth
    parent, name, layers = _layers(base)
    if how.lora_rank:
        return _with_lora(model, how, layers, name, trained)
    if whole:
        return model.requires_grad_(True)
    for layer in list(layers)[trained.start :]:
        layer.requires_grad_(True)
    children = list(parent.named_children())
    after = children[[child for child, _ in children].index(name) + 1 :]
    for _, module in after:  # the final norm; rotary embeddings have no parameters
        module.requires_grad_(True)
    return model


def depth_of(model: "PreTrainedModel") -> int:
    """How many layers a model has, by its list of them: some families count otherwise in their
    configuration."""
    return len(_layers(model.base_model)[2])


def _layers(base: nn.Module) -> tuple[nn.Module, str, nn.ModuleList]:
    """The module that holds the list of decoder layers, the list's name in it, and the list: the one of the
    configuration's length, or else the only one of the backbone itself."""
    known: Any = base.config
    for parent in base.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == known.num_hidden_layers:
                return parent, name, child
    own = [(name, child) for name, child in base.named_children() if isinstance(child, nn.ModuleList)]
    if len(own) != 1:
        raise UserError(
            f"{type(base).__name__} has no list of {known.num_hidden_layers} layers: Redline cannot tell "
            "which of its weights to train."
        )
    name, child = own[0]
    return base, name, child


def _with_lora(
    model: "PreTrainedModel", how: Adapt, layers: nn.ModuleList, name: str, trained: range
) -> "PeftModel":
    """A model with LoRA adapters in its layers ``trained`` and nowhere else."""
    from peft import LoraConfig, get_peft_model

    from redline.engine.adapters import fused, joined

    goal = targets(model, layers, trained)
    config = LoraConfig(
        r=how.lora_rank,
        lora_alpha=2 * how.lora_rank,
        target_modules=goal.modules,
        target_parameters=goal.parameters or None,
    )
    by_name = _by_name(config, model, goal, name, trained, len(layers))
    if goal.share < MOST:
        say(
            f"LoRA adapts {goal.share:.0%} of the weights of the trained layers of {type(model).__name__}: "
            "PEFT has no adapters for the rest, which stays as it is."
        )
    config = by_name or config
    with quietly():
        # adapters in float32: bfloat16 would swallow small updates
        return joined(get_peft_model(model, config if is_quantised(model) else fused(config)))


def _by_name(
    config: "LoraConfig", model: nn.Module, goal: Targets, name: str, trained: range, depth: int
) -> "LoraConfig | None":
    """The configuration with the last names of the modules alone and the numbers of the trained layers, as
    people write it; None where that would adapt other modules than ``goal``."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    whole = len(trained) == depth
    if goal.parameters:
        return None
    short = LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        target_modules=sorted({path.rpartition(".")[2] for path in goal.modules}),
        layers_to_transform=None if whole else list(trained),
        layers_pattern=None if whole else name,
    )
    matched = {path for path, _ in model.named_modules() if check_target_module_exists(short, path)}
    return short if matched == set(goal.modules) else None


def targets(model: nn.Module, layers: nn.ModuleList, trained: range) -> Targets:
    """What to adapt in the layers ``trained`` of ``model``, by paths in ``model``."""
    paths = {module: path for path, module in model.named_modules()}
    claimed = _claimed(model)
    found = Targets()
    holders = Counter(id(weight) for layer in layers for weight in set(layer.parameters()))
    seen: set[int] = set()
    for index in trained:
        for module in layers[index].modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                size = _size(module, name, parameter)
                found.weights += size
                path = paths[module]
                if holders[id(parameter)] > 1:  # what layers share would change below the cut too
                    continue
                if is_linear(module):
                    if name != "weight" or _is_bypassed(model, path):
                        continue
                    found.adapted += size
                    if path.rpartition(".")[2] in claimed:
                        found.parameters.append(f"{path}.{name}")
                    else:
                        found.modules.append(path)
                elif _is_stack(module, parameter):
                    found.adapted += size
                    found.parameters.append(f"{path}.{name}")
    return found


def is_linear(module: nn.Module) -> bool:
    """Whether PEFT's layers for linear modules know how to adapt a module: its output is that of a plain
    linear layer (some routers are linear layers by class, and give more than that)."""
    from transformers.pytorch_utils import Conv1D

    if type(module) in (nn.Linear, Conv1D) or type(module).__module__.startswith("bitsandbytes"):
        return True
    return isinstance(module, nn.Linear) and _is_plain(module)


@torch.no_grad()
def _is_plain(module: nn.Linear) -> bool:
    weight = module.weight
    rows = torch.arange(2.0 * weight.shape[1], device=weight.device).sin().view(2, -1).to(weight.dtype)
    try:
        output = module(rows)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    plain = nn.functional.linear(rows, weight, module.bias)
    same_shape = isinstance(output, torch.Tensor) and output.shape == plain.shape
    return same_shape and torch.allclose(output.float(), plain.float(), rtol=1e-2, atol=1e-2)


def _size(module: nn.Module, name: str, parameter: nn.Parameter) -> int:
    """How many weights a parameter stands for: those of 4 bits lie two in a byte."""
    if isinstance(module, nn.Linear) and name == "weight":
        return module.in_features * module.out_features
    return parameter.numel()


def _is_stack(module: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether a parameter holds the weights of many experts, one behind the other. (Where they lie one below
    the other in a matrix, the layer above reads it past any adapter.)"""
    others = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return parameter.ndim == 3 and min(parameter.shape) > 1 and not isinstance(module, others)


def _is_bypassed(model: nn.Module, path: str) -> bool:
    """Whether a layer lies in a state space mixer, which has a matrix A (by its logarithm) and reads the
    layer's weight past any adapter."""
    parent, _, name = path.rpartition(".")
    mixer = model.get_submodule(parent)
    return name in BYPASSED and (hasattr(mixer, "A_log") or "mamba" in type(mixer).__name__.lower())


def _claimed(model: nn.Module) -> set[str]:
    """The names of linear layers that PEFT takes for experts' old names in this family and moves to the
    stacked parameters of *all* layers. Such layers are adapted by the path of their weight."""
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # PEFT before it knew Transformers 5's experts
        return set()
    from peft import LoraConfig

    probe = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
    config = LoraConfig(target_modules=sorted(probe))
    convert_peft_config_for_transformers(config, model, None)
    return probe - set(config.target_modules or ())


def train_layers(how: Adapt, depth: int) -> int:
    """How many layers are trained, checked against the model's depth."""
    if how.train_layers is not None and how.train_layers > depth:
        raise UserError(f"adapt.train_layers is {how.train_layers}, but the model has {depth} layers.")
    return how.train_layers or depth
