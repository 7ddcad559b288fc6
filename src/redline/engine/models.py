"""Backbones as people bring them: folders and names, adapters on a base model, weights of 4 bits, wrappers of
a text model. Weights load from safetensors only."""

import copy
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from redline.console import say
from redline.data.records import Text
from redline.data.tokenization import load_tokenizer
from redline.embedded import adapter_folder, base_name, loading, quietly, resolve
from redline.engine.attention import try_short_attention
from redline.engine.processes import this_process
from redline.engine.settings import Model
from redline.errors import UserError
from redline.types import AutoClass, Config, JsonObject, Network

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# how wrappers call the weights of their text model -> how it calls them alone
TEXT_MODEL = {
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}


def load_config(model: Model) -> Config:
    """The configuration of a model (of an adapter's base model, of a wrapper's text model).

    Raises UserError for one that is not there, that has no text model which Transformers loads by itself, or
    whose weights are stored in a way that nothing can be trained on.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if adapter_folder(model.name):
        return load_config(_base_of(model))
    config = _stored_config(model)
    text = config.get_text_config(decoder=True)
    if text is not config and type(text) in MODEL_FOR_CAUSAL_LM_MAPPING:
        if stored := getattr(config, "quantization_config", None):
            text.quantization_config = stored
        text.tie_word_embeddings |= bool(getattr(config, "tie_word_embeddings", False))
        text._commit_hash = getattr(config, "_commit_hash", None)
        config = text
    if not hasattr(config, "num_hidden_layers"):
        raise UserError(
            f"{model.name}: {type(config).__name__} describes several models in one. Give the folder or the "
            "name of its text model alone."
        )
    _check_storage(model.name, config)
    return config


def _stored_config(model: Model) -> Any:
    """The configuration as the checkpoint has it."""
    from transformers import AutoConfig

    with loading(model.name, "configuration"):
        return AutoConfig.from_pretrained(
            resolve(model.name, model.revision),
            trust_remote_code=model.trust_remote_code,
            revision=model.revision or "main",
        )


def _base_of(model: Model) -> Model:
    """The model that an adapter belongs to, held as the recipe says."""
    return model.model_copy(update={"name": base_name(model.name), "revision": None})


def _check_storage(name: str, config: Config) -> None:
    method = storage(config)
    if method not in (None, "bitsandbytes"):
        raise UserError(
            f"{name}: its weights are stored by {method}, which Redline does not train on. Give the model in "
            "bfloat16 or float32 (or one that bitsandbytes quantised)."
        )
    if method == "bitsandbytes":
        _need_bitsandbytes(f"{name}: its weights are quantised by bitsandbytes, which")


def storage(config: Config) -> str | None:
    """The quantisation method of a checkpoint's weights; None for plain ones."""
    stored = getattr(config, "quantization_config", None)
    if not stored:
        return None
    method = stored.get("quant_method") if isinstance(stored, dict) else stored.quant_method
    return str(getattr(method, "value", method))


def load_causal_lm(model: Model) -> "PreTrainedModel":
    """The causal language model of a recipe's ``model`` section, in eval mode (dropout off), every weight
    frozen. Raises UserError for an encoder, with a decoder or without."""
    from transformers import AutoModelForCausalLM

    config = load_config(model)
    check_one_part(model.name, config)
    return load_model(AutoModelForCausalLM, model, config)


def check_one_part(name: str, config: Config) -> None:
    """Raise UserError for an encoder with a decoder."""
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{name}: {type(config).__name__} describes an encoder with a decoder. Redline trains models "
            "that are one of the two."
        )


