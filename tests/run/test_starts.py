"""Starts that people have, each from the command line to a saved policy that loads again: adapters of their
own, weights of 4 bits that others made, wrappers of a text model, tokenizers larger than the embedding."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from redline.engine.models import load_causal_lm
from redline.engine.settings import Model
from redline.engine.trunk import Trunk
from tiny_families import write_family
from tiny_models import GROUPED, model_folder
from tiny_recipes import ADAPT, logits, write_recipe
from tiny_tokenizers import byte_bpe


@pytest.fixture
def train(redline, tmp_path, edits_file):
    """Train the reward model and the policy from a model; gives the run's folder."""

    def run(model: dict[str, Any], **sections: Any) -> Path:
        recipe, out = write_recipe(tmp_path, model, **sections), tmp_path / "run"
        for stage in ("reward", "policy"):
            status, _, err = redline("train", stage, recipe, "--out", out)
            assert status == 0, err
        return out

    return run


def is_plain(folder: Path) -> bool:
    return "quantization_config" not in json.loads((folder / "config.json").read_text())


def lora(folder: Path, base: str, **options: Any) -> Path:
    """An adapter as supervised fine-tuning leaves it, with weights that are not zero."""
    from peft import LoraConfig, get_peft_model

    lm = AutoModelForCausalLM.from_pretrained(base)
    rows = options.pop("rows", None)
    if rows:
        lm.resize_token_embeddings(rows)
    options = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", "r": 4} | options
    wrapped = get_peft_model(lm, LoraConfig(**options))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    wrapped.save_pretrained(folder)
    return folder


