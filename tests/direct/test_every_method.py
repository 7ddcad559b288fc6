"""What holds for every method that trains."""

import json
from dataclasses import replace

import pytest
import torch
from rig import HELD_OUT, NAMES, WITH_ANCHORS, labels, methods, policy, train, watching
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from redline.direct import stage
from redline.direct.methods import DpoMethod
from redline.direct.room import Room
from redline.engine.settings import Adapt
from redline.errors import UserError
from tiny_trainings import lines


def adapter(out):
    return load_file(out / "adapter/adapter_model.safetensors")


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def close(one, two, atol=1e-5):
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """Each method's training, never stopped; made when it is first asked for."""
    made = {}

    def training(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = train(
                tiny_model, methods(tiny_model)[name], folder / "policy", policy(folder), gold=watching()
            )
        return made[name]

    return training


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_plain_and_has_no_helpers(tiny_model, whole, name):
    out = whole(name)
    assert sorted(path.name for path in (out / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert len(adapter(out)) == 2 * 2 * 7  # two layers of seven linear layers, A and B
    assert json.loads((out / "adapter/adapter_config.json").read_text())["layers_to_transform"] == [2, 3]
    model, start = (AutoModelForCausalLM.from_pretrained(folder) for folder in (out, tiny_model))
    changed = [
        key
        for key, weights in model.state_dict().items()
        if not torch.equal(weights, start.state_dict()[key])
    ]
    assert changed
    assert all("layers.2." in key or "layers.3." in key for key in changed)


@pytest.mark.parametrize("name", NAMES)
def test_its_log(whole, name):
    steps = log(whole(name))
    assert [line["update"] for line in steps] == list(range(1, len(steps) + 1))
    measured = [line["update"] for line in steps if "gold" in line]
    assert measured[0] == 1
    assert measured[-1] == len(steps)
    assert steps[-1]["gold_kl"] != 0
    assert all(torch.tensor(line["loss"]).isfinite() for line in steps)
    drawn = [line["samples"] for line in steps]
    assert drawn == sorted(drawn)
    assert drawn[-1] > 0
    assert (steps[-1]["reward_calls"] > 0) == (name in ("selm", "spa"))


@pytest.mark.parametrize("name", NAMES)
def test_stopped_in_the_last_round_and_resumed_equals_never_stopped_bit_for_bit(
    tiny_model, whole, tmp_path, monkeypatch, name
):
    """Stopped while the last but one measurement is judged; what a round has collected is not collected
    again."""
    count = sum("gold" in line for line in log(whole(name)))
    judged, collected = [], []

    def prefer(a, b):
        judged.append(None)
        if len(judged) == count - 1:
            raise KeyboardInterrupt
        return [float(len(x.response) > len(y.response)) for x, y in zip(a, b, strict=True)]

    kind = type(methods(tiny_model)[name].make(32))
    collect = kind.collect
    monkeypatch.setattr(
        kind, "collect", lambda self, room, number: collected.append(number) or collect(self, room, number)
    )
    method, how = methods(tiny_model)[name], policy(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, method, tmp_path / "policy", how, gold=watching(prefer))
    with pytest.raises(UserError, match=r"written with other settings \(direct.batch_size: "):
        train(tiny_model, method.model_copy(update={"batch_size": 3}), tmp_path / "policy", how)
    out = train(tiny_model, method, tmp_path / "policy", how, gold=watching())
    assert equal(adapter(out), adapter(whole(name)))
    assert lines(out / "log.jsonl") == lines(whole(name) / "log.jsonl")
    assert len(collected) == len(set(collected))


@pytest.mark.parametrize("name", NAMES)
def test_how_much_is_computed_at_once_changes_rounding_only(tiny_model, whole, tmp_path, name):
    """A row at a time, in place of whole batches."""
    if name in ("selm", "spa"):  # ranked samples: a rounding error can turn a close pair around
        pytest.skip("its pairs depend on a comparison")
    out = train(
        tiny_model, methods(tiny_model)[name], tmp_path / "policy", policy(tmp_path, microbatch_tokens=16)
    )
    # Adam turns a rounding error of a gradient near 0 into a step of some size: after six steps it shows
    close(adapter(out), adapter(whole(name)), 2e-4 if name in WITH_ANCHORS else 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_learning_rate_nothing_moves(tiny_model, tmp_path, name):
    rate = {"lr": 1e-30} if not isinstance(methods(tiny_model)[name].lr, list) else {"lr": [1e-30]}
    method = methods(tiny_model)[name].model_copy(update=rate)
    if name == "spa":
        with pytest.raises(UserError, match="of which the policy likes one more"):
            train(tiny_model, method, tmp_path / "policy", policy(tmp_path))
        return
    out = train(tiny_model, method, tmp_path / "policy", policy(tmp_path), gold=watching())
    assert all(float(weights.abs().max()) < 1e-20 for key, weights in adapter(out).items() if "lora_B" in key)
    measured = [line["gold_kl"] for line in log(out) if "gold_kl" in line]
    assert max(map(abs, measured)) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_the_original_does_not_move_and_nobody_is_asked_who_judges(tiny_model, tmp_path, monkeypatch, name):
    """The adapter off gives the same bits before and after; the comparison's prompts are never sampled
    from."""
    rooms, seen = [], []
    start = Room.__init__
    monkeypatch.setattr(Room, "__init__", lambda self, **given: (rooms.append(self), start(self, **given))[0])
    sample = Room.sample
    monkeypatch.setattr(
        Room,
        "sample",
        lambda self, prompts, *more, **how: seen.extend(prompts) or sample(self, prompts, *more, **how),
    )
    deleted = stage.Anchors.delete
    after = []

    def look(anchors):
        after.append(original(rooms[0]))
        deleted(anchors)

    monkeypatch.setattr(stage.Anchors, "delete", look)
    before = []
    run = stage.DirectTrainer.run
    monkeypatch.setattr(
        stage.DirectTrainer, "run", lambda self, watch: (before.append(original(self.room)), run(self, watch))
    )
    train(tiny_model, methods(tiny_model)[name], tmp_path / "policy", policy(tmp_path))
    assert torch.equal(before[0], after[0])
    held_out = {prompt.prompt for prompt in HELD_OUT}
    assert not held_out & {str(asked.prompt) for asked in seen}


def original(room):
    """The last states that the model with its adapter off has for some tokens."""
    with torch.no_grad(), room.anchors.using("original") as split:
        return split.upper(split.lower(torch.arange(3, 12)[None]))


@pytest.mark.parametrize("name", ["sft", "figa", "dpo", "bco", "mrpo", "spo"])
def test_full_fine_tuning_without_moving_anchors(tiny_model, tmp_path, name):
    how = policy(tmp_path, adapt=Adapt(lora_rank=0, train_layers=1))
    out = train(tiny_model, methods(tiny_model)[name], tmp_path / "policy", how)
    moved, start = (load_file(f"{folder}/model.safetensors") for folder in (out, tiny_model))
    changed = {key for key in start if not torch.equal(moved[key], start[key])}
    assert changed
    assert all("layers.3." in key or key == "model.norm.weight" for key in changed)


@pytest.mark.parametrize("name", WITH_ANCHORS)
def test_moving_anchors_need_adapters(tiny_model, tmp_path, name):
    how = policy(tmp_path, adapt=Adapt(lora_rank=0))
    with pytest.raises(UserError, match=r"policy.adapt.lora_rank above 0"):
        train(tiny_model, methods(tiny_model)[name], tmp_path / "policy", how)


@pytest.mark.parametrize("name", ["sft", "figa", "dpo", "mrpo", "spo", "spin", "sapo", "selm", "spa"])
def test_edits_that_change_nothing_are_said(tiny_model, tmp_path, name):
    same = [
        record.model_copy(update={"edited_tokens": record.rejected_tokens}) for record in labels(tiny_model)
    ]
    given = stage.Given(same, [], HELD_OUT)
    with pytest.raises(UserError, match="no edit is left"):
        train(tiny_model, methods(tiny_model)[name], tmp_path / "policy", policy(tmp_path), given)


def test_a_gradient_that_is_not_finite_stops_before_the_step(tiny_model, tmp_path, monkeypatch):
    loss = DpoMethod.loss

    def broken(self, batch):
        total, terms = loss(self, batch)
        return type(loss(self, batch))(total * float("nan"), terms)

    monkeypatch.setattr(DpoMethod, "loss", broken)
    with pytest.raises(
        UserError, match=r"gradient of step 1 is not finite; its batch is in .*bad_batch.jsonl"
    ):
        train(tiny_model, methods(tiny_model)["dpo"], tmp_path / "policy", policy(tmp_path))
    assert (tmp_path / "policy/bad_batch.jsonl").exists()


def test_the_order_of_rows_in_a_batch_does_not_matter(tiny_model, tmp_path, monkeypatch):
    """Every method's loss, on a batch as it comes and on the same one backwards."""
    compared = []
    make = stage.Passes.batch

    def both_ways(self, rows, *how):
        batch = make(self, rows, *how)
        if len(rows) > 1 and not compared:
            compared.append((batch, make(self, list(reversed(rows)), *how)))
        return batch

    monkeypatch.setattr(stage.Passes, "batch", both_ways)
    for name, section in methods(tiny_model).items():
        compared.clear()
        method = {}
        of = stage.DirectTrainer.__init__
        monkeypatch.setattr(
            stage.DirectTrainer,
            "__init__",
            lambda self, one, *more, of=of, method=method: (method.update(one=one), of(self, one, *more))[1],
        )
        train(tiny_model, section, tmp_path / name, policy(tmp_path))
        batch, backwards = compared[0]
        assert torch.equal(batch.pair, backwards.pair.flip(0))
        one, other = (method["one"].loss(replace(each)) for each in (batch, backwards))
        assert float(one.terms) == float(other.terms)
        torch.testing.assert_close(one.total, other.total, rtol=1e-5, atol=1e-6)
