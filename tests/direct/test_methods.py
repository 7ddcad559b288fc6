"""What each method promises by itself."""

import json
import math

import pytest
import torch
from rig import PROMPTS, labels, methods, policy, train
from safetensors.torch import load_file

from redline.data.records import Feedback
from redline.direct import settings as sections
from redline.direct.anchors import Anchors
from redline.direct.batch import Batch
from redline.direct.methods import BcoMethod, SpoMethod
from redline.direct.rows import Row
from redline.direct.selfplay import SpaMethod, best_and_worst, buffer_chances, segment_cut, with_segment
from redline.direct.stage import Given
from redline.direct.trainer import points
from redline.direct.weights import matched_weights
from redline.engine.settings import Adapt, Model
from redline.errors import UserError
from redline.policy.actor import ActorCritic


def adapter(out):
    return load_file(out / "adapter/adapter_model.safetensors")


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def equal(one, two):
    return all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def rewarded(rewards, sides):
    """A batch whose implicit rewards at beta 0.1 are given, each row alone."""
    rewards = torch.tensor(rewards, dtype=torch.float64)
    count = len(rewards)
    return Batch(
        policy=10 * rewards,
        anchors={"original": torch.zeros(count, dtype=torch.float64)},
        side=torch.tensor(sides),
        pair=torch.full((count,), -1),
        weight=torch.ones(count),
        tag=torch.zeros(count, dtype=torch.long),
        sizes=torch.ones(count),
    )


# BCO


def test_bcos_threshold_by_hand():
    """Two steps, decay 0.9; and the authors' pooled mean of all seven."""
    method = BcoMethod(sections.DirectBco(method="bco"), 8)
    pooled = BcoMethod(sections.DirectBco(method="bco", shift="pooled"), 8)
    assert method.shift == 0
    for batch, shift in (
        (rewarded([0.4, -0.25, -0.15, 0.3], [1, 1, -1, -1]), 0.075),
        (rewarded([1.0, -0.5, -0.7], [1, -1, -1]), 0.062546992481),
    ):
        method.after_step(None, batch)
        pooled.after_step(None, batch)
        assert method.shift == pytest.approx(shift, abs=1e-12)
    assert pooled.shift == pytest.approx(0.014285714286, abs=1e-12)
    again = BcoMethod(sections.DirectBco(method="bco"), 8)
    again.load_state(json.loads(json.dumps(method.state())))
    assert again.shift == method.shift


def test_bcos_threshold_survives_a_batch_of_one_class():
    method = BcoMethod(sections.DirectBco(method="bco"), 8)
    method.after_step(None, rewarded([0.4], [1]))
    assert method.shift == 0  # nothing is known of the other class
    method.after_step(None, rewarded([-0.2], [-1]))
    both = method.shift
    method.after_step(None, rewarded([0.4], [1]))
    assert method.shift == pytest.approx(both, abs=0.05)


THUMBS = [
    Feedback(
        id=f"{side} {number}", prompt=f"{subject} {number} was", response=f" {word} and fair", liked=side
    )
    for side, subject, word in ((True, "the film", "good"), (False, "a book", "bad"))
    for number in range(10)
]


def test_thumbs_of_other_prompts_teach_a_preference(tiny_model, tmp_path):
    """Likes and dislikes never meet on one prompt; held-out prompts prefer the liked word afterwards."""
    method = sections.DirectBco(method="bco", epochs=15, batch_size=10, lr=0.01)
    how = policy(tmp_path, adapt=Adapt(lora_rank=4))
    out = train(tiny_model, method, tmp_path / "policy", how, Given((), THUMBS))
    last = log(out)[-1]
    assert last["liked_reward"] > last["shift"] > last["disliked_reward"]
    held_out = ["the play 3 was", "this is"]
    assert preference(str(out), held_out) > preference(tiny_model, held_out) + 0.3


def preference(folder, prompts, better=" good", worse=" bad"):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (better, worse)]
    total = 0.0
    for prompt in prompts:
        with torch.no_grad():
            row = lm(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].log_softmax(-1)
        total += float(row[words[0]] - row[words[1]])
    return total / len(prompts)


@pytest.mark.parametrize("liked", [True, False])
def test_bco_needs_both_classes(tiny_model, tmp_path, liked):
    given = Given((), [one for one in THUMBS if one.liked == liked])
    with pytest.raises(UserError, match=f"there is no {'disliked' if liked else 'liked'} response"):
        train(tiny_model, methods(tiny_model)["bco"], tmp_path / "policy", policy(tmp_path), given)


