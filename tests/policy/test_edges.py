"""What an update meets at its edges: empty and one-token responses, ends everywhere or nowhere, rewards that
say nothing."""

import json
from pathlib import Path

import engine_rig
import pytest
import torch
from engine_rig import ADAPTS, Rig, Twin, assert_equal
from reference_loop import Sampled
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification, GPT2Config

from redline.data.records import Prompt
from redline.data.settings import Data, Source
from redline.data.tokenization import encode_prompt
from redline.engine.settings import Adapt, Model, Optimizer
from redline.engine.trunk import Trunk
from redline.errors import UserError
from redline.policy.batch import Batch
from redline.policy.log import RunLog
from redline.policy.settings import Kl
from redline.policy.train import train_policy
from redline.recipe import Recipe
from redline.reward.model import new_reward_model, save_reward_model
from redline.reward.rewards import build_reward
from redline.reward.settings import Reward, RewardTerm
from redline.run.run import Run
from redline.sampling.settings import Sampling
from tiny_models import CONFIGS, model_folder, random_model, sampled
from tiny_tokenizers import byte_bpe

EOS = 1
SHORT = GPT2Config(
    n_embd=32, n_layer=2, n_head=4, vocab_size=501, n_positions=16, bos_token_id=0, eos_token_id=1
)


def row(
    *response: int, ended: bool | None = None, prompt: tuple[int, ...] = (5, 6, 7), reward: float = 0.7
) -> Sampled:
    """A response, whose reward rises from token to token."""
    ids = torch.tensor(response, dtype=torch.long)
    ended = bool(response) and response[-1] == EOS if ended is None else ended
    return Sampled(torch.tensor(prompt), ids, reward * torch.arange(len(ids)).float(), ended)


BATCHES = {
    "an empty response": [row(8, 9, 10), row(), row(11, EOS)],
    "responses of one token": [row(8, reward=1), row(9), row(EOS)],
    "none with an end": [row(8, 9), row(10, 11, 12)],
    "all with an end": [row(8, 9, EOS), row(10, EOS)],
    "nothing but ends": [row(EOS, reward=1), row(EOS, prompt=(9, 5))],
    "all cut off at one length": [row(8, 9, 10, 11), row(12, 13, 14, 15)],
    "one valid token": [row(), row(17), row()],
    "ends inside the prompt": [row(8, 9, EOS, prompt=(5, EOS, EOS, 6)), row(9, 10, prompt=(EOS,))],
    "padding's own token in prompt and response": [row(0, 0, 9, prompt=(0, 0, 5)), row(0, EOS, prompt=(0,))],
    "rewards of zero": [row(8, 9, 10, reward=0), row(11, EOS, reward=0)],
}


@pytest.fixture(scope="module", params=["LoRA", "full, upper layers"])
def rig(request, model, tmp_path_factory) -> Rig:
    return Rig(model, engine_rig.recipe(ADAPTS[request.param]))


def assert_an_update_equals_the_plain_loop(rig: Rig, monkeypatch, batch: list[Sampled], **changes) -> Batch:
    """Its metrics and gradients, and values for every token; returns the update's batch."""
    metrics, result = rig.update(monkeypatch, batch, **changes)
    rig.restart()
    twin = Twin(rig, engine_rig.settings(rig.recipe))
    seen = twin.watched(batch, [list(range(len(batch)))] * 2)
    if sum(len(one.response) for one in batch) == 1:  # nothing to explain: one return has no variance
        seen.means["explained_variance"] = float("nan")
    assert_equal(rig, metrics, twin, seen)
    assert [len(values) for values in result.rows(result.values)] == [len(one.response) for one in batch]
    return result


@pytest.mark.parametrize("case", BATCHES)
def test_an_update_at_the_edge_equals_the_plain_loop(rig, monkeypatch, case):
    assert_an_update_equals_the_plain_loop(rig, monkeypatch, BATCHES[case])


@pytest.mark.parametrize("per_batch", [None, 0.01])
def test_a_batch_of_empty_responses_changes_nothing_and_says_so(rig, monkeypatch, per_batch):
    metrics, _ = rig.update(
        monkeypatch, [row(), row()], kl=Kl(target=None, coefficient=0.05, per_batch=per_batch)
    )
    assert all(torch.equal(parameter, rig.start[name]) for name, parameter in rig.trained.items())
    assert metrics["kl"] == metrics["reward"] == metrics["policy_loss"] == metrics["grad_norm"] == 0


