"""A vLLM server as the sampler: what it is asked, what it must answer, and what is done when it fails.

The server is a stand-in that computes with a real tiny model; test_real_vllm.py has the real one.
"""

import gc
import json
import time

import pytest
import torch
from vllm_standin import StandIn, serving

from redline.data.records import Prompt
from redline.engine.models import load_causal_lm
from redline.engine.settings import Adapt, Model, Optimizer
from redline.errors import UserError
from redline.policy.actor import ActorCritic
from redline.policy.settings import Policy
from redline.policy.train import train_policy
from redline.reward.settings import RewardTerm
from redline.sampling.open import open_sampler
from redline.sampling.protocol import CurrentPolicy, Request
from redline.sampling.settings import Sampling, VllmServer

PROMPTS = [[5, 6, 7], [8, 9, 10, 11], [14]]
STOP = [1]


@pytest.fixture
def stand_in(tiny_model):
    return StandIn(tiny_model)


@pytest.fixture
def url(stand_in):
    with serving(stand_in) as address:
        yield address


@pytest.fixture
def model(tiny_model):
    return Model(name=tiny_model, dtype="float32")


def sampler_for(url, tmp_path, patience=5.0, **settings):
    folder = str(tmp_path / "adapters")
    return open_sampler(VllmServer(kind="vllm", url=url, adapter_dir=folder, patience=patience, **settings))


def request(seed=0, **sampling):
    return Request(Sampling(max_new_tokens=6, **sampling), STOP, seed)


def logprobs_here(lm, prompt, response, temperature=1.0):
    """What this process computes for a response's tokens, without Redline's own passes."""
    logits = lm(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0].tolist()


def changed_actor(model):
    """A policy whose adapter is no longer the identity."""
    actor = ActorCritic(model, Adapt(lora_rank=4, train_layers=2))
    torch.manual_seed(0)
    for name, parameter in actor.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    return actor


@torch.no_grad()
def test_the_adapter_draws_and_its_logprobs_are_the_policys(stand_in, url, model, tmp_path):
    actor = changed_actor(model)
    sampler = sampler_for(url, tmp_path)
    sampler.sync(actor.current())
    drawn = sampler.sample(PROMPTS, 2, request(temperature=0.8))
    assert len(drawn.ids) == 6
    for prompt, response, told in zip(
        [p for p in PROMPTS for _ in range(2)], drawn.ids, drawn.logprobs, strict=True
    ):
        assert told == pytest.approx(logprobs_here(actor.lm, prompt, response, 0.8), abs=1e-4)
    asked = [body for body in stand_in.completions if body["max_tokens"] == 6]
    assert len(asked) == 6
    assert len({body["seed"] for body in asked}) == 6
    assert asked[0]["stop_token_ids"] == STOP
    assert asked[0]["return_token_ids"]
    assert asked[0]["repetition_penalty"] == 1  # else the model's generation_config.json would say it


@torch.no_grad()
def test_the_reference_is_the_servers_base_model(stand_in, url, model, tmp_path):
    lm = load_causal_lm(model)
    sampler = sampler_for(url, tmp_path)
    sampler.sync(CurrentPolicy(lm))
    [response] = sampler.sample(PROMPTS[:1], 1, request()).ids
    assert {body["model"] for body in stand_in.completions} == {"base"}
    assert not stand_in.loads
    assert response == sampler.sample(PROMPTS[:1], 1, request()).ids[0]
    assert sampler.sample(PROMPTS, 1, request(seed=1)).ids != sampler.sample(PROMPTS, 1, request(seed=2)).ids


def test_an_adapter_is_loaded_once_and_old_ones_are_let_go(stand_in, url, model, tmp_path):
    actor = changed_actor(model)
    sampler = sampler_for(url, tmp_path)
    names = []
    for update in range(4):
        sampler.sync(actor.current())
        sampler.sync(actor.current())
        names.append(sampler.adapter.name)
        with torch.no_grad():
            next(p for n, p in actor.named_parameters() if "lora_B" in n).add_(update + 1)
    assert stand_in.loads == names
    assert len(set(names)) == 4
    assert stand_in.unloads == names[:2]
    assert sorted(folder.name for folder in (tmp_path / "adapters").iterdir()) == sorted(names[2:])