def test_matched_weights():
    generator = torch.Generator().manual_seed(0)
    same, liked = torch.randn(300, 40, generator=generator), torch.arange(300) % 2 == 0
    weights, _, _ = matched_weights(same, liked, 0)
    assert float((weights - 1).abs().mean()) < 0.3
    assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
    moved = same.clone()
    moved[liked, 0] += 2
    moved *= torch.tensor([3.0] + [1.0] * 39)
    weights, _, _ = matched_weights(moved, liked, 0)
    assert float(torch.corrcoef(torch.stack([weights, moved[~liked, 0]]))[0, 1]) > 0.6


# MRPO, SPO, SELM: what they are without their own part


@pytest.mark.parametrize(
    ("section", "changes"),
    [("mrpo", {}), ("spo", {"weight": 0}), ("selm", {"rounds": 0, "lr": 0.01})],
)
def test_without_its_own_part_a_method_is_dpo(tiny_model, tmp_path, section, changes):
    """The same reference twice; no weight on degrees; no rounds after the first."""
    same = {"epochs": 2, "batch_size": 4, "lr": 0.01, "keep": 0.0}
    dpo = methods(tiny_model)["dpo"].model_copy(update=same)
    method = methods(tiny_model)[section].model_copy(update=same | changes)
    one, other = (train(tiny_model, each, tmp_path / each.method, policy(tmp_path)) for each in (dpo, method))
    for name, weights in adapter(one).items():
        torch.testing.assert_close(adapter(other)[name], weights, rtol=0, atol=1e-5)


def test_spos_head_learns_only_with_a_weight():
    batch = rewarded([0.4, -0.2, 0.1], [1, -1, 0])
    batch.pair, batch.tag = torch.zeros(3, dtype=torch.long), torch.tensor([0, 2, 1])
    batch.pooled = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    for weight, learns in ((0.0, False), (0.1, True)):
        method = SpoMethod(sections.DirectSpo(method="spo", levels=2, weight=weight), 8)
        total, terms = method.loss(batch)
        assert terms == 1
        if learns:
            total.backward()
        assert (method.head.weight.grad is not None) == learns


# self-play


def test_every_round_of_spin_begins_at_log_2(tiny_model, tmp_path):
    out = train(tiny_model, methods(tiny_model)["spin"], tmp_path / "policy", policy(tmp_path))
    firsts = [
        line
        for before, line in zip([{}, *log(out)], log(out), strict=False)
        if before.get("round") != line["round"]
    ]
    assert [line["round"] for line in firsts] == [0, 1]
    for line in firsts:
        assert line["loss"] == pytest.approx(math.log(2), abs=1e-5)
    rounds = [(out / "rounds" / number / "pairs.jsonl").read_text().splitlines() for number in "01"]
    assert len(rounds[1]) == 2 * len(rounds[0])  # the last round's pairs again


def test_a_segment_is_rewritten_in_its_place():
    row = Row(list(range(100, 130)), 5)
    cuts = [segment_cut(row, 8, f"{seed}") for seed in range(400)]
    assert set(cuts) == set(range(25 - 3 - 8 + 1))
    assert max(cuts.count(cut) for cut in set(cuts)) < 60  # evenly, 27 on average
    assert segment_cut(row, 22, "a") == 0  # hardly longer than the segment
    ids = with_segment(row, 4, [1, 2, 3], ended=False)
    assert ids == [*row.ids[:9], 1, 2, 3, *row.ids[12:]]
    assert with_segment(row, 4, [1, 2], ended=True) == [*row.ids[:9], 1, 2]
    row.marks = [6, 40]
    assert {segment_cut(row, 8, f"{seed}") for seed in range(20)} == {6}


def test_pairs_that_were_drawn_often_are_drawn_less():
    assert buffer_chances([0, 1, 3]) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_anchors_average_and_keep_out_of_the_policys_way(tiny_model):
    """Scalars 1, 2, 4 from 0 with half staying give 2.625; the policy's bits are the same before "
    "and after."""
    actor = ActorCritic(Model(name=tiny_model, dtype="float32"), Adapt(lora_rank=4, train_layers=2))
    anchors = Anchors(actor, ("average",))
    for value in (0.0, 1.0, 2.0, 4.0):
        with torch.no_grad():
            for weights in anchors.weights("policy").values():
                weights.fill_(value)
        anchors.average("policy", "average", 0.5 if value else 0.0)
    assert all(bool((weights == 2.625).all()) for weights in anchors.weights("average").values())
    ids = torch.arange(3, 12)[None]

    def passed(who):
        with torch.no_grad(), anchors.using(who) as split:
            return split.upper(split.lower(ids))

    before, original = passed("policy"), passed("original")
    assert not torch.equal(passed("average"), before)
    anchors.copy("policy", "average")
    assert torch.equal(passed("average"), before)
    assert torch.equal(passed("original"), original)
    assert all(weights.requires_grad for weights in anchors.weights("policy").values())
    assert not any(weights.requires_grad for weights in anchors.weights("average").values())
    with pytest.raises(ValueError, match="no anchor that can be changed"):
        anchors.copy("policy", "original")
    anchors.delete()
    assert torch.equal(passed("policy"), before)


