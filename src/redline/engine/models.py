"""Backbones, adapters and tokenizers, and the embedded default model. Weights load from safetensors only."""

import copy
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from redline.data.files import read_json, write_json
from redline.data.records import Text
from redline.embedded import loading, quietly, resolve
from redline.engine.attention import use_short_attention
from redline.engine.checkpoints import writing
from redline.engine.processes import this_process
from redline.engine.settings import Adapt, Model
from redline.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER = "adapter"  # folder of the adapter, beside the merged weights


def load_config(model: Model) -> Any:
    """The configuration of a model (of an adapter's base model)."""
    from transformers import AutoConfig

    folder = resolve(model.name)
    with loading(model.name, "configuration"):
        if (Path(folder) / "adapter_config.json").exists() and not (Path(folder) / "config.json").exists():
            base = read_json(Path(folder) / "adapter_config.json")["base_model_name_or_path"]
            return load_config(model.model_copy(update={"name": base, "revision": None}))
        config = AutoConfig.from_pretrained(
            folder, trust_remote_code=model.trust_remote_code, revision=model.revision or "main"
        )
    if not hasattr(config, "num_hidden_layers"):
        raise UserError(
            f"{model.name}: {type(config).__name__} describes several models in one. Give the folder or the "
            "name of its text model alone."
        )
    return config


def load_causal_lm(model: Model, **options: Any) -> "PreTrainedModel":
    """The causal language model of a recipe's ``model`` section, in eval mode (dropout off), every weight
    frozen."""
    from transformers import AutoModelForCausalLM

    return load_model(AutoModelForCausalLM, model, **options)


def load_model(auto: Any, model: Model, **options: Any) -> "PreTrainedModel":
    """``auto.from_pretrained`` for a recipe's ``model`` section: safetensors, chosen dtype, eval mode,
    frozen.

    A folder with nothing but a PEFT adapter gives its base model with the adapter merged in. ``options`` go
    to ``from_pretrained`` (``num_labels`` and so on). Raises UserError for a model that is not there or
    cannot be loaded.
    """
    folder = resolve(model.name)
    options |= {"dtype": dtype_of(model), "trust_remote_code": model.trust_remote_code}
    if model.load_in_4bit:
        options |= {"quantization_config": _four_bit(), "device_map": {"": device()}}
    with loading(model.name, "model"):
        if (Path(folder) / "adapter_config.json").exists() and not (Path(folder) / "config.json").exists():
            from peft import PeftConfig, PeftModel

            base = PeftConfig.from_pretrained(folder).base_model_name_or_path
            loaded = load_model(auto, model.model_copy(update={"name": base, "revision": None}), **options)
            merged: PreTrainedModel = PeftModel.from_pretrained(
                loaded, folder, torch_device=str(device())
            ).merge_and_unload()
            return merged.requires_grad_(False).eval().to(device())
        loaded = auto.from_pretrained(
            folder, revision=model.revision or "main", use_safetensors=True, **options
        )
    loaded = loaded.requires_grad_(False).eval()
    loaded = loaded if model.load_in_4bit else loaded.to(device())
    for module in loaded.modules():
        if hasattr(
            module, "support_avx512bf16_for_cpu"
        ):  # bitsandbytes' packing for such processors has no backward pass
            module.support_avx512bf16_for_cpu = False
    use_short_attention(loaded)
    return loaded


def _four_bit() -> Any:
    """QLoRA's storage of frozen weights (Dettmers et al. 2023): NF4 with its scales quantised again, computed
    in bfloat16."""
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise UserError(
            "model.load_in_4bit: the package bitsandbytes is not installed. Run: pip install bitsandbytes"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def is_quantised(model: "PreTrainedModel") -> bool:
    """Whether a model holds 4-bit weights."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def for_training(model: Model, lora_rank: int) -> Model:
    """The model as it is held while it is trained. Full fine-tuning keeps float32 weights: bfloat16 has no
    room for small updates (0.02 + 1e-5 is 0.02). To compute in bfloat16 all the same, use ``accelerate launch
    --mixed_precision bf16``."""
    if model.load_in_4bit and not lora_rank:
        raise UserError(
            "model.load_in_4bit: weights of 4 bits cannot be trained. Train adapters (lora_rank above 0), "
            "or load them whole."
        )
    return model if lora_rank else model.model_copy(update={"dtype": "float32"})


def device() -> torch.device:
    """Where models go: this process's accelerator, as Accelerate sees it, or the CPU."""
    found: torch.device = this_process().device
    return found


def dtype_of(model: Model) -> torch.dtype:
    """The recipe's dtype; auto is bfloat16 where the processor computes in it."""
    if model.dtype != "auto":
        return torch.bfloat16 if model.dtype == "bfloat16" else torch.float32
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def eos_ids(
    lm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: Iterable[Text]
) -> list[int]:
    """Every token that ends a response: those of the generation config, the tokenizer's own, and where a
    prompt is a conversation, what closes a turn in the chat template."""
    from redline.data.tokenization import turn_end

    configured = lm.generation_config.eos_token_id if lm.generation_config is not None else None
    turn = turn_end(tokenizer) if any(not isinstance(prompt, str) for prompt in prompts) else None
    found = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*found, tokenizer.eos_token_id, turn] if token is not None})