def test_two_servers_share_a_batch(stand_in, url, model, tmp_path, tiny_model):
    other = StandIn(tiny_model)
    with serving(other) as second:
        sampler = sampler_for([url, second], tmp_path)
        sampler.sync(changed_actor(model).current())
        drawn = sampler.sample(PROMPTS, 2, request())
    assert len(drawn.ids) == 6
    assert len(stand_in.completions) == len(other.completions) == 4  # three responses and the trial each


def test_a_restarted_server_gets_its_adapter_again(stand_in, url, model, tmp_path):
    sampler = sampler_for(url, tmp_path)
    sampler.sync(changed_actor(model).current())
    before = sampler.sample(PROMPTS, 1, request()).ids
    stand_in.restart()
    assert sampler.sample(PROMPTS, 1, request()).ids == before


def test_a_busy_server_is_asked_again_and_one_that_stays_away_ends_in_one_line(
    stand_in, url, model, tmp_path
):
    sampler = sampler_for(url, tmp_path)
    sampler.sync(CurrentPolicy(load_causal_lm(model)))
    stand_in.busy = 2
    assert len(sampler.sample(PROMPTS, 1, request()).ids) == 3
    impatient = sampler_for(url, tmp_path, patience=0.2)
    impatient.sync(CurrentPolicy(load_causal_lm(model)))
    stand_in.busy = 10**6
    with pytest.raises(UserError, match=r"did not answer for 0.2 s \(status 503: the engine is starting\)"):
        impatient.sample(PROMPTS, 1, request())


def test_patience_begins_with_the_first_fault(stand_in, url, model, tmp_path):
    """A response may take longer than that."""
    sampler = sampler_for(url, tmp_path, patience=0.8)
    sampler.sync(CurrentPolicy(load_causal_lm(model)))
    before = sampler.sample(PROMPTS[:1], 1, request()).ids
    stand_in.slow = 1.0
    assert sampler.sample(PROMPTS[:1], 1, request()).ids == before


def test_a_response_that_was_broken_off_is_drawn_again(stand_in, url, model, tmp_path):
    sampler = sampler_for(url, tmp_path)
    sampler.sync(CurrentPolicy(load_causal_lm(model)))
    before = sampler.sample(PROMPTS, 1, request()).ids
    stand_in.broken_off = 2
    assert sampler.sample(PROMPTS, 1, request()).ids == before