def test_the_length_of_empty_responses_is_0(rig, monkeypatch):
    assert rig.update(monkeypatch, [row(), row()])[0]["length"] == 0


def test_an_empty_response_changes_no_gradient(rig, monkeypatch):
    rig.update(monkeypatch, BATCHES["an empty response"])
    with_it = rig.gradients[0]
    rig.gradients = []
    rig.ppo.stepper.optimizer.optimizer.register_step_pre_hook(
        lambda *_: rig.gradients.append(
            {name: parameter.grad.clone() for name, parameter in rig.trained.items()}
        )
    )
    rig.update(monkeypatch, [one for one in BATCHES["an empty response"] if len(one.response)])
    for name, gradient in rig.gradients[0].items():
        torch.testing.assert_close(gradient, with_it[name], rtol=1e-4, atol=1e-6)


def trained(out, model: Model, tmp_path, **changes) -> dict:
    (tmp_path / "r.py").write_text(
        "def f(prompts, responses):\n    return [float(text.count('a')) for text in responses]\n"
        "def zero(prompts, responses):\n    return [0.0] * len(responses)\n"
    )
    how = engine_rig.recipe(
        Adapt(lora_rank=4, train_layers=2),
        **{
            "reward": [RewardTerm(function=f"{tmp_path}/r.py:f")],
            "updates": 2,
            "optimizer": Optimizer(lr=0.01),
            **changes,
        },
    )
    train_policy(
        how, model, [Prompt(id=text, prompt=text) for text in ("the film was<|endoftext|>", "I")], out
    )
    return load_file(out / "adapter/adapter_model.safetensors")


def padded_with(folder: Path, pad: str | None, ends: float = 1) -> Model:
    """A model whose padding is ``pad``, in its tokenizer and its configuration. The logit of its end of text
    is ``ends`` times what it would be."""
    name, tokenizer = model_folder(folder), byte_bpe()
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": tokenizer.pad_token_id}))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][EOS] *= ends
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return Model(name=name, dtype="float32")


def test_which_token_pads_changes_nothing(tmp_path):
    """Padding may be the end of text, as it is in most causal models, or any other token, or none. Prompts
    and responses end with that token here, and a response's end earns its reward."""
    found = []
    for pad in ("<|endoftext|>", "<s>", None):
        folder = tmp_path / str(pad).strip("<|>")
        weights = trained(
            folder / "out", padded_with(folder, pad, ends=5), tmp_path, batch_size=8, eos_reward=2.0
        )
        samples = [json.loads(line) for line in (folder / "out/samples.jsonl").read_text().splitlines()]
        assert {line["ended"] for line in samples} == {True, False}
        assert all(line["rewards"][-1] >= 2 for line in samples if line["ended"])
        found.append((weights, samples))
    for weights, samples in found[1:]:
        assert samples == found[0][1]
        assert all(torch.equal(tensor, weights[name]) for name, tensor in found[0][0].items())


@pytest.mark.parametrize("case", ["all with an end", "ends inside the prompt", "nothing but ends"])
def test_the_end_is_rewarded_and_trained_on_where_it_is_the_padding_too(tmp_path, monkeypatch, case):
    rig = Rig(padded_with(tmp_path / "model", "<|endoftext|>"), engine_rig.recipe(ADAPTS["LoRA"]))
    assert rig.tokenizer.pad_token_id == rig.ppo.actor.lm.config.pad_token_id == EOS
    batch = BATCHES[case]
    result = assert_an_update_equals_the_plain_loop(rig, monkeypatch, batch)
    for found, one in zip(result.rows(result.rewards), batch, strict=True):
        assert found.tolist() == pytest.approx((0.5 * one.reward).tolist())