def test_best_and_worst_and_ties():
    assert best_and_worst([1.0, 0.0, 2.0]) == (2, 1)
    assert best_and_worst([1.0, 0.0, -1.0]) == (0, 2)
    assert best_and_worst([0.0, 1.0, 0.5]) == (1, 0)
    assert best_and_worst([1.0, 1.0, 1.0]) == (0, 1)
    assert best_and_worst([1.0, 0.0, 0.0]) == (0, 1)


def test_selms_bonus_lowers_what_the_anchor_would_have_said(tiny_model, tmp_path):
    plain = methods(tiny_model)["selm"].model_copy(update={"epochs": 4})
    ends = {}
    for alpha in (0.0, 2.0):
        method = plain.model_copy(update={"alpha": alpha, "floor": -1e9})
        ends[alpha] = log(train(tiny_model, method, tmp_path / str(alpha), policy(tmp_path)))[-1]
    assert ends[2.0]["anchors_own"] < ends[0.0]["anchors_own"] - 0.05
    assert ends[2.0]["reward_calls"] == 3 * ends[2.0]["pairs"]


def test_selms_round_ends_at_the_floor(tiny_model, tmp_path):
    method = methods(tiny_model)["selm"].model_copy(update={"alpha": 2.0, "epochs": 9, "floor": -0.3})
    steps = [
        line for line in log(train(tiny_model, method, tmp_path / "p", policy(tmp_path))) if line["round"]
    ]
    assert len(steps) < 18
    assert steps[-1]["anchors_own"] < -0.3


def test_spa_labels_by_how_far_the_policy_has_moved(tiny_model, tmp_path):
    """From a seed: the liked one of each pair gained more on the original than the other did."""
    seed = train(tiny_model, methods(tiny_model)["dpo"], tmp_path / "seed", policy(tmp_path))
    method = methods(tiny_model)["spa"].model_copy(update={"seed": str(seed), "epochs": 5, "unsure": 0.5})
    assert method.make(8).rounds == 1
    flagged = []
    flag = SpaMethod._flag

    def watched(self, room, rows):
        flag(self, room, rows)
        flagged.append((set(self.flagged), len(rows) // 2))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SpaMethod, "_flag", watched)
        out = train(tiny_model, method, tmp_path / "policy", policy(tmp_path))
    rows = [json.loads(line) for line in (out / "rounds/0/pairs.jsonl").read_text().splitlines()]
    assert [row["side"] for row in rows] == [1, -1] * (len(rows) // 2)
    gained = [moved(str(seed), row) - moved(tiny_model, row) for row in rows]
    assert all(liked > disliked for liked, disliked in zip(gained[::2], gained[1::2], strict=True))
    assert len(flagged) == 2  # at a fifth of the round, and at three fifths
    assert all(pairs / 2 <= len(flags) <= pairs / 2 + 1 for flags, pairs in flagged)


def moved(folder, row):
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([row["ids"]])
    with torch.no_grad():
        logits = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits[0].log_softmax(-1)
        )
    places = range(row["before"], ids.shape[1])
    return sum(float(logits[place - 1, ids[0, place]]) for place in places)


@pytest.mark.parametrize("name", ["sft", "figa", "dpo", "bco", "spin", "sapo", "spo"])
def test_what_edits_put_in_becomes_likelier(tiny_model, tmp_path, name):
    changes = {"epochs": 6, "lr": 0.01} | ({"lr": [0.01], "rounds": 2} if name == "spin" else {})
    method = methods(tiny_model)[name].model_copy(update=changes)
    out = train(
        tiny_model, method, tmp_path / "policy", policy(tmp_path), Given(labels(tiny_model), [], PROMPTS)
    )
    prompts = ["the film 77 was", "the film 5 was"]
    assert preference(str(out), prompts) > preference(tiny_model, prompts) + (
        0.1 if name in ("spin", "sapo") else 0.5
    )


def test_measurements_lie_closer_at_the_start():
    assert points(36, 0, 1) == {1, 4, 9, 16, 25, 36}
    assert points(5, 0, 1) == {1, 2, 3, 4, 5}
    assert points(18, 0, 2) | {18 + step for step in points(18, 1, 2)} == {1, 4, 9, 16, 25, 36}
    assert points(3, 0, 1) == {1, 2, 3}
