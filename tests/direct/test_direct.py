"""Policies without RL: FIGA's loss by hand, and all three trainings on a tiny model."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from redline.data.records import Edit, Prompt
from redline.direct.settings import Direct
from redline.direct.stage import SURE, UNSURE, _row, _sides, train_direct, weighted_loss
from redline.engine.settings import Adapt, Model
from redline.errors import UserError
from redline.label.stage import label_edits
from redline.policy.settings import Policy
from redline.policy.watch import Gold
from redline.sampling.settings import Sampling


def test_the_loss_by_hand():
    """A token wanted, one unwanted within the window, one unwanted but unlikely already, one that the
    language needs."""
    losses = torch.tensor([0.3, (SURE + UNSURE) / 2, 2.5, 0.1])
    weights = torch.tensor([1.0, -0.5, -0.5, -0.5])
    assert weighted_loss(-losses, weights).item() == pytest.approx((0.3 - 0.5 * losses[1].item()) / 2)
    assert weighted_loss(-losses, torch.ones(4)).item() == pytest.approx(losses.mean().item())


def test_what_has_weight():
    row = {
        "prompt_ids": [5, 6],
        "chosen_ids": [7, 8, 9],
        "rejected_ids": [7, 4],
        "chosen_labels": [0, 1, 1],
        "rejected_labels": [0, -1],
    }
    [edited] = _sides(row, None)
    assert (edited.places.tolist(), edited.weights.tolist()) == ([2, 3, 4], [1.0, 1.0, 1.0])
    edited, rejected = _sides(row, 0.5)
    assert (edited.ids.tolist(), edited.places.tolist(), edited.weights.tolist()) == (
        [5, 6, 7, 8, 9],
        [3, 4],
        [1.0, 1.0],
    )
    assert (rejected.ids.tolist(), rejected.places.tolist(), rejected.weights.tolist()) == (
        [5, 6, 7, 4],
        [3],
        [-0.5],
    )
    row |= {"prompt_ids": [], "chosen_labels": [1, 0, 0], "rejected_labels": [-1, 0]}
    assert _sides(row, 0.5) == []  # nothing predicts the first token


def test_responses_that_are_whole_end_with_end_of_text_and_cropped_ones_do_not(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    edit = Edit(
        id="1", prompt="the film was", rejected=" bad and long, far too long", edited=" good", editor="test"
    )
    [record] = label_edits([edit], tokenizer, max_response_tokens=4)
    row = _row(record, tokenizer, 4)
    assert tokenizer.decode(row["chosen_ids"]) == " good" + tokenizer.eos_token
    assert row["chosen_labels"] == [1, 0]
    assert len(row["rejected_ids"]) == len(row["rejected_labels"]) == 4
    assert tokenizer.eos_token_id not in row["rejected_ids"]


@pytest.fixture
def labels(tiny_model, edits_file):
    edits = [Edit.model_validate_json(line) for line in edits_file.read_text().splitlines()]
    return list(label_edits(edits, AutoTokenizer.from_pretrained(tiny_model), "token", 40))


def probability(folder: str, prompt: str, word: str) -> float:
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        return (
            lm(ids)
            .logits[0, -1]
            .log_softmax(-1)[tokenizer(word, add_special_tokens=False)["input_ids"][0]]
            .item()
        )


@pytest.mark.parametrize("method", ["sft", "figa", "dpo"])
def test_what_edits_put_in_becomes_likelier(tiny_model, labels, tmp_path, method):
    policy = Policy(
        adapt=Adapt(lora_rank=4, train_layers=2), sampling=Sampling(max_new_tokens=6), batch_size=8
    )
    prompts = [Prompt(id=str(number), prompt=f"the play {number} was") for number in range(4)]
    gold = Gold(
        "length",
        lambda a, b: [float(len(x.response) > len(y.response)) for x, y in zip(a, b, strict=True)],
        prompts,
    )
    model = Model(name=tiny_model, dtype="float32")
    direct = Direct(method=method, epochs=4, batch_size=8, lr=0.01)
    train_direct(direct, policy, model, labels, tmp_path / "policy", gold=gold)

    gap = [
        probability(name, "the film 7 was", " good") - probability(name, "the film 7 was", " bad")
        for name in (tiny_model, str(tmp_path / "policy"))
    ]
    assert gap[1] > gap[0] + 0.5
    adapter = json.loads((tmp_path / "policy/adapter/adapter_config.json").read_text())
    assert adapter["layers_to_transform"] == [2, 3]
    assert sorted(path.name for path in (tmp_path / "policy/adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    log = [json.loads(line) for line in (tmp_path / "policy/log.jsonl").read_text().splitlines()]
    steps = 4 * math.ceil(len(labels) / 8)
    assert log[-1]["update"] == steps
    assert len(log) >= 4
    assert all({"gold", "gold_kl", "gold_error", "seconds"} <= line.keys() for line in log)
    assert log[-1]["gold_kl"] != 0


@pytest.mark.parametrize(
    ("method", "adapt"),
    [
        ("sft", Adapt(lora_rank=4, train_layers=2)),
        ("figa", Adapt(lora_rank=0)),
        ("dpo", Adapt(lora_rank=4)),
        ("dpo", Adapt(lora_rank=0)),
    ],
)
def test_stopped_and_resumed_equals_never_stopped_bit_for_bit(tiny_model, labels, tmp_path, method, adapt):
    """Stopped while the third measurement is judged, a second start goes on from the second checkpoint."""
    policy = Policy(adapt=adapt, sampling=Sampling(max_new_tokens=6), batch_size=8)
    direct, model = (
        Direct(method=method, epochs=4, batch_size=8, lr=0.01),
        Model(name=tiny_model, dtype="float32"),
    )
    prompts = [Prompt(id=str(number), prompt=f"the play {number} was") for number in range(4)]
    judged = []

    def train(out, stop=None, **changes):
        def prefer(a, b):
            judged.append(out.name)
            if judged.count(out.name) == stop:
                raise KeyboardInterrupt
            return [float(len(x.response) > len(y.response)) for x, y in zip(a, b, strict=True)]

        train_direct(
            direct.model_copy(update=changes),
            policy,
            model,
            labels,
            out,
            gold=Gold("length", prefer, prompts),
        )

    train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "resumed", stop=3)
    with pytest.raises(UserError, match=r"written with other settings \(direct.lr: 0.01 before, 0.02 now\)"):
        train(tmp_path / "resumed", lr=0.02)
    train(tmp_path / "resumed")
    assert (
        judged.count("resumed") == judged.count("whole") + 1
    )  # the third one twice, those before it not again
    file = "adapter/adapter_model.safetensors" if adapt.lora_rank else "model.safetensors"
    found, wanted = (load_file(tmp_path / name / file) for name in ("resumed", "whole"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())
    logs = [
        [
            {key: value for key, value in json.loads(line).items() if "seconds" not in key}
            for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
        ]
        for name in ("resumed", "whole")
    ]
    assert logs[0] == logs[1]


def test_edits_that_change_nothing_are_said(tiny_model, labels, tmp_path):
    same = [record.model_copy(update={"edited_tokens": record.rejected_tokens}) for record in labels]
    with pytest.raises(UserError, match="no edit is left"):
        train_direct(Direct(method="sft"), Policy(), Model(name=tiny_model), same, tmp_path / "policy")