def test_a_reward_of_zeros_is_said_and_trained_on(tmp_path, model, capsys):
    """Its scale cannot be measured: it stays 1. The KL penalty alone moves the policy."""
    trained(
        tmp_path / "out",
        model,
        tmp_path,
        reward=[RewardTerm(function=f"{tmp_path}/r.py:zero")],
        reward_scale=None,
    )
    lines = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert [line["reward"] for line in lines] == [0, 0]
    assert {key for key, value in lines[0].items() if value is None} <= {
        "explained_variance"
    }  # of returns that are all 0
    assert torch.tensor([value for value in lines[1].values() if value is not None]).isfinite().all()
    said = " ".join(capsys.readouterr().err.split())
    assert "the reward of all 16 responses of the reference is the same (0)" in said


def test_a_prompt_at_the_models_limit():
    """GPT-2 has a position for so many tokens and no more."""
    rollout = sampled(
        random_model(SHORT), [list(range(5, 16)), [7]], Sampling(max_new_tokens=5), [500], seed=1, keep={1}
    )
    assert [len(ids) for ids in rollout.sequences] == [16, 6]
    assert [len(states) for states in rollout.states.at(1)] == [16, 6]


@pytest.mark.parametrize("adapt", ["full", "full, upper layers"])
def test_an_update_up_to_the_models_last_position_equals_the_plain_loop(tmp_path, monkeypatch, adapt):
    """Rows in passes of their own, so that all are re-scored."""
    name = model_folder(tmp_path / "gpt2", SHORT)
    rig = Rig(Model(name=name, dtype="float32"), engine_rig.recipe(ADAPTS[adapt]))
    batch = [
        row(8, 9, 10, 11, EOS, prompt=tuple(range(5, 16))),
        row(12, prompt=tuple(range(5, 20))),
        row(8, 9),
    ]
    assert [len(one.prompt) + len(one.response) for one in batch] == [16, 16, 5]
    assert_an_update_equals_the_plain_loop(rig, monkeypatch, batch, microbatch_tokens=16)


@pytest.mark.parametrize("share_cut", [0, 1])
def test_the_models_last_position_is_scored(tmp_path, share_cut):
    """From the tokens or from the states that sampling kept, as plain Transformers do it."""
    lm = random_model(SHORT)
    name = model_folder(tmp_path / "gpt2", SHORT)
    made, wrapped = new_reward_model(
        Reward(loss="pairwise", adapt=Adapt(lora_rank=2, train_layers=1)), Model(name=name, dtype="float32")
    )
    torch.nn.init.normal_(made.head.weight)
    save_reward_model(made, wrapped, tmp_path / "reward", name)
    trunk = Trunk(share_cut)
    reward = build_reward([RewardTerm(model=str(tmp_path / "reward"))], None, byte_bpe(), lm, trunk)
    assert len(trunk.layers) == share_cut
    rollout = sampled(
        lm, [list(range(5, 16)), [7]], Sampling(max_new_tokens=5), [500], seed=1, keep=trunk.layers
    )
    assert [len(ids) for ids in rollout.sequences] == [16, 6]
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "reward", dtype=torch.float32).eval()
    for found, prompt, ids in zip(reward(rollout), rollout.prompt_ids, rollout.sequences, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(
                found, plain(input_ids=ids[None]).logits[0, len(prompt) :, 0], rtol=1e-4, atol=1e-4
            )


def test_what_just_fits_the_model_is_trained_on_and_a_token_more_is_refused(tmp_path):
    model = Model(name=model_folder(tmp_path / "gpt2", SHORT), dtype="float32")
    room = 16 - len(encode_prompt(byte_bpe(), "the film was<|endoftext|>"))
    trained(tmp_path / "fits", model, tmp_path, sampling=Sampling(max_new_tokens=room, min_new_tokens=room))
    lines = [json.loads(line) for line in (tmp_path / "fits/log.jsonl").read_text().splitlines()]
    assert [line["length"] for line in lines] == [room, room]
    assert all(line["first_ratio_error"] < 1e-4 and line["sampler_drift_max"] < 1e-4 for line in lines)
    with pytest.raises(
        UserError, match=r"make 17 tokens; .* has 16 positions\. Lower sampling\.max_new_tokens"
    ):
        trained(tmp_path / "out", model, tmp_path, sampling=Sampling(max_new_tokens=room + 1))


def test_a_prompt_of_just_the_datas_limit_is_kept_and_one_of_a_token_more_left_out(tmp_path, model):
    """Among the prompts, and among the edits'."""
    texts = {"fits": "the film was", "long": "the film was was"}
    size, more = (len(encode_prompt(byte_bpe(), text)) for text in texts.values())
    assert more == size + 1
    path = tmp_path / "edits.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": name, "prompt": text, "rejected": " bad", "edited": " good"}) + "\n"
            for name, text in texts.items()
        )
    )
    source = Source(path=str(path))
    data = Data(edits=source, validation=source, prompts=source, max_prompt_tokens=size)
    Run(Recipe(model=model, data=data), tmp_path / "run").go("label")
    for kept in ("data/prompts", "labels/train", "labels/validation"):
        assert [
            json.loads(line)["id"] for line in (tmp_path / f"run/{kept}.jsonl").read_text().splitlines()
        ] == ["fits"]
        assert f"prompt longer than {size} tokens" in (tmp_path / f"run/{kept}.rejects.jsonl").read_text()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("form", ["continuous", "discrete"])