def adapt(model: "PreTrainedModel", how: Adapt, depth: int) -> "PeftModel | PreTrainedModel":
    """Make the uppermost ``how.train_layers`` of a model's ``depth`` layers trainable: LoRA adapters, or the
    weights themselves.

    With LoRA the model is wrapped by PEFT (its modules change in place). Full fine-tuning of all layers
    trains every parameter; of the upper layers only, those layers and what follows them except the output
    embedding, which may be tied to the input's.
    """
    base, trained = model.base_model, range(depth - train_layers(how, depth), depth)
    whole = len(trained) == depth
    parent, name, layers = _layers(base, depth)
    if how.lora_rank:
        from peft import LoraConfig, get_peft_model
        from transformers.pytorch_utils import Conv1D

        from redline.engine.adapters import fused, joined

        linear = {
            path.rpartition(".")[2]
            for path, module in layers.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        }
        config = LoraConfig(
            r=how.lora_rank,
            lora_alpha=2 * how.lora_rank,
            target_modules=sorted(linear),
            layers_to_transform=None if whole else list(trained),
            layers_pattern=None if whole else name,
        )
        with quietly():
            # adapters in float32: bfloat16 would swallow small updates
            return joined(get_peft_model(model, config if is_quantised(model) else fused(config)))
    if whole:
        return model.requires_grad_(True)
    for layer in list(layers)[trained.start :]:
        layer.requires_grad_(True)
    children = list(parent.named_children())
    after = children[[child for child, _ in children].index(name) + 1 :]
    for _, module in after:  # the final norm; rotary embeddings have no parameters
        module.requires_grad_(True)
    return model


def _layers(base: nn.Module, depth: int) -> tuple[nn.Module, str, nn.ModuleList]:
    """The module that holds the list of ``depth`` layers, the list's name in it, and the list."""
    for parent in base.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return parent, name, child
    raise UserError(
        f"{type(base).__name__} has no list of {depth} layers: Redline cannot tell which of its weights to "
        "train."
    )


def save(
    model: "PreTrainedModel",
    wrapped: "PeftModel | None",
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    base: str,
) -> None:
    """Write a plain Transformers folder, with adapters merged in, and the adapter alone in ``adapter/``.

    ``base`` is the name of the model that the adapter belongs to. Merging ends the training of ``model``.
    """
    with writing(folder), quietly():
        if wrapped is not None:
            adapter = folder / ADAPTER
            wrapped.save_pretrained(str(adapter))
            (adapter / "README.md").unlink(
                missing_ok=True
            )  # PEFT's empty card: the folder's own speaks for both
            described = read_json(adapter / "adapter_config.json")
            write_json(adapter / "adapter_config.json", described | {"base_model_name_or_path": base})
            model = _merged(model, adapter, base) if is_quantised(model) else wrapped.merge_and_unload()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _merged(model: "PreTrainedModel", adapter: Path, base: str) -> "PreTrainedModel":
    """Whole weights of a 4-bit model with its adapter merged in (in 4 bits most of an adapter would be
    rounded away)."""
    from peft import PeftModel

    config = copy.deepcopy(model.config)
    del config.quantization_config
    plain: Any = type(model).from_pretrained(
        resolve(base),
        config=config,
        dtype=torch.bfloat16,
        use_safetensors=True,
        revision=getattr(config, "_commit_hash", None) or "main",
    )
    plain.load_state_dict(
        {
            name: weights
            for name, weights in model.named_parameters()
            if weights.requires_grad and "lora_" not in name
        },
        strict=False,
    )  # a reward model's head
    merged: PreTrainedModel = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload()
    return merged


def train_layers(how: Adapt, depth: int) -> int:
    """How many layers are trained, checked against the model's depth."""
    if how.train_layers is not None and how.train_layers > depth:
        raise UserError(f"adapt.train_layers is {how.train_layers}, but the model has {depth} layers.")
    return how.train_layers or depth
