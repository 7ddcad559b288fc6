"""Each method's own keys, and what a recipe lacks for a method."""

import pytest
from rig import methods

from redline.direct.settings import DirectBco
from redline.errors import UserError
from redline.recipe import check_recipe
from redline.report.cards import _method as settings_of
from redline.report.section_run import method_of

PLAIN = {"data": {"edits": {"path": "edits.jsonl"}}}
EVERY = {**{name: section.model_dump() for name, section in methods("x").items()}} | {
    "expo": {"method": "expo", "policy": "runs/a/policy"},
    "best_of_n": {"method": "best_of_n"},
}


def recipe(direct, **more):
    return check_recipe(PLAIN | more | {"direct": direct}, "r.yaml")


@pytest.mark.parametrize("name", EVERY)
def test_the_report_and_the_card_know_every_method(name):
    made = recipe(EVERY[name])
    assert made.direct.summary
    assert method_of(made).startswith(made.direct.summary)
    assert "method" not in settings_of(made)


def test_a_method_without_a_name_in_the_report_does_not_end_a_finished_training(monkeypatch):
    monkeypatch.delattr(DirectBco, "summary")
    assert method_of(recipe({"method": "bco"})) == "bco, 1 epochs in steps of 16"


@pytest.mark.parametrize(
    ("direct", "said"),
    [
        (
            {"method": "sft", "beta": 0.1},
            "r.yaml: unknown key `direct.beta`. `direct.method: sft` has no `beta` (it belongs to "
            "dpo, bco, spin, "
            "sapo, selm, spa, mrpo, spo). It has: epochs, batch_size, lr, method.",
        ),
        ({"method": "bco", "keep": 0.1}, "`direct.method: bco` has no `keep`"),
        ({"method": "dpo", "betta": 0.1}, "unknown key `direct.betta`. Did you mean `beta`?"),
        ({"method": "ppo"}, "`direct.method` has to be one of sft, figa, dpo, bco, "),
        ({"beta": 1}, "`direct.method` has to be one of sft, figa, dpo, bco, "),
        ({"method": "dpo", "beta": 0}, "`direct.beta`: Input should be greater than 0"),
        ({"method": "spin", "lr": [1e-3, -1]}, "a number above 0, or a list of such numbers"),
        ({"method": "mrpo"}, "`direct.extra`: Field required"),
    ],
)
def test_what_does_not_belong_is_refused_by_name(direct, said):
    with pytest.raises(UserError) as error:
        recipe(direct)
    assert said in str(error.value)


def test_what_a_method_lacks():
    with pytest.raises(UserError, match=r"spin` keeps frozen copies .* set `policy.adapt.lora_rank` above 0"):
        recipe({"method": "spin"}, policy={"adapt": {"lora_rank": 0}})
    feedback = {"data": {"feedback": {"path": "thumbs.jsonl"}}}
    with pytest.raises(UserError, match=r"`data.feedback` is what `direct.method: bco` learns from"):
        recipe({"method": "dpo"}, **feedback)
    made = recipe({"method": "bco"}, **feedback)
    assert not made.has_edits
    with pytest.raises(UserError, match="data needs `edits`"):
        check_recipe({"data": {}}, "r.yaml")


def test_which_methods_train_a_reward_model():
    ranking = {name for name, direct in EVERY.items() if recipe(direct).trains_reward}
    assert ranking == {"selm", "expo", "best_of_n"}
    assert not recipe({"method": "expo", "policy": "x", "strengths": [1.5]}).trains_reward
    with_term = {"reward": [{"model": "runs/a/reward"}]}
    assert not recipe({"method": "selm"}, policy=with_term).trains_reward


def test_rates_by_round():
    sections = methods("x")
    assert sections["spin"].rates == [0.01, 0.005]
    assert sections["dpo"].rates == [0.01]
    assert sections["spa"].make(8).rounds == 2