@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_a_reward_model_that_is_not_finite_is_named_with_its_sample(tmp_path, model, value, form, kind):
    """Also in the discrete form, where a comparison with NaN would have made it a 0."""
    loss = {"loss": "pairwise"} if kind == "token" else {}
    made, wrapped = new_reward_model(Reward(kind=kind, adapt=Adapt(lora_rank=2), **loss), model)
    with torch.no_grad():
        made.head.weight[0, 0] = value
    save_reward_model(made, wrapped, tmp_path / "reward", model.name)
    lm = random_model(CONFIGS["llama"])
    terms = [RewardTerm(model=str(tmp_path / "reward"), form=form)]
    reward = build_reward(terms, None, byte_bpe(), lm, Trunk())
    rollout = sampled(lm, [[5, 6], [7]], Sampling(max_new_tokens=4), [500], seed=1, texts=["the film", "I"])
    with pytest.raises(UserError, match=r"NaN or infinite for sample 0 \(prompt 'the film'\)"):
        reward(rollout)


def test_a_reward_of_the_wrong_length_is_named_before_terms_are_added(tmp_path, monkeypatch):
    """Two terms of different lengths cannot be added up: the one that is wrong is named, not the sum."""
    import redline.reward.rewards as rewards

    (tmp_path / "r.py").write_text("def f(prompts, responses):\n    return [1.0] * len(responses)\n")
    lm = random_model(CONFIGS["llama"])
    monkeypatch.setattr(
        rewards,
        "function_reward",
        lambda *_: (
            lambda batch: [
                torch.zeros(len(ids) - (index == 1)) for index, ids in enumerate(batch.response_ids)
            ]
        ),
    )
    reward = build_reward([RewardTerm(function=f"{tmp_path}/r.py:f")] * 2, None, byte_bpe(), lm, Trunk())
    rollout = sampled(lm, [[5, 6], [7]], Sampling(max_new_tokens=4), [500], seed=1, texts=["the film", "I"])
    with pytest.raises(UserError, match=r"3 rewards for 4 tokens for sample 1 \(prompt 'I'\)"):
        reward(rollout)


@pytest.mark.parametrize(
    "tail", [b"", b'{"update": 3, "text": "torn', '{"update": 3, "text": "\U0001f600'.encode()[:-2]]
)
def test_a_log_survives_line_separators_and_a_torn_character(tmp_path, tail):
    """A response may hold any character: those that Python takes for line ends too. A kill may fall into the
    middle of one."""
    first = RunLog(tmp_path, 0)
    for update in (1, 2):
        first.samples([{"update": update, "text": "a\u2028b\x85c\x0bd\U0001f600"}])
    with (tmp_path / "samples.jsonl").open("ab") as out:
        out.write(tail)
    RunLog(tmp_path, 2).samples([{"update": 3, "text": "now"}])
    found = [
        json.loads(line)
        for line in (tmp_path / "samples.jsonl").read_text(encoding="utf-8").split("\n")
        if line
    ]
    assert [record["update"] for record in found] == [1, 2, 3]
    assert found[0]["text"] == "a\u2028b\x85c\x0bd\U0001f600"
