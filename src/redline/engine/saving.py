"""A trained model as a folder: plain Transformers weights, the adapter alone beside them."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redline.data.files import read_json, write_json
from redline.embedded import quietly
from redline.engine.checkpoints import writing
from redline.engine.models import is_quantised, load_config, load_model, storage, whole_weights
from redline.engine.settings import ADAPTER, Model

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
            # PEFT's empty card: the folder's own speaks for both
            (adapter / "README.md").unlink(missing_ok=True)
            described = read_json(adapter / "adapter_config.json")
            write_json(adapter / "adapter_config.json", described | {"base_model_name_or_path": base})
            model = _merged(model, adapter, base) if is_quantised(model) else wrapped.merge_and_unload()
        _make_valid(model)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _make_readable(folder)


def _make_readable(folder: Path) -> None:
    """Give weights the mode of other new files: safetensors leaves them to their owner alone."""
    mode = (folder / "config.json").stat().st_mode
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(mode)


def _make_valid(model: "PreTrainedModel") -> None:
    """Turn sampling on in a generation config that has a temperature or the like without it: some checkpoints
    come so, and some versions of Transformers refuse to save that."""
    generation: Any = getattr(model, "generation_config", None)
    if generation is None:
        return
    try:
        generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True


def _merged(model: "PreTrainedModel", adapter: Path, base: str) -> "PreTrainedModel":
    """Whole weights of a quantised model with its adapter merged in (in 4 bits most of an adapter would be
    rounded away)."""
    from peft import PeftModel

    from redline.engine.adapters import put_weights

    config = copy.deepcopy(model.config)
    revision = getattr(config, "_commit_hash", None)
    start = Model(name=base, dtype="bfloat16", revision=revision)
    if storage(load_config(start)) is None:
        del config.quantization_config
    heads = {
        name: weights
        for name, weights in model.named_parameters()
        if weights.requires_grad and "lora_" not in name
    }
    plain = whole_weights(load_model(type(model), start, config, new_head=bool(heads)))
    plain.load_state_dict(heads, strict=False)
    wrapped = PeftModel.from_pretrained(plain, str(adapter))
    put_weights(wrapped, adapter)
    merged: PreTrainedModel = wrapped.merge_and_unload()
    return merged
