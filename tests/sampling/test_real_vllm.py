"""The sampler with a real vLLM server on loopback, the embedded model on the CPU in float32.

`make vllm` makes the server's environment; without it these tests are skipped.
"""

import json
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch
import yaml

from redline.data.records import Prompt
from redline.embedded import EMBEDDED
from redline.engine.models import eos_ids, tokenizer_of
from redline.engine.settings import Adapt, Model, Optimizer
from redline.policy.actor import ActorCritic
from redline.policy.settings import Kl, Policy
from redline.policy.train import train_policy
from redline.reward.settings import RewardTerm
from redline.sampling.open import open_sampler
from redline.sampling.protocol import Request
from redline.sampling.settings import Sampling, VllmServer

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from vllm_server import VllmProcess, server_python, vllm_server

sys.path.pop()

TEXTS = ["The film was", "I liked the way that", "A book about", "Once upon a time"]
PROMPTS = [Prompt(id=text, prompt=text) for text in TEXTS]
MODEL = Model(name=EMBEDDED, dtype="float32")
TEMPERATURE = 0.7
HELPERS = """
import json

from redline.sampling.settings import VllmServer
from redline.sampling.vllm import Vllm

def vowels(prompts, responses):
    return [float(sum(letter in "aeiou" for letter in response)) for response in responses]

class Recorded(Vllm):
    "The server, and a file of what it drew."
    def __init__(self):
        super().__init__(VllmServer(kind="vllm", url={url!r}, adapter_dir={adapters!r}))
    def sample(self, prompts, n, request):
        drawn = super().sample(prompts, n, request)
        with open({record!r}, "a") as file:
            file.write(json.dumps(drawn.ids) + "\\n")
        return drawn

class Replayed:
    "The same responses again, without the server."
    def __init__(self):
        self.batches = [json.loads(line) for line in open({record!r})]
    def sync(self, policy):
        pass
    def sample(self, prompts, n, request):
        return self.batches.pop(0), None
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    python = server_python()
    if not python.exists():
        pytest.skip(
            f"no vLLM server at {python}: run `make vllm`, or set REDLINE_VLLM_PYTHON to the Python of an "
            "environment that has vLLM"
        )
    with vllm_server(python, tmp_path_factory.mktemp("server") / "log", "float32") as process:
        yield process


@pytest.fixture
def sampler(server: VllmProcess, tmp_path):
    return open_sampler(VllmServer(kind="vllm", url=server.url, adapter_dir=str(tmp_path / "adapters")))


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(MODEL)


@pytest.fixture
def actor():
    """A policy whose adapter is no longer the identity."""
    made = ActorCritic(MODEL, Adapt(lora_rank=4, train_layers=2))
    torch.manual_seed(0)
    change(made)
    return made


@torch.no_grad()
def change(actor):
    for name, parameter in actor.named_parameters():
        if "lora_B" in name:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)


@torch.no_grad()
def mean_drift(lm, prompts, drawn):
    """Between a sampler's log-probabilities and plain Transformers', in nats a token."""
    gaps = []
    for prompt, response, logprobs in zip(prompts, drawn.ids, drawn.logprobs, strict=True):
        logits = lm(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        warm = (logits.float() / TEMPERATURE).log_softmax(-1)
        own = warm.gather(1, torch.tensor(response)[:, None])[:, 0]
        gaps.append((own - torch.tensor(logprobs)).abs())
    return float(torch.cat(gaps).mean())


def loaded_adapters(server):
    cards = httpx.get(f"{server.url}/v1/models", trust_env=False).json()["data"]
    return [card["id"] for card in cards if card["parent"] is not None]


def test_ids_logprobs_seeds_and_adapters(server, sampler, tokenizer, actor):
    """Everything that the sampler asks of a server, of the real one."""
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    sampling = Sampling(max_new_tokens=12, temperature=TEMPERATURE)
    stop = eos_ids(actor.lm, tokenizer, TEXTS)
    names = []
    for _ in range(3):
        change(actor)
        sampler.sync(actor.current())
        names.append(sampler.adapter.name)
    assert loaded_adapters(server) == names[1:]

    drawn = sampler.sample(prompts, 1, Request(sampling, stop, seed=1))
    assert mean_drift(actor.lm, prompts, drawn) < 1e-3
    with actor.current_reference() as reference:
        assert mean_drift(reference.lm, prompts, drawn) > 0.1  # the adapter has drawn, not the base model
        sampler.sync(reference)
        assert (
            mean_drift(reference.lm, prompts, sampler.sample(prompts, 1, Request(sampling, stop, 1))) < 1e-3
        )

    sampler.sync(actor.current())
    assert sampler.sample(prompts, 1, Request(sampling, stop, seed=1)).ids == drawn.ids
    assert sampler.sample(prompts, 1, Request(sampling, stop, seed=2)).ids != drawn.ids
    ender = drawn.ids[0][3]
    ended = sampler.sample(prompts[:1], 1, Request(sampling, [ender], seed=1)).ids[0]
    assert ended == drawn.ids[0][: drawn.ids[0].index(ender) + 1]  # the stop token is the last


def policy_settings(tmp_path, server, sampler: str | VllmServer, **settings):
    folder, record = str(tmp_path / "adapters"), str(tmp_path / "drawn")
    (tmp_path / "helpers.py").write_text(HELPERS.format(url=server.url, adapters=folder, record=record))
    return Policy(
        reward=[RewardTerm(function=f"{tmp_path / 'helpers.py'}:vowels")],
        reward_scale=1.0,
        sampler=f"{tmp_path / 'helpers.py'}:{sampler}" if isinstance(sampler, str) else sampler,
        adapt=Adapt(lora_rank=4, train_layers=4),
        optimizer=Optimizer(lr=1e-3),
        kl=Kl(target=None, coefficient=0.05),
        sampling=Sampling(max_new_tokens=8, temperature=TEMPERATURE),
        batch_size=8,
        minibatch_size=4,
        **settings,
    )


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_three_updates_are_those_of_training_in_this_process(server, tmp_path):
    """The server draws and its log-probabilities weight the advantages; in this process the same responses
    have no weights. What is between the two is the drift."""
    corrected = policy_settings(tmp_path, server, "Recorded", updates=3, importance_cap=2.0)
    train_policy(corrected, MODEL, PROMPTS, tmp_path / "served")
    train_policy(policy_settings(tmp_path, server, "Replayed", updates=3), MODEL, PROMPTS, tmp_path / "here")
    served, here = log_of(tmp_path / "served"), log_of(tmp_path / "here")
    assert len(served) == 3
    drift = max(line["sampler_drift"] for line in served)
    assert 0 < drift < 1e-3
    assert served[-1]["kl"] > 100 * drift  # an adapter that the server had not taken would show in the drift
    for mine, theirs in zip(served, here, strict=True):
        assert mine["importance"] == pytest.approx(1.0, abs=1e-3)
        for figure in ("policy_loss", "value_loss", "reward", "entropy"):
            assert mine[figure] == pytest.approx(theirs[figure], abs=10 * drift + 1e-4), figure


def test_a_training_goes_on_when_the_server_was_killed(server, tmp_path):
    """Killed without a word while it draws, and started again: the training waits, hands its adapter over
    again, and ends."""
    section = VllmServer(kind="vllm", url=server.url, adapter_dir=str(tmp_path / "adapters"))
    settings = policy_settings(tmp_path, server, section, updates=4)

    def kill_and_start() -> None:
        log = tmp_path / "policy" / "log.jsonl"
        while not log.exists() or len(log.read_text().splitlines()) < 2:
            time.sleep(0.05)
        server.kill()
        server.start()

    helper = threading.Thread(target=kill_and_start, daemon=True)
    helper.start()
    train_policy(settings, MODEL, PROMPTS, tmp_path / "policy")
    helper.join()
    log = log_of(tmp_path / "policy")
    assert [line["update"] for line in log] == [1, 2, 3, 4]
    assert max(line["sampler_drift"] for line in log) < 1e-3


RECIPES = Path(__file__).parents[2] / "recipes"
EDITS, OPENINGS, TOKENS = 30, 4, 8


def answered(server):
    """How many requests the server has answered since it began."""
    lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:request_success_"))


def run_through(redline, server, folder, direct):
    """A run of a method in PPO's place, on a few of the quickstart's edits: its folder, and how many requests
    the server answered for it."""
    folder.mkdir()
    for name, count in (("edits", EDITS), ("eval", OPENINGS)):
        records = (RECIPES / "quickstart" / f"{name}.jsonl").read_text().splitlines()[:count]
        (folder / f"{name}.jsonl").write_text("\n".join(records) + "\n")
    recipe = {
        "name": "served",
        "model": {"name": EMBEDDED, "dtype": "float32"},
        "data": {
            "edits": {"path": "edits.jsonl"},
            "eval_prompts": {"path": "eval.jsonl"},
            "validation_share": 0.3,
        },
        "direct": direct,
        "policy": {
            "sampler": {"kind": "vllm", "url": server.url, "adapter_dir": str(folder / "adapters")},
            "adapt": {"lora_rank": 4, "train_layers": 4},
            "sampling": {"max_new_tokens": TOKENS, "temperature": TEMPERATURE},
            "reward": [{"function": f"{__file__}:vowels"}],
        },
        "watch": {"every": 4},
        "compare": {"judge": f"{__file__}:longer"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    before = answered(server)
    status, _, err = redline("run", folder / "recipe.yaml", "--out", folder / "run")
    assert status == 0, err
    return folder / "run", answered(server) - before


def vowels(prompts, responses):
    return [float(sum(letter in "aeiou" for letter in response)) for response in responses]


def longer(prompts, first, second):
    return [float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


def test_rounds_the_watching_judge_and_the_comparison_draw_there(redline, server, tmp_path):
    """SPIN in two rounds: each draws a response to every edit's prompt. Each measurement, the original that
    it is measured against, and both sides of the comparison draw one to every opening."""
    run, drawn = run_through(
        redline, server, tmp_path / "spin", {"method": "spin", "rounds": 2, "batch_size": 6}
    )
    trained = len((run / "labels" / "train.jsonl").read_text().splitlines())
    measurements = sum("gold" in line for line in log_of(run / "policy"))
    probes = 2 * 2  # of the adapter and of the base model, for the training and for the comparison
    assert drawn == 2 * trained + (measurements + 3) * OPENINGS + probes


def test_best_of_n_draws_there(redline, server, tmp_path):
    _, drawn = run_through(redline, server, tmp_path / "best", {"method": "best_of_n", "n": 4})
    assert drawn == (4 + 1) * OPENINGS + 1  # and a probe of the base model