def test_an_adapter_of_supervised_fine_tuning_is_the_start(train, tmp_path, tiny_model):
    """Without a tokenizer: the base model's is taken."""
    from peft import PeftModel

    adapter = lora(tmp_path / "sft", tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    loaded = load_causal_lm(Model(name=str(adapter), dtype="float32"))
    ids = torch.arange(5, 30)[None]
    torch.testing.assert_close(loaded(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-4, rtol=0)

    out = train({"name": str(adapter)})
    assert logits(out / "policy").isfinite().all()
    metrics = json.loads((out / "reward/metrics.json").read_text())
    assert metrics["validation"]["pairs"] > 0

    # what Redline writes can be given back to it: the adapter on the adapter
    again = load_causal_lm(Model(name=str(out / "policy/adapter"), dtype="float32"))
    torch.testing.assert_close(again(input_ids=ids).logits, logits(out / "policy"), atol=1e-4, rtol=0)


def test_an_adapter_that_Redline_wrote_is_the_next_start(train, redline, tmp_path, tiny_model):
    out = train({"name": tiny_model})
    shutil.move(out, tmp_path / "first")
    second = train({"name": str(tmp_path / "first/policy/adapter")})
    assert not torch.equal(logits(second / "policy"), logits(tmp_path / "first/policy"))


def test_an_adapter_with_a_resized_vocabulary_is_the_start(train, tmp_path, tiny_model):
    adapter = lora(tmp_path / "sft", tiny_model, rows=504, modules_to_save=["embed_tokens", "lm_head"])
    tokenizer = byte_bpe()
    tokenizer.add_tokens(["<extra>"], special_tokens=True)
    tokenizer.save_pretrained(adapter)
    out = train({"name": str(adapter)})
    assert logits(out / "policy").shape[-1] == 504
    assert "<extra>" in AutoTokenizer.from_pretrained(out / "policy").get_vocab()


def test_a_tokenizer_larger_than_the_embedding_is_padded_within_it(train, tmp_path):
    """As where a padding token was added to the tokenizer alone."""
    folder = Path(model_folder(tmp_path / "model"))
    tokenizer = byte_bpe()
    extra = 501 - len(tokenizer)
    tokenizer.add_tokens([f"<extra {number}>" for number in range(extra)], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer.pad_token_id == 501
    tokenizer.save_pretrained(folder)
    out = train({"name": str(folder)})
    assert json.loads((out / "reward/config.json").read_text())["pad_token_id"] < 501


def test_a_token_that_the_embedding_lacks_is_said_before_training(redline, tmp_path, edits_file):
    folder = Path(model_folder(tmp_path / "model"))
    tokenizer = byte_bpe()
    words = [f"<extra {number}>" for number in range(501 - len(tokenizer))]
    tokenizer.add_tokens([*words, "film"])
    tokenizer.save_pretrained(folder)
    recipe = write_recipe(tmp_path, {"name": str(folder)})
    status, _, err = redline("train", "reward", recipe, "--out", tmp_path / "run")
    assert status == 2
    assert "token 501" in err
    assert "501 rows" in err


def test_a_wrapper_of_a_text_model_is_taken_by_its_text_model(train, tmp_path):
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    sizes = GROUPED | {"head_dim": 8, "layer_types": ["full_attention"] * 4}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen3_5Config(text_config=sizes, vision_config=vision, tie_word_embeddings=True)
    torch.manual_seed(0)
    Qwen3_5ForConditionalGeneration(config).save_pretrained(tmp_path / "wrapper")
    byte_bpe().save_pretrained(tmp_path / "wrapper")
    out = train({"name": str(tmp_path / "wrapper")})
    assert json.loads((out / "policy/config.json").read_text())["model_type"] == "qwen3_5_text"
    assert logits(out / "policy").isfinite().all()


def four_bit_folder(folder: Path) -> str:
    """A checkpoint of 4 bits as others make it."""
    from transformers import BitsAndBytesConfig

    whole = model_folder(folder.with_name("whole"))
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    lm = AutoModelForCausalLM.from_pretrained(whole, quantization_config=config, device_map={"": "cpu"})
    lm.save_pretrained(folder)
    byte_bpe().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("start", ["load_in_4bit", "checkpoint", "adapter"])
def test_weights_of_4_bits_train_through_all_stages(train, tmp_path, tiny_model, start):
    """The folders that come out are whole; the policy is the adapter on the base, merged."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model = {"name": tiny_model, "load_in_4bit": True, "dtype": "bfloat16"}
    if start == "checkpoint":
        model = {"name": four_bit_folder(tmp_path / "four"), "dtype": "bfloat16"}
    if start == "adapter":
        model["name"] = str(lora(tmp_path / "sft", tiny_model))
    out = train(model)
    assert is_plain(out / "policy")
    assert is_plain(out / "reward")
    assert logits(out / "policy").isfinite().all()
    log = [json.loads(line) for line in (out / "policy/log.jsonl").read_text().splitlines()]
    assert log[-1]["sampler_drift"] < 0.2


@pytest.mark.parametrize(("family", "share"), [("dbrx", "LoRA adapts"), ("qwen3_moe", None)])
def test_the_share_is_said_where_experts_cannot_be_adapted(redline, tmp_path, edits_file, family, share):
    """DBRX reads its experts' weights past any adapter; Qwen's experts are all adapted."""
    write_family(family, tmp_path / "model")
    recipe = write_recipe(tmp_path, {"name": str(tmp_path / "model")})
    for stage in ("reward", "policy"):
        status, out, err = redline("train", stage, recipe, "--out", tmp_path / "run")
        assert status == 0, err
        said = " ".join((out + err).split())
        assert ("of the weights of the trained layers of" in said) == (share is not None), said
        assert share is None or share in said
    trained = logits(tmp_path / "run/policy")
    assert not torch.equal(trained, logits(tmp_path / "model"))


def test_full_fine_tuning_of_a_4_bit_checkpoint_is_refused(redline, tmp_path, edits_file):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    whole = {"lora_rank": 0, "train_layers": 2}
    recipe = write_recipe(
        tmp_path, {"name": four_bit_folder(tmp_path / "four")}, reward={"adapt": whole, "epochs": 1}
    )
    status, _, err = redline("train", "reward", recipe, "--out", tmp_path / "run")
    assert status == 2
    assert "quantised and cannot be trained" in err


def test_a_generation_config_that_cannot_be_saved_is_mended(train, tmp_path):
    folder = Path(model_folder(tmp_path / "model"))
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 0.6, "top_p": 0.9}))
    out = train({"name": str(folder)})
    saved = json.loads((out / "policy/generation_config.json").read_text())
    assert saved["temperature"] == 0.6
    assert saved["do_sample"] is True


def test_a_reward_model_in_several_files_shares_the_policys_weights(train, redline, tmp_path, tiny_model):
    from redline.reward.model import load_reward_model

    out = train({"name": tiny_model})
    from transformers import AutoModelForTokenClassification

    plain = AutoModelForTokenClassification.from_pretrained(out / "reward")
    (out / "reward/model.safetensors").unlink()
    plain.save_pretrained(out / "reward", max_shard_size="20KB")
    assert (out / "reward/model.safetensors.index.json").exists()
    lm = load_causal_lm(Model(name=tiny_model, dtype="float32"))
    assert load_reward_model(str(out / "reward"), lm, Trunk(2)).shares


def test_a_checkpoint_with_missing_weights_is_refused(redline, tmp_path, edits_file):
    from safetensors.torch import load_file, save_file

    folder = Path(model_folder(tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    recipe = write_recipe(tmp_path, {"name": str(folder)})
    status, _, err = redline("train", "reward", recipe, "--out", tmp_path / "run")
    assert status == 2
    assert "model.layers.1.self_attn.q_proj.weight" in err


def test_a_dry_run_goes_to_the_end(redline, tmp_path, edits_file, tiny_model):
    recipe = write_recipe(tmp_path, {"name": tiny_model})
    status, out, err = redline("check", recipe, "--dry-run", "--out", tmp_path / "run")
    assert status == 0, err
    assert "saved and loaded again" in out
    assert not (tmp_path / "run").exists()


def test_a_dry_run_finds_what_the_end_would_have(redline, tmp_path, edits_file, tiny_model):
    function = tmp_path / "functions.py"
    function.write_text("def late(prompts, responses):\n    raise KeyError('score')\n")
    policy = {"reward": [{"function": f"{function}:late"}], "adapt": ADAPT}
    recipe = write_recipe(tmp_path, {"name": tiny_model}, policy=policy)
    status, _, err = redline("check", recipe, "--dry-run", "--out", tmp_path / "run")
    assert status != 0
    assert "the reward function late raised KeyError" in err
