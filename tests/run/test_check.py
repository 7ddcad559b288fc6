"""What can be known before a run is found by `redline check`, all at once, in seconds, without loading a
model."""

import json
import sys
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from tiny_tokenizers import CHATML, byte_bpe

MOST_SECONDS = 5.0
TALK = [{"role": "user", "content": "was it good ?"}]
STRICT = (
    "{% if messages[0]['content'] == 'was it good ?' %}{{ raise_exception('never') }}{% endif %}" + CHATML
)

# name -> overrides, and what the line says: place, mistake, how to mend it
MISTAKES: dict[str, tuple[list[str], str]] = {
    # keys
    "a key that is not known": (
        ["policy.kl.tarjet=6"],
        "unknown key `policy.kl.tarjet`. Did you mean `target`?",
    ),
    "a key of a section inside": (
        ["policy.lr=1e-4"],
        "unknown key `policy.lr`. Did you mean `policy.optimizer.lr`?",
    ),
    "a section that is given a value": (
        ["model=gpt2"],
        "`model` is a section. Did you mean model.name=gpt2?",
    ),
    "a judge as a value": (["compare=vader"], "`compare` is a section. Did you mean compare.judge=vader?"),
    "a choice that is not known": (
        ["reward.loss=sofd"],
        "it can be soft, hard, pairwise. Did you mean `soft`?",
    ),
    "a method that is not known": (["direct={method: dppo}"], "Did you mean `dpo`?"),
    "a loss of the other kind": (
        ["reward.kind=sequence", "reward.loss=hard"],
        "`reward.loss` is of token models",
    ),
    "a number out of its range": (["reward.epochs=0"], "`reward.epochs`: Input should be greater than 0"),
    # models
    "a model that is not there": (["model.name=./none"], "./none: there is no such model folder"),
    "a folder that is no model": (["model.name=empty"], "empty: not a model folder (it has no config.json)"),
    "the embedded model, misspelt": (["model.name=smolm2-135m"], "did you mean `smollm2-135m`?"),
    "an endpoint's model": (["model.name=gpt-4.1"], "gpt-4.1 is known by an endpoint alone"),
    "too many layers of the policy": (["policy.adapt.train_layers=9"], "the model has 4 layers. Lower it."),
    "too many layers of the reward": (["reward.adapt.train_layers=5"], "reward.adapt.train_layers is 5"),
    "more layers than are kept": (
        ["reward.depth=2", "reward.adapt.train_layers=3"],
        "the model has 2 layers",
    ),
    "too deep": (["reward.depth=9"], "reward.depth is 9, but"),
    "weights of 4 bits": (
        ["model.load_in_4bit=true", "policy.adapt.lora_rank=0"],
        "weights of 4 bits cannot",
    ),
    "a chat template that is not there": (["model.chat_template=none.jinja"], "none.jinja is not there"),
    "another backbone that is not there": (["reward.model={name: ./none}"], "reward.model.name: ./none"),
    # data
    "edits that are not there": (["data.edits.path=none.jsonl"], "data.edits: none.jsonl"),
    "edits without a needed column": (["data.edits.path=odd.jsonl"], "data.edits: "),
    "no usable edit": (["data.edits.path=equal.jsonl"], "gives no usable record (0 records, 2 left out"),
    "a test set that is not there": (["data.test.path=none.jsonl"], "data.test: none.jsonl"),
    "prompts of another kind": (["data.prompts.path=odd.jsonl"], "data.prompts: "),
    "too few edits to hold some out": (["data.edits.limit=1"], "of 1 edits none is left to validate with"),
    "no preferred responses": (
        ["sft={responses: chosen}"],
        "sft.responses is chosen, and the first edits have no",
    ),
    "no preferred responses for the reward": (
        ["reward.kind=sequence", "reward.pairs=chosen"],
        "reward.pairs is chosen",
    ),
    "prompts that are all too long": (
        ["data.max_prompt_tokens=1"],
        "data.max_prompt_tokens is 1, and the prompts",
    ),
    "responses beyond the positions": (
        ["policy.sampling.max_new_tokens=5000"],
        "do not fit into the 2048 positions",
    ),
    "a template that refuses": (
        ["model.name=strict", "data.prompts.path=talks.jsonl"],
        "the chat template refuses the conversation",
    ),
    # judges
    "a judge that is not known": (
        ["compare.judge=vadr"],
        "judge vadr: there is no such judge. Did you mean `vader`?",
    ),
    "an LLM without its URL": (
        ["compare.judge=gpt-4.1-2025-04-14"],
        "needs the URL of its endpoint. Give base_url",
    ),
    "a lexicon with a URL": (
        ["compare={judge: vader, base_url: 'http://127.0.0.1:9/v1'}"],
        "vader is no LLM",
    ),
    "people without a file": (["compare.judge=human:none.jsonl"], "compare.judge: none.jsonl"),
    "a judge's function that is not there": (
        ["compare.judge=mine.py:nobody"],
        "mine.py has no function `nobody`",
    ),
    "a judge's function of other arguments": (
        ["compare.judge=mine.py:one"],
        "is called with (prompts, a, b)",
    ),
    "a judge that is a language model": (["compare.judge=MODEL"], "no reward model"),
    "a judge's template without its fields": (
        ["compare={judge: m, base_url: 'http://127.0.0.1:9/v1', template: empty.txt}"],
        "the template's question lacks {prompt}",
    ),
    "a watching judge that is not known": (["watch.judge=vadr"], "watch.judge: judge vadr"),
    # rewards and samplers
    "a reward's file that is not there": (
        ["policy.reward=[{function: 'none.py:f'}]"],
        "none.py: there is no such",
    ),
    "a reward's module that fails": (["policy.reward=[{function: 'broken.py:f'}]"], "cannot be imported"),
    "a reward of other arguments": (
        ["policy.reward=[{function: 'mine.py:one'}]"],
        "with (prompts, responses)",
    ),
    "a reward's folder that is not there": (
        ["policy.reward=[{model: runs/none/reward}]"],
        "is not there. Give a",
    ),
    "a reward that is a language model": (
        ["policy.reward=[{model: MODEL}]"],
        "no reward model. Give a folder",
    ),
    "a term with two rewards": (
        ["policy.reward=[{model: MODEL, function: 'mine.py:two'}]"],
        "Make two terms",
    ),
    "a sampler of other arguments": (["policy.sampler=mine.py:one"], "policy.sampler: `mine.py:one`"),
    "a sampler's address": (
        ["policy.sampler={kind: vllm, adapter_dir: a, url: e.invalid}"],
        "policy.sampler.url: e.invalid is no address",
    ),
    "a sampler's key that is not set": (
        ["policy.sampler={kind: vllm, adapter_dir: a, url: 'http://127.0.0.1:9', api_key_env: NO_SUCH_KEY}"],
        "policy.sampler.api_key_env: the environment variable NO_SUCH_KEY is not set",
    ),
    "a sampler of adapters without one": (
        [
            "policy.sampler={kind: vllm, adapter_dir: a, url: 'http://127.0.0.1:9'}",
            "policy.adapt.lora_rank=0",
        ],
        "policy.sampler: a vLLM server takes adapters",
    ),
    "a log-ratio's model that is not there": (
        ["policy.reward=[{log_ratio: {model: ./none, over: MODEL}}]"],
        "policy.reward.0.log_ratio.model: ./none: there is no such model folder",
    ),
    # finished policies
    "a start that is not there": (["policy.start=runs/none/policy"], "policy.start: runs/none/policy is no"),
    "a start of another model": (
        ["policy.start=other"],
        "policy.start: other was trained from another/model, and this run's model is",
    ),
    "a policy to go on from that is not there": (
        ["direct={method: expo, policy: runs/none/policy}"],
        "direct.policy: runs/none/policy is no folder of a policy",
    ),
    "a search without a limit": (
        ["direct={method: expo, policy: other}", "policy.kl.target=null"],
        "so give direct.kl_limit",
    ),
    "a method that draws for itself": (
        ["direct={method: sapo}", "policy.sampler=mine.py:none"],
        "direct.method=sapo samples from an average of the policy",
    ),
    # trackers
    "a tracker that is not known": (["trackers=[wanb]"], "Did you mean `wandb`?"),
    # sizes
    "a minibatch larger than the batch": (
        ["policy.minibatch_size=64"],
        "policy.batch_size 32 responses. Lower it.",
    ),
    "a least length above the longest": (
        ["policy.sampling.min_new_tokens=999"],
        "more than max_new_tokens 64",
    ),
    # editors and endpoints
    "an editor's key that is not set": (
        [
            "data.edits=null",
            "data.pairs.path=pairs.jsonl",
            "edit={model: m, base_url: 'https://e.invalid/v1'}",
        ],
        "edit.base_url: https://e.invalid/v1: no key. Set OPENAI_API_KEY",
    ),
    "a named key that is not set": (
        ["compare={judge: m, base_url: 'https://e.invalid/v1', api_key_env: NO_SUCH_KEY}"],
        "NO_SUCH_KEY, which api_key_env names, is not set",
    ),
    "a watching judge's key that is not set": (
        ["watch={judge: m, base_url: 'https://e.invalid/v1', api_key_env: NO_SUCH_KEY}"],
        "watch.base_url: https://e.invalid/v1: the environment variable NO_SUCH_KEY",
    ),
    "a key for another machine that is not set": (
        ["compare={judge: m, base_url: 'http://e.invalid/v1', api_key_env: NO_SUCH_KEY}"],
        "compare.base_url: http://e.invalid/v1: the environment variable NO_SUCH_KEY",
    ),
    "a URL that is none": (["compare={judge: m, base_url: e.invalid}"], "e.invalid: not a URL"),
    "an editor that is not here": (
        ["data.edits=null", "data.pairs.path=pairs.jsonl", "edit={model: gpt-4.1}"],
        "A model at an endpoint needs edit.base_url.",
    ),
    "an editor's template": (
        ["data.edits=null", "data.pairs.path=pairs.jsonl", "edit={model: smollm2-135m, template: resoned}"],
        "edit.template: --template resoned: cannot be read",
    ),
    "an editor's guideline": (
        [
            "data.edits=null",
            "data.pairs.path=pairs.jsonl",
            "edit={model: smollm2-135m, guideline: '@none.md'}",
        ],
        "edit.guideline",
    ),
    "pairs without an editor": (
        ["data.edits=null", "data.pairs.path=pairs.jsonl"],
        "needs an `edit` section",
    ),
}