def load_model(
    auto: AutoClass, model: Model, config: Config = None, new_head: bool = False
) -> "PreTrainedModel":
    """``auto.from_pretrained`` for a recipe's ``model`` section: safetensors, chosen dtype, eval mode,
    frozen.

    A PEFT adapter gives its base model with the adapter merged in. ``config`` is the model's own where None
    is given; with ``new_head`` the checkpoint need not have what stands behind the backbone. Raises UserError
    for a model that is not there, that cannot be loaded, or whose weights are not all there.
    """
    config = config or load_config(model)
    if adapter_folder(model.name):
        return _merged_start(auto, model, config, new_head)
    options: JsonObject = {"dtype": dtype_of(model), "trust_remote_code": model.trust_remote_code}
    stored = storage(config)
    if model.load_in_4bit and not stored:
        options |= {"quantization_config": _four_bit(_heads(auto, config)), "device_map": {"": device()}}
    elif stored:
        options |= {"device_map": {"": device()}}
        _keep_whole(config, _heads(auto, config))
    if type(_stored_config(model)) is not type(config):
        options |= {"key_mapping": TEXT_MODEL}
    with loading(model.name, "model"):
        loaded, report = auto.from_pretrained(
            resolve(model.name, model.revision),
            config=config,
            revision=model.revision or "main",
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    _check_whole(loaded, report["missing_keys"], model.name, new_head)
    if "key_mapping" in options:
        _save_as_it_is(loaded)
    return _ready(loaded)


def _ready(loaded: "PreTrainedModel") -> "PreTrainedModel":
    """A loaded model on its device, frozen, in eval mode."""
    loaded.requires_grad_(False).eval()
    if not is_quantised(loaded):
        loaded.to(device())  # type: ignore[arg-type]  # Transformers wraps the method
    module: Network
    for module in loaded.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes' packing for such processors has no backward pass
            module.support_avx512bf16_for_cpu = False
    if loaded.base_model is loaded and isinstance(getattr(loaded, "model", None), torch.nn.Module):
        loaded.base_model_prefix = "model"  # Llama 4's text model names another
    try_short_attention(loaded)
    return loaded


def _check_whole(loaded: "PreTrainedModel", missing: Iterable[str], name: str, new_head: bool) -> None:
    """Raise UserError where the model (with ``new_head``, its backbone) has weights that the checkpoint did
    not bring: Transformers makes them up at random."""
    needed = f"{loaded.base_model_prefix}." if new_head else ""
    absent = sorted(path for path in missing if path.startswith(needed))
    if absent:
        raise UserError(
            f"{name}: {len(absent)} weights of {type(loaded).__name__} are not in the checkpoint "
            f"({absent[0]} is the first). Give the folder or the name of a whole checkpoint of this model."
        )


def _heads(auto: AutoClass, config: Config) -> list[str]:
    """What a model has beside its backbone, by name: it stays as it is where the backbone is quantised."""
    with torch.device("meta"), quietly():
        build = getattr(auto, "from_config", None) or auto._from_config
        skeleton = build(copy.deepcopy(config))  # which Transformers writes into
    return [name for name, child in skeleton.named_children() if child is not skeleton.base_model]


def _four_bit(whole: list[str]) -> Any:
    """QLoRA's storage of frozen weights (Dettmers et al. 2023): NF4 with its scales quantised again, computed
    in bfloat16; the modules ``whole`` are left as they are."""
    from transformers import BitsAndBytesConfig

    _need_bitsandbytes("model.load_in_4bit")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=whole,
    )


def _need_bitsandbytes(who: str) -> None:
    if find_spec("bitsandbytes") is None:
        raise UserError(f"{who} needs the package bitsandbytes. Run: pip install bitsandbytes")


def _keep_whole(config: Config, names: list[str]) -> None:
    """Tell a quantised checkpoint's configuration that a head is not quantised."""
    stored = config.quantization_config
    stored = dict(stored if isinstance(stored, dict) else stored.to_dict())
    before = stored.get("llm_int8_skip_modules") or []
    stored["llm_int8_skip_modules"] = [*before, *(name for name in names if name not in before)]
    config.quantization_config = stored


def is_quantised(model: "PreTrainedModel") -> bool:
    """Whether a model holds weights of 4 (or 8) bits."""
    return getattr(model, "hf_quantizer", None) is not None


def whole_weights(model: "PreTrainedModel") -> "PreTrainedModel":
    """A quantised model with plain weights again, in bfloat16; any other as it is."""
    if not is_quantised(model):
        return model
    plain: PreTrainedModel = model.dequantize(dtype=torch.bfloat16)
    if hasattr(plain.config, "quantization_config"):
        del plain.config.quantization_config
    _save_as_it_is(plain)
    return plain


def _save_as_it_is(model: "PreTrainedModel") -> None:
    """Let a model be saved by the family's own names and types of weights, not by those of the checkpoint
    that it was read from."""
    vars(model).pop("_weight_conversions", None)


