"""ExPO: the arithmetic, the choice, and the command."""

import json

import pytest
import torch
from rig import HELD_OUT, PROMPTS, methods, policy, train, watching
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from redline.direct.extrapolate import Measured, choose
from redline.direct.settings import DirectExpo
from redline.direct.stage import Given, make_policy
from redline.engine.settings import Adapt, Model
from redline.errors import UserError


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpo")
    return train(tiny_model, methods(tiny_model)["dpo"], folder / "policy", policy(folder))


def test_extrapolating_dpos_optimum_is_the_optimum_at_a_smaller_beta():
    """Three answers: logits, not weights, so exactly."""
    original = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    rewards = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    optimum = original + rewards / 0.5
    for strength, wanted, kl in (
        (0.0, (0.5, 0.3, 0.2), 0.0),
        (0.5, (0.784398762, 0.173138507, 0.042462731), 0.192245448),
        (1.0, (0.918672306, 0.074597266, 0.006730428), 0.432205139),
        (1.5, (0.970060309, 0.028977875, 0.000961816), 0.570045625),
        (2.0, (0.988998804, 0.010868487, 0.000132709), 0.637549405),
    ):
        moved = (original + strength * (optimum - original)).log_softmax(0)
        torch.testing.assert_close(moved.exp(), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-8)
        assert float((moved.exp() * (moved - original)).sum()) == pytest.approx(kl, abs=1e-8)
    third = (original + rewards / (0.5 / 1.5)).softmax(0)
    torch.testing.assert_close((original + 1.5 * (optimum - original)).softmax(0), third, rtol=0, atol=1e-12)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 3.0])
def test_the_saved_weights_lie_on_the_line(tiny_model, trained, tmp_path, redline, strength):
    out = tmp_path / "further"
    status, said, _ = redline("extrapolate", trained, "--strength", strength, "--out", out)
    assert status == 0
    assert f"strength {strength:g}" in said
    start = AutoModelForCausalLM.from_pretrained(tiny_model).double().state_dict()
    adapter = load_file(trained / "adapter/adapter_model.safetensors")
    found = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).state_dict()
    compared = 0
    for name, a in adapter.items():
        if ".lora_A." in name:
            b = adapter[name.replace("lora_A", "lora_B")]
            key = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
            wanted = start[key] + strength * 2.0 * (b.double() @ a.double())
            # the tiny model is saved in the type that it computes in
            torch.testing.assert_close(found[key].double(), wanted, rtol=1e-2, atol=2e-3)
            compared += 1
    assert compared == 14


def test_strengths_multiply(trained, tmp_path, redline):
    for strength, of, to in ((0.5, trained, "half"), (3, tmp_path / "half", "more"), (1.5, trained, "once")):
        assert redline("extrapolate", of, "--strength", strength, "--out", tmp_path / to)[0] == 0
    twice, once = (
        load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("more", "once")
    )
    for name, weights in once.items():
        torch.testing.assert_close(twice[name], weights, rtol=1e-6, atol=1e-8)


def test_whole_weights_in_single_precision(tiny_model, tmp_path, redline):
    how = policy(tmp_path, adapt=Adapt(lora_rank=0, train_layers=1))
    trained = train(tiny_model, methods(tiny_model)["dpo"], tmp_path / "policy", how)
    assert (
        redline("extrapolate", trained, "--strength", 2, "--out", tmp_path / "o")[0] == 2
    )  # whose original?
    status, _, _ = redline(
        "extrapolate", trained, "--strength", 2, "--original", tiny_model, "--out", tmp_path / "o"
    )
    assert status == 0
    start, end, found = (
        load_file(f"{folder}/model.safetensors") for folder in (tiny_model, trained, tmp_path / "o")
    )
    for name, weights in found.items():
        torch.testing.assert_close(weights, 2 * end[name] - start[name], rtol=1e-5, atol=1e-6)
    model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "short")
    _, _, err = redline(
        "extrapolate", tmp_path / "short", "--strength", 2, "--original", tiny_model, "--out", tmp_path / "p"
    )
    assert "in which the change from the original is mostly rounding" in " ".join(err.split())


