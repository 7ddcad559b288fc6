"""What would change numbers without a word: from the command line to a saved policy that loads again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_one_line import metaspace, policy
from transformers import LlamaConfig, PreTrainedTokenizerFast

from tiny_families import write_family
from tiny_models import GROUPED, model_folder
from tiny_recipes import logits, write_recipe
from tiny_tokenizers import byte_bpe

FUNCTIONS = """
def vowels(prompts, responses):
    return [float(sum(letter in "ae" for letter in text)) for text in responses]

def nearly_constant(prompts, responses):
    return [0.5 + 1e-5 * (len(text) % 7) for text in responses]

calls = 0

def one_outlier(prompts, responses):
    global calls
    calls += 1
    rewards = [float(len(text) % 7) for text in responses]
    if calls == 1:
        rewards[0] = 10_000.0
    return rewards
"""


@pytest.fixture
def functions(tmp_path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return path


@pytest.fixture
def train_policy(redline, tmp_path, edits_file, functions):
    """Train a policy from a model's folder with one of the functions above; gives the run's folder and what
    was said."""

    def run(model: Path | str, name: str = "vowels", where: str = "run", **changes: Any) -> tuple[Path, str]:
        sections = {"policy": policy(functions, name, **changes)}
        recipe, out = write_recipe(tmp_path, {"name": str(model)}, **sections), tmp_path / where
        status, said, err = redline("train", "policy", recipe, "--out", out)
        assert status == 0, err
        assert logits(out / "policy").isfinite().all()
        return out, " ".join((said + err).split())

    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def change_prompts(edits_file: Path, change) -> None:
    rows = [row | {"prompt": change(row["prompt"])} for row in lines(edits_file)]
    edits_file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_reward_that_is_nearly_constant_is_not_blown_up(train_policy, tiny_model):
    out, said = train_policy(tiny_model, "nearly_constant", sampling={"max_new_tokens": 12})
    assert "hardly differ" in said
    assert "they are scaled by 100, not by" in said
    assert max(abs(line["reward"]) for line in lines(out / "policy/log.jsonl")) < 100


def test_one_outlier_leaves_the_other_rewards_their_size(train_policy, tiny_model):
    changes = {"sampling": {"max_new_tokens": 12}, "no_eos_penalty": 0, "eos_reward": 0, "sample_every": 1}
    out, said = train_policy(tiny_model, "one_outlier", **changes)
    assert "the rewards of 1 of 16 responses of the reference are far from all others" in said
    totals = torch.tensor([sum(row["rewards"]) for row in lines(out / "policy/samples.jsonl")])
    assert totals.std() > 0.3  # by a plain deviation of 2,500 it would be a thousandth


def test_a_prompt_that_has_its_bos_trains_as_one_without(train_policy, tmp_path, edits_file):
    folder = Path(model_folder(tmp_path / "model"))
    byte_bpe(bos=True).save_pretrained(folder)
    plain, _ = train_policy(folder, where="plain")
    change_prompts(edits_file, lambda prompt: f"<s>{prompt}")
    rendered, _ = train_policy(folder, where="rendered")
    torch.testing.assert_close(logits(rendered / "policy"), logits(plain / "policy"), rtol=0, atol=0)


def test_a_response_keeps_its_first_space_to_the_comparison(redline, train_policy, tmp_path, functions):
    """By a tokenizer of Llama 2's kind."""
    folder = Path(model_folder(tmp_path / "model", LlamaConfig(**GROUPED | {"vocab_size": 33})))
    metaspace(folder)
    changes = {"sampling": {"max_new_tokens": 6, "min_new_tokens": 6}, "sample_every": 1}
    out, _ = train_policy(folder, **changes)
    recipe = out.parent / "recipe.yaml"
    status, _, err = redline("run", recipe, "--out", out)
    assert status == 0, err
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    responses = [row["response"] for row in lines(out / "compare/policy.jsonl")]
    responses += [row["text"] for row in lines(out / "policy/samples.jsonl")]
    words = [word for word in tokenizer.get_vocab() if word.startswith("▁")]
    assert len(words) == 6
    beginning_with_a_space = [text for text in responses if text.startswith(" ")]
    assert 0 < len(beginning_with_a_space) < len(responses)


def test_attention_that_chooses_its_keys_samples_what_it_trains(train_policy, edits_file, tmp_path):
    """Keys are chosen by an index of 16, and prompts are longer: attention written out would drop the
    choice."""
    write_family("minimax_m3_vl_text", tmp_path / "model")
    change_prompts(edits_file, lambda prompt: f"{prompt} {'very ' * 30}")
    out, _ = train_policy(tmp_path / "model", sampling={"max_new_tokens": 6, "min_new_tokens": 6})
    for line in lines(out / "policy/log.jsonl"):
        assert line["sampler_drift_max"] < 0.02
        assert line["first_ratio_error"] < 1e-3