def test_a_batch_is_drawn_though_one_of_two_servers_is_away(stand_in, url, model, tmp_path, tiny_model):
    actor = changed_actor(model)
    with serving(StandIn(tiny_model)) as second:
        sampler = sampler_for([url, second], tmp_path, patience=60)
        sampler.sync(actor.current())
        sampler.sample(PROMPTS, 1, request())
    begun = time.monotonic()  # the second has gone
    with torch.no_grad():
        next(p for n, p in actor.named_parameters() if "lora_B" in n).add_(1)
    sampler.sync(actor.current())
    assert len(sampler.sample(PROMPTS, 2, request()).ids) == 6
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    ("status", "said", "line"),
    [
        (500, "LoRA rank 32 is greater than max_lora_rank 16.", "Start it with --max-lora-rank of at least"),
        (404, "Loading lora x failed: No adapter found for /there", "under the same path"),
        (404, "Not Found", "Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_is_one_line_at_once(
    stand_in, url, model, tmp_path, status, said, line
):
    stand_in.cannot_load = (status, said)
    with pytest.raises(UserError, match=line):
        sampler_for(url, tmp_path, patience=600).sync(changed_actor(model).current())


def test_a_saved_adapter_is_handed_over_in_the_shared_folder(stand_in, url, model, tmp_path):
    """The server need not see the run's folder."""
    actor = changed_actor(model)
    actor.peft.save_pretrained(tmp_path / "run")
    sampler = sampler_for(url, tmp_path)
    sampler.sync(CurrentPolicy(actor.lm, tmp_path / "run"))
    assert sampler.adapter.folder.parent == tmp_path / "adapters"
    assert (sampler.adapter.folder / "adapter_config.json").exists()


def test_nothing_is_left_behind(stand_in, url, model, tmp_path):
    sampler = sampler_for(url, tmp_path)
    sampler.sync(changed_actor(model).current())
    del sampler
    gc.collect()
    assert stand_in.unloads == stand_in.loads
    stand_in.cannot_load = (400, "no")
    with pytest.raises(UserError, match="cannot load the adapter"):
        sampler_for(url, tmp_path).sync(changed_actor(model).current())
    gc.collect()
    assert not list((tmp_path / "adapters").iterdir())


def test_a_server_with_a_key(stand_in, url, model, tmp_path, monkeypatch):
    stand_in.key = "secret"
    policy = CurrentPolicy(load_causal_lm(model))
    sampler = sampler_for(url, tmp_path)
    sampler.sync(policy)
    with pytest.raises(UserError, match="asks for a key"):
        sampler.sample(PROMPTS, 1, request())
    monkeypatch.setenv("SERVER_KEY", "secret")
    sampler = sampler_for(url, tmp_path, api_key_env="SERVER_KEY")
    sampler.sync(policy)
    assert len(sampler.sample(PROMPTS, 1, request()).ids) == 3


def test_sequences_longer_than_the_servers_are_one_line(url, model, tmp_path):
    sampler = sampler_for(url, tmp_path)
    sampler.sync(CurrentPolicy(load_causal_lm(model)))
    with pytest.raises(UserError, match=r"a prompt of 2045 and \S+ make 2051"):
        sampler.sample([[5] * 2045], 1, request())


def test_another_model_and_untempered_logprobs_are_told_apart(stand_in, url, model, tmp_path):
    lm = load_causal_lm(model)
    with torch.no_grad():
        lm.get_input_embeddings().weight.mul_(-3)
    sampler = sampler_for(url, tmp_path)
    sampler.sync(CurrentPolicy(lm))
    with pytest.raises(UserError, match="runs another model or tokenizer"):
        sampler.sample(PROMPTS, 1, request())
    stand_in.before_temperature = True
    with torch.no_grad():
        for parameter in stand_in.base.parameters():
            parameter.mul_(3)
        sharp = load_causal_lm(model)
        sharp.load_state_dict(stand_in.base.state_dict())
    sampler = sampler_for(url, tmp_path)
    sampler.sync(CurrentPolicy(sharp))
    with pytest.raises(UserError, match="--logprobs-mode processed_logprobs"):
        sampler.sample(PROMPTS, 1, request(temperature=3.0))


def test_a_cut_distribution_has_no_comparable_logprobs(url, model, tmp_path):
    sampler = sampler_for(url, tmp_path)
    sampler.sync(CurrentPolicy(load_causal_lm(model)))
    assert sampler.sample(PROMPTS, 1, request(top_p=0.9)).logprobs is None


def test_full_fine_tuning_is_refused_in_one_line(url, model, tmp_path):
    actor = ActorCritic(model, Adapt(lora_rank=0))
    with pytest.raises(UserError, match="takes adapters, and this policy trains the model's own weights"):
        sampler_for(url, tmp_path).sync(actor.current())


def test_a_key_that_is_not_set_is_said_at_once(tmp_path):
    with pytest.raises(UserError, match="NO_SUCH_KEY is not set"):
        sampler_for("http://127.0.0.1:9", tmp_path, api_key_env="NO_SUCH_KEY")


def test_drawing_ahead_is_the_same_when_the_server_waits(tiny_model, model, tmp_path):
    """A server that draws a batch only when it has the next adapter, and from it, makes ``ahead: 1`` the
    training that ``ahead: 0`` is."""
    (tmp_path / "score.py").write_text(VOWELS)
    logs = []
    for ahead in (0, 1):
        stand_in = StandIn(tiny_model)
        with serving(stand_in) as url:
            stand_in.at_once = 1 + 6 if ahead else None  # the trial and the first batch
            policy = Policy(
                reward=[RewardTerm(function=f"{tmp_path / 'score.py'}:vowels")],
                reward_scale=1.0,
                sampler=VllmServer(kind="vllm", url=url, adapter_dir=str(tmp_path / "adapters")),
                adapt=Adapt(lora_rank=4, train_layers=2),
                optimizer=Optimizer(lr=3e-3),
                sampling=Sampling(max_new_tokens=6),
                importance_cap=2.0,
                ahead=ahead,
                updates=3,
                batch_size=6,
                minibatch_size=3,
            )
            prompts = [Prompt(id=text, prompt=text) for text in ("the film", "I liked", "a book")]
            train_policy(policy, model, prompts, tmp_path / f"ahead-{ahead}" / "policy")
        logs.append(log_of(tmp_path / f"ahead-{ahead}"))
    assert len(logs[0]) == 3
    assert logs[0][-1]["kl"] > 1e-4  # it has learned
    for in_turn, ahead_of_it in zip(*logs, strict=True):
        for figure in ("policy_loss", "value_loss", "kl", "reward", "entropy", "sampler_drift"):
            assert ahead_of_it[figure] == pytest.approx(in_turn[figure], abs=1e-5)


VOWELS = """
def vowels(prompts, responses):
    return [float(sum(c in 'aeiou' for c in response)) for response in responses]
"""


def test_three_updates_through_the_server_equal_training_on_the_same_responses(
    stand_in, url, model, tmp_path, redline, edits_file
):
    """The server's responses, replayed in this process, give the same losses: rollout arithmetic is no part
    of them."""
    (tmp_path / "score.py").write_text(VOWELS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        json.dumps(
            {
                "name": "served",
                "model": {"name": model.name, "dtype": "float32"},
                "data": {"edits": {"path": str(edits_file)}},
                "policy": {
                    "reward": [{"function": f"{tmp_path / 'score.py'}:vowels"}],
                    "adapt": {"lora_rank": 4, "train_layers": 2},
                    "sampler": {"kind": "vllm", "url": url, "adapter_dir": str(tmp_path / "adapters")},
                    "sampling": {"max_new_tokens": 6},
                    "updates": 3,
                    "batch_size": 4,
                    "minibatch_size": 2,
                },
                "watch": {"every": 0},
                "compare": {"judge": "length"},
            }
        )
    )
    status, _, err = redline("train", "policy", recipe, "--out", tmp_path / "served")
    assert status == 0, err
    served = log_of(tmp_path / "served")
    assert max(line["sampler_drift"] for line in served) < 1e-4
    recorded = [body for body in stand_in.completions if body["max_tokens"] == 6]
    assert len(recorded) == 4 * (
        3 + 4
    )  # three updates, and four batches that the reward's scale is measured on
    (tmp_path / "replay.json").write_text(json.dumps(answers(stand_in, recorded)))
    (tmp_path / "replay.py").write_text(REPLAY.format(file=str(tmp_path / "replay.json")))
    status, _, err = redline(
        "train",
        "policy",
        recipe,
        f"policy.sampler={tmp_path / 'replay.py'}:Replay",
        "--out",
        tmp_path / "replayed",
    )
    assert status == 0, err
    for mine, theirs in zip(log_of(tmp_path / "replayed"), served, strict=True):
        for figure in ("policy_loss", "value_loss", "kl", "reward"):
            assert mine[figure] == pytest.approx(theirs[figure], abs=1e-6)


REPLAY = """
import json

class Replay:
    def __init__(self):
        self.left = json.load(open({file!r}))
    def sync(self, policy):
        pass
    def sample(self, prompts, n, request):
        found = [self.left[str((list(prompt), (request.seed * 1_000_003 + place) % 2**62))]
                 for prompt, place in zip(prompts, request.places_of(len(prompts)))]
        return found, None
"""


def answers(stand_in, recorded):
    """Each recorded response by its prompt and seed, drawn again as it was."""
    return {str((body["prompt"], body["seed"])): body["drawn"] for body in recorded}


def log_of(folder):
    return [json.loads(line) for line in (folder / "policy" / "log.jsonl").read_text().splitlines()]