def row(strength, reward, kl, tokens=10.0, ended=0.5, spread=0.0):
    rewards = [reward - spread, reward + spread]
    return Measured(strength, reward, kl, tokens, ended, -1.0, rewards)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([row(0.5, 1, 1), row(1, 2, 3), row(1.5, 3, 5), row(2, 4, 9)], 1.5),  # the last is too far
        ([row(1, 2, 3), row(1.5, 3, 5, tokens=20)], 1),  # the other is too long
        ([row(1, 2, 3), row(1.5, 3, 5, ended=0.3)], 1),  # the other ends too seldom
        ([row(0.5, 2.9, 1, spread=1), row(1, 3, 3), row(1.5, 2, 5)], 0.5),  # the smallest of equals
        ([row(0.5, 1, 2), row(1, 2, 8.5)], 0.5),  # the policy itself is too far
        ([row(1, 2, 9), row(2, 3, 20)], None),
    ],
)
def test_the_choice_by_hand(rows, wanted):
    chosen = choose(rows, 6.0)
    assert (chosen and chosen.strength) == wanted


def test_as_a_method_with_a_search_and_a_curve(tiny_model, trained, tmp_path):
    """The curve has a point for each strength; the search does not sample the comparison's prompts."""
    expo = DirectExpo(method="expo", policy=str(trained), strengths=[0.5, 1, 2], prompts=4)
    out = tmp_path / "policy"
    make_policy(
        expo,
        policy(tmp_path),
        Model(name=tiny_model, dtype="float32"),
        Given((), (), PROMPTS),
        out,
        gold=watching(),
    )
    search = [json.loads(line) for line in (out / "search.jsonl").read_text().splitlines()]
    assert [line["id"] for line in search] == ["0.5", "1", "2"]
    assert sum(line["chosen"] for line in search) == 1
    curve = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["strength"] for line in curve] == [0.5, 1, 2]
    assert all(line["samples"] == 12 for line in curve)
    assert abs(curve[0]["gold_kl"]) < abs(curve[2]["gold_kl"])
    assert (out / "adapter/adapter_model.safetensors").exists()


def test_a_policy_at_strength_1_is_the_policy_and_at_0_the_original(tiny_model, trained, tmp_path):
    for strength, other in ((1.0, trained), (0.0, tiny_model)):
        expo = DirectExpo(method="expo", policy=str(trained), strengths=[strength])
        out = tmp_path / f"{strength:g}"
        make_policy(expo, policy(tmp_path), Model(name=tiny_model, dtype="float32"), Given(), out)
        found, wanted = (load_file(f"{folder}/model.safetensors") for folder in (out, other))
        assert all(torch.equal(found[name], weights) for name, weights in wanted.items())


def test_what_is_missing_is_said_first(trained, tmp_path, redline):
    for arguments, said in (
        ([trained, "--out", tmp_path / "o"], "--strength is missing"),
        (
            [trained, "--strength", 1, "--strength", 2, "--out", tmp_path / "o"],
            "several strengths are a search",
        ),
        ([trained, "--strength", 1, "--out", trained], "is the policy itself"),
        ([tmp_path / "nothing", "--strength", 1, "--out", tmp_path / "o"], "there is no such folder"),
    ):
        status, _, err = redline("extrapolate", *arguments)
        assert status == 2
        assert said in " ".join(err.split())


def test_a_search_by_the_command(trained, tmp_path, redline):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": one.id, "prompt": one.prompt}) + "\n" for one in HELD_OUT))
    reward = policy(tmp_path).reward[0].function
    status, said, err = redline(
        "extrapolate",
        trained,
        "--strength",
        0,
        "--strength",
        2,
        "--reward",
        reward,
        "--prompts",
        prompts,
        "--max-new-tokens",
        6,
        "--out",
        tmp_path / "o",
    )
    assert status == 0
    assert "strength" in said
    assert "-0.0" not in err  # the KL of strength 0 is 0, up to rounding
    assert len((tmp_path / "o/search.jsonl").read_text().splitlines()) == 3  # the policy itself, too


def test_a_policy_that_trained_other_layers_is_refused(tiny_model, trained, tmp_path):
    expo = DirectExpo(method="expo", policy=str(trained), strengths=[1.5])
    how = policy(tmp_path, adapt=Adapt(lora_rank=4))
    with pytest.raises(UserError, match="has no weights for 28 of the 56 tensors that this recipe trains"):
        make_policy(expo, how, Model(name=tiny_model, dtype="float32"), Given(), tmp_path / "o")
