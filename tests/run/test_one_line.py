"""What goes wrong in a run that people have, said in one line that names what to change."""

import json
from datetime import datetime
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from redline.data.tokenization import decode_response, encode_prompt
from tiny_models import model_folder
from tiny_recipes import logits, write_recipe
from tiny_tokenizers import CHATML, byte_bpe

FUNCTIONS = """
def raising(prompts, responses):
    return [1 / 0 for response in responses]

def vowels(prompts, responses):
    return [float(sum(letter in "ae" for letter in text)) for text in responses]

def full(prompts, responses):
    import torch
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
"""


@pytest.fixture
def functions(tmp_path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return path


def policy(functions: Path, name: str, **changes) -> dict:
    return {
        "reward": [{"function": f"{functions}:{name}"}],
        "adapt": {"lora_rank": 4, "train_layers": 2},
        "updates": 2,
        "batch_size": 4,
        "minibatch_size": 4,
        "sampling": {"max_new_tokens": 6},
    } | changes


def test_a_reward_function_that_raises(redline, tmp_path, edits_file, tiny_model, functions):
    recipe = write_recipe(tmp_path, {"name": tiny_model}, policy=policy(functions, "raising"))
    status, _, err = redline("train", "policy", recipe, "--out", tmp_path / "run")
    assert status == 2
    assert "the reward function raising raised ZeroDivisionError: division by zero" in err
    assert "functions.py, line 3" in " ".join(err.split())
    assert "Traceback" not in err


SAMPLER = """
from redline.sampling.local import InProcess

class Off(InProcess):
    def sample(self, prompts, n, request):
        drawn = super().sample(prompts, n, request)
        return drawn.ids, [[nats - 0.4 for nats in row] for row in drawn.logprobs]
"""


def test_a_sampler_that_drifts_stops_the_run(redline, tmp_path, edits_file, tiny_model, functions):
    (tmp_path / "sampler.py").write_text(SAMPLER)
    changes = {"sampler": f"{tmp_path / 'sampler.py'}:Off"}
    recipe = write_recipe(tmp_path, {"name": tiny_model}, policy=policy(functions, "vowels", **changes))
    status, _, err = redline("train", "policy", recipe, "--out", tmp_path / "run")
    assert status == 2
    assert "log-probabilities are 0.4 nats a token from the policy's (policy.max_drift is 0.3)" in " ".join(
        err.split()
    )

    changes["max_drift"] = None
    recipe = write_recipe(tmp_path, {"name": tiny_model}, policy=policy(functions, "vowels", **changes))
    status, _, err = redline("train", "policy", recipe, "--out", tmp_path / "run")
    assert status == 0, err
    line = json.loads((tmp_path / "run/policy/log.jsonl").read_text().splitlines()[0])
    assert "0.4 nats a token from the policy's (sampler_drift)" in line["warning"]
    assert logits(tmp_path / "run/policy").isfinite().all()


def test_memory_that_is_full(redline, tmp_path, edits_file, tiny_model, monkeypatch):
    from redline.policy.ppo import Ppo

    def fail(self: Ppo, step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Ppo, "update", fail)
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    sections = {"policy": policy(tmp_path / "functions.py", "vowels")}
    recipe = write_recipe(tmp_path, {"name": tiny_model}, **sections)
    status, _, err = redline("train", "policy", recipe, "--out", tmp_path / "run")
    assert status == 1
    assert "there is not enough memory (CUDA out of memory." in err
    assert "policy.microbatch_tokens" in err
    assert "redline plan" in err
    assert "Traceback" not in err


def test_wandb_without_a_key(redline, tmp_path, edits_file, tiny_model, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    recipe = write_recipe(tmp_path, {"name": tiny_model}, trackers=["wandb"])
    status, _, err = redline("train", "reward", recipe, "--out", tmp_path / "run")
    assert status == 2
    assert "wandb has no key. Run `wandb login`" in err
    assert not (tmp_path / "run/labels").exists()


def test_the_reason_goes_first_where_all_records_are_refused(redline, tmp_path, edits_file, tiny_model):
    data = {"edits": {"path": str(edits_file)}, "max_prompt_tokens": 1, "validation_share": 0.3}
    recipe = write_recipe(tmp_path, {"name": tiny_model}, data=data)
    status, _, err = redline("train", "reward", recipe, "--out", tmp_path / "run")
    last = " ".join(err.split()).rpartition("redline: ")[2]
    assert status == 2
    assert "data.max_prompt_tokens is 1" in last
    assert "more edits" not in last


def test_a_prompt_that_is_rendered_already_gets_no_second_bos():
    tokenizer = byte_bpe(bos=True)
    assert encode_prompt(tokenizer, "the film")[0] == 0
    assert encode_prompt(tokenizer, "<s>the film") == encode_prompt(tokenizer, "the film")


def metaspace(folder: Path) -> None:
    """A tokenizer of Llama 2's kind, whose decoder drops the first space of a text."""
    words = ["▁", *"abcdefghijklmnopqrstuvwxyz", "▁film", "▁was", "▁good", "▁the", "▁bad"]
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), *((word, -float(len(word) < 2)) for word in words)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(
        folder
    )


def test_a_response_keeps_its_first_space(tmp_path):
    folder = Path(model_folder(tmp_path / "model"))
    metaspace(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    ids = tokenizer("the good film", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "the good film"
    assert decode_response(tokenizer, ids, "it was") == " the good film"
    assert decode_response(tokenizer, ids, [{"role": "user", "content": "a"}]) == "the good film"


def test_a_run_goes_on_after_midnight(redline, tmp_path, edits_file, functions, monkeypatch):
    """Its template prints today's date; the checkpoint is its own the next day."""
    folder = Path(model_folder(tmp_path / "model"))
    tokenizer = byte_bpe()
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
    tokenizer.save_pretrained(folder)
    rows = [json.loads(line) for line in edits_file.read_text().splitlines()]
    for row in rows:
        row["prompt"] = [{"role": "user", "content": row["prompt"]}]
    edits_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from redline.policy.ppo import Ppo

    update = Ppo.update

    def killed(self: Ppo, step: int):
        if step == 1:
            raise KeyboardInterrupt
        return update(self, step)

    sections = {"policy": policy(functions, "vowels", checkpoint_every=1)}
    recipe, out = write_recipe(tmp_path, {"name": str(folder)}, **sections), tmp_path / "run"
    with monkeypatch.context() as stopped:
        stopped.setattr(Ppo, "update", killed)
        status, _, err = redline("train", "policy", recipe, "--out", out)
    assert list((out / "policy/checkpoints").glob("0*")), err

    class NextYear(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 2)

    monkeypatch.setattr(chat_template_utils, "datetime", NextYear)
    status, _, err = redline("train", "policy", recipe, "--out", out)
    assert status == 0, err
    log = (out / "policy/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in log] == [1, 2]
    assert logits(out / "policy").isfinite().all()