@pytest.fixture
def recipe(tmp_path, monkeypatch, tiny_model, edits_file) -> Path:
    """A good recipe in the working folder, and what the mistakes name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    plain = {
        "name": "r",
        "model": {"name": tiny_model, "dtype": "float32"},
        "data": {"edits": {"path": "edits.jsonl"}},
        "compare": {"judge": "length"},
    }
    Path("r.yaml").write_text(yaml.safe_dump(plain))
    Path("odd.jsonl").write_text('{"question": "q"}\n{"question": "r"}\n')
    same = [{"id": str(n), "prompt": "p", "rejected": "a", "edited": "a"} for n in range(2)]
    Path("equal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in same))
    pair = {"id": "1", "prompt": "p", "chosen": "a", "rejected": "b"}
    Path("pairs.jsonl").write_text(json.dumps(pair) + "\n")
    Path("talks.jsonl").write_text(json.dumps({"prompt": TALK}) + "\n")
    Path("mine.py").write_text("def none(): ...\ndef one(x): ...\ndef two(x, y): ...\n")
    Path("broken.py").write_text("import no_such_module\n")
    Path("empty.txt").write_text("Which is better?")
    Path("empty").mkdir()
    Path("other/adapter").mkdir(parents=True)
    Path("other/adapter/adapter_config.json").write_text('{"base_model_name_or_path": "another/model"}')
    byte_bpe(STRICT).save_pretrained("strict")
    Path("strict/config.json").write_text((Path(tiny_model) / "config.json").read_text())
    return Path("r.yaml")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_line_found_in_seconds(redline, recipe, tiny_model, mistake):
    overrides, expected = MISTAKES[mistake]
    begun = time.monotonic()
    status, out, err = redline("check", recipe, *(key.replace("MODEL", tiny_model) for key in overrides))
    assert (status, out) == (1, "")
    assert time.monotonic() - begun < MOST_SECONDS
    *problems, last = err.splitlines()
    assert any(expected in line for line in problems), err
    assert last == f"redline: r.yaml: {len(problems)} to mend"
    assert all(line.startswith("redline: ") for line in problems)


def test_a_good_recipe_has_nothing_to_mend(redline, recipe):
    status, out, err = redline("check", recipe)
    assert (status, err) == (0, "")
    assert out == "r.yaml: nothing to mend. To do: data, label, reward, policy, compare, report.\n"


def test_all_mistakes_are_found_at_once_and_a_run_does_nothing(redline, recipe, tmp_path):
    mistakes = ["compare.judge=vadr", "policy.minibatch_size=64", "data.test.path=none.jsonl"]
    status, _, err = redline("run", recipe, "--out", "run", *mistakes)
    assert status == 2
    assert len(err.splitlines()) == 3
    assert not Path("run/data").exists()
    status, out, _ = redline("check", recipe, "--json", *mistakes)
    assert status == 1
    assert len(json.loads(out)["problems"]) == 3


def test_what_is_done_needs_nothing_any_more(redline, recipe):
    assert redline("train", "reward", recipe, "--out", "run", "reward.epochs=0.1")[0] == 0
    Path("edits.jsonl").unlink()
    status, out, err = redline("check", recipe, "--out", "run", "reward.epochs=0.1")
    assert (status, err) == (0, "")
    assert "To do: policy, compare, report" in out


def test_what_would_be_done_again_is_said(redline, recipe):
    assert redline("train", "reward", recipe, "--out", "run", "reward.epochs=0.1")[0] == 0
    status, out, _ = redline("check", recipe, "--out", "run", "reward.epochs=0.2")
    assert status == 0
    assert "reward will be done again: reward.epochs was 0.1, is 0.2 now" in out


def test_a_full_disk_is_foreseen(redline, recipe, monkeypatch):
    usage = namedtuple("usage", "total used free")(1, 1, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    status, _, err = redline("check", recipe)
    assert status == 1
    assert "models and checkpoints, and 0.0 GB are free" in err


def test_a_missing_package_is_found(redline, recipe, monkeypatch):
    from importlib import util

    there = util.find_spec
    gone = {"wandb", "vaderSentiment", "bitsandbytes"}
    for module in ("check", "check_model"):
        monkeypatch.setattr(
            f"redline.run.{module}.find_spec", lambda name: None if name in gone else there(name)
        )
    wanted = ["trackers=[wandb]", "compare.judge=vader", "model.load_in_4bit=true"]
    _, _, err = redline("check", recipe, *wanted)
    for package in gone:
        assert f"{package} is not installed" in err


def test_an_endpoint_is_asked_by_choice(redline, recipe):
    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        judge = f"compare={{judge: m, base_url: '{url}'}}"
        assert redline("check", recipe, judge)[0] == 0
        status, _, err = redline("check", recipe, judge, "--ask")
        server.shutdown()
    assert status == 1
    assert "the key was refused" in err


def test_no_weights_are_read(recipe):
    """Only what reads a conversation loads the tokenizers of Transformers."""
    import subprocess

    code = (
        "import sys; from redline.cli import main; sys.argv = ['redline', 'check', 'r.yaml']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'transformers', 'peft', 'datasets'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