def _merged_start(auto: AutoClass, model: Model, config: Config, new_head: bool) -> "PreTrainedModel":
    """The base model of an adapter with the adapter merged in: weights of 4 bits are made whole before, since
    most of an adapter would be rounded away in them."""
    base = _base_of(model)
    quantised = storage(config) is not None
    loaded = load_model(auto, base.model_copy(update={"load_in_4bit": False}), config, new_head)
    if quantised:
        say(f"{base.name}: its weights are made whole to take the adapter")
    merged = _with_adapter(whole_weights(loaded), model.name)
    if not model.load_in_4bit:
        return _ready(merged)
    with tempfile.TemporaryDirectory() as folder:
        merged.save_pretrained(folder)
        whole = model.model_copy(update={"name": folder, "revision": None})
        return load_model(auto, whole, merged.config)


def _with_adapter(loaded: "PreTrainedModel", name: str) -> "PreTrainedModel":
    """A plain model with an adapter merged in, whatever head the adapter was trained under. An embedding that
    the adapter brings in another size is taken in that size."""
    from peft import PeftConfig, PeftModel
    from safetensors import safe_open

    from redline.engine.adapters import put_weights

    folder = Path(adapter_folder(name) or name)
    weights = folder / "adapter_model.safetensors"
    if not weights.exists():
        raise UserError(f"{name}: has no adapter_model.safetensors. Save the adapter in safetensors.")
    config = PeftConfig.from_pretrained(str(folder))
    config.task_type = None  # a wrapper for a task looks for that task's head
    present = {path.rpartition(".")[2] for path, _ in loaded.named_modules()}
    if getattr(config, "modules_to_save", None):
        config.modules_to_save = [part for part in config.modules_to_save if part in present] or None
    embedding: Network = loaded.get_input_embeddings()
    place = next(path for path, module in loaded.named_modules() if module is embedding)
    with loading(name, "adapter"), safe_open(str(weights), "pt") as file:
        key = f"base_model.model.{place}.weight"
        if key in file.keys():  # noqa: SIM118 (safe_open is no dict)
            rows = file.get_slice(key).get_shape()[0]
            if rows != embedding.weight.shape[0]:
                loaded.resize_token_embeddings(rows, mean_resizing=False)
        wrapped = PeftModel.from_pretrained(loaded, str(folder), config=config, torch_device=str(device()))
        put_weights(wrapped, folder)
        merged: PreTrainedModel = wrapped.merge_and_unload()
    return merged


def check_tokens(lm: "PreTrainedModel", rows: Iterable[Sequence[int]], name: str) -> None:
    """Raise UserError for token ids that the embedding has no row for: the tokenizer is larger than it."""
    embedding: Network = lm.get_input_embeddings()
    size = int(embedding.weight.shape[0])
    largest = max((max(row) for row in rows if len(row)), default=0)
    if largest >= size:
        raise UserError(
            f"{name}: its tokenizer gives token {largest}, its embedding has {size} rows. Give the tokenizer "
            "that belongs to the model, or a model whose embedding was resized for it."
        )


def for_training(model: Model, lora_rank: int) -> Model:
    """The model as it is held while it is trained. Full fine-tuning keeps float32 weights: bfloat16 has no
    room for small updates (0.02 + 1e-5 is 0.02). To compute in bfloat16 all the same, use ``accelerate launch
    --mixed_precision bf16``."""
    if lora_rank:
        return model
    if model.load_in_4bit:
        raise UserError(
            "model.load_in_4bit: weights of 4 bits cannot be trained. Train adapters (lora_rank above 0), "
            "or load them whole."
        )
    if not adapter_folder(model.name) and storage(load_config(model)) is not None:
        raise UserError(
            f"{model.name}: its weights are quantised and cannot be trained. Train adapters (lora_rank above "
            "0), or give the model with whole weights."
        )
    return model.model_copy(update={"dtype": "float32"})


def tokenizer_of(model: Model) -> "PreTrainedTokenizerBase":
    """The tokenizer of a recipe's ``model`` section, with the chat template that the section asks for."""
    return load_tokenizer(
        model.name,
        model.trust_remote_code,
        model.revision,
        model.chat_template,
        model.chat_template_kwargs,
    )


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
    embedding: Network = lm.get_input_embeddings()
    size = int(embedding.weight.shape[0])  # a token beyond it is never sampled
    named = {token for token in [*found, tokenizer.eos_token_id, turn] if token is not None}
    return sorted(token for token in named if token < size)
