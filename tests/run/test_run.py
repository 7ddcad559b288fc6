"""A whole run on a tiny model: every stage, files as designed, continued and not repeated, standard formats
out."""

import csv
import fcntl
import json
import platform
import re
import shutil
import warnings
from datetime import date
from pathlib import Path

import pytest
import torch
import yaml

from redline.engine.views import Tap
from redline.errors import UserError
from redline.recipe import load_recipe
from redline.report.page import write_report
from redline.reward.model import load_reward_model
from redline.run.comparison import watching_judge
from redline.run.run import Run


@pytest.fixture
def recipe(tmp_path, tiny_model, edits_file) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "model": {"name": tiny_model, "dtype": "float32"},
                "data": {"edits": {"path": "edits.jsonl"}, "validation_share": 0.3},
                "reward": {
                    "adapt": {"lora_rank": 4, "train_layers": 2},
                    "epochs": 4,
                    "batch_size": 8,
                    "depth": 3,
                    "optimizer": {"lr": 0.01, "head_lr": 0.02},
                },
                "policy": {
                    "adapt": {"lora_rank": 4, "train_layers": 2},
                    "updates": 3,
                    "batch_size": 8,
                    "minibatch_size": 4,
                    "sampling": {"max_new_tokens": 8},
                    "checkpoint_every": 1,
                },
                "compare": {"judge": "length"},
            }
        )
    )
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_stage_from_edits_to_win_rate(redline, recipe, tmp_path, monkeypatch):
    out = tmp_path / "run"
    status, printed, err = redline("run", recipe, "--out", out)
    assert status == 0, err
    result = json.loads((out / "winrate.json").read_text())
    assert {"win_rate", "ci95", "n", "judge", "wins", "ties", "losses", "kl", "perplexity_a"} <= result.keys()
    assert result["n"] == len(lines(out / "compare/policy.jsonl")) > 0
    assert result["wins"] + result["ties"] + result["losses"] == result["n"]
    assert "report.html" in printed
    assert (out / "report.html").stat().st_size > 1000
    labels = lines(out / "labels/train.jsonl") + lines(out / "labels/validation.jsonl")
    assert len(labels) == 30
    assert all(
        set(row["rejected_labels"]) <= {-1, 0} and set(row["edited_labels"]) <= {0, 1} for row in labels
    )
    assert len(lines(out / "policy/log.jsonl")) == 3
    stages = json.loads((out / "state.json").read_text())
    assert list(stages) == ["data", "label", "reward", "policy", "compare", "report"]
    assert all(stage["date"] == str(date.today()) for stage in stages.values())
    assert all(platform.system() in stage["machine"] for stage in stages.values())

    for name in ("reward", "policy"):  # the code on the cards, in the folders that they lie in
        monkeypatch.chdir(out / name)
        [code] = re.findall(r"```python\n(.*?)```", (out / name / "README.md").read_text(), re.DOTALL)
        exec(code, {})
        assert (out / name / "model.safetensors").stat().st_mode == (
            out / name / "config.json"
        ).stat().st_mode
    monkeypatch.chdir(tmp_path)
    status, figures, _ = redline("report", out, "--json")
    assert (status, json.loads(figures)["winrate"]) == (0, result)

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert redline("run", recipe, "--out", out)[0] == 0  # nothing is done again
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_samples_are_shown_by_choice(redline, recipe, tmp_path):
    changes = ["policy.show_samples=2", "policy.sample_every=1", "reward.epochs=1", "policy.updates=2"]
    status, _, err = redline("run", recipe, "--out", tmp_path / "run", *changes)
    assert status == 0, err
    for update in (1, 2):
        for number in (1, 2):
            assert f"update {update}, sample {number}: " in err
    assert " sample 3: " not in err


def test_the_reward_model_is_plain_transformers_and_scores_edits(redline, recipe, tmp_path, edits_file):
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    out = tmp_path / "run"
    assert redline("train", "reward", recipe, "--out", out)[0] == 0
    assert not (out / "policy").exists()
    metrics = json.loads((out / "reward/metrics.json").read_text())
    assert metrics["validation"]["auc"] > 0.9  # "good" for "bad" every time: there is nothing easier
    plain = AutoModelForTokenClassification.from_pretrained(out / "reward")
    assert plain.config.id2label == {0: "negative", 1: "positive"}
    assert plain.config.num_hidden_layers == 3
    tokenizer = AutoTokenizer.from_pretrained(out / "reward")

    status, _, err = redline(
        "score", edits_file, "--reward", out / "reward", "--out", tmp_path / "scores.jsonl"
    )
    assert status == 0, err
    rows = lines(tmp_path / "scores.jsonl")
    assert len(rows) == 60
    ids = torch.tensor(
        [tokenizer("the film 0 was")["input_ids"] + tokenizer(" bad and not unfair")["input_ids"]]
    )
    with torch.no_grad():
        probabilities = plain(input_ids=ids).logits.softmax(-1)[
            0, len(tokenizer("the film 0 was")["input_ids"]) :
        ]
    torch.testing.assert_close(
        torch.tensor(rows[0]["rewards"]), probabilities[:, 1] - probabilities[:, 0], atol=1e-3, rtol=0
    )
    by_word = [
        (rows[0]["text"][start:end].strip(), reward)
        for (start, end), reward in zip(rows[0]["offsets"], rows[0]["rewards"], strict=True)
    ]
    assert dict(by_word)["bad"] == min(reward for _, reward in by_word)

    with (tmp_path / "edits.csv").open(
        "w", newline=""
    ) as out_csv:  # the same as a table with their own columns
        table = csv.writer(out_csv)
        table.writerow(["id", "prompt", "draft", "sent"])
        for edit in lines(edits_file):
            table.writerow([edit["id"], edit["prompt"], edit["rejected"], edit["edited"]])
    columns = ["--columns", "rejected=draft", "--columns", "edited=sent"]
    again = tmp_path / "again.jsonl"
    status, _, err = redline(
        "score", tmp_path / "edits.csv", *columns, "--limit", 20, "--reward", out / "reward", "--out", again
    )
    assert status == 0, err
    assert lines(again) == rows[:40]


@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_an_empty_response_is_scored_and_shown(redline, recipe, tmp_path, kind):
    out = tmp_path / "run"
    assert redline("train", "reward", recipe, "--out", out, f"reward.kind={kind}", "reward.epochs=1")[0] == 0
    responses = tmp_path / "responses.jsonl"
    responses.write_text(
        "".join(
            json.dumps({"id": text, "prompt": "the film", "response": text}) + "\n"
            for text in ("", " was bad")
        )
    )
    assert redline("score", responses, "--reward", out / "reward", "--out", tmp_path / "scores.jsonl")[0] == 0
    empty, other = lines(tmp_path / "scores.jsonl")
    assert empty["offsets"] == ([[0, 0]] if kind == "sequence" else [])
    for scored in (empty, other):
        assert len(scored["offsets"]) == len(scored["rewards"])
    status, printed, err = redline("show", tmp_path / "scores.jsonl")
    assert (status, err) == (0, "")
    assert "was bad" in printed


@pytest.mark.parametrize(
    "changes",
    [
        ["reward.kind=sequence"],
        ["reward.loss=hard"],
        ["reward.loss=pairwise"],
        ["reward.adapt.lora_rank=0"],
        ["policy.reward=[{form: discrete, spread: shuffled}]"],
        ["sft={epochs: 1, batch_size: 8}"],
    ],
)
def test_one_key_makes_another_method(redline, recipe, tmp_path, changes):
    out = tmp_path / "run"
    status, _, err = redline("run", recipe, "--out", out, "policy.updates=1", "reward.epochs=2", *changes)
    assert status == 0, err
    assert 0 <= json.loads((out / "winrate.json").read_text())["win_rate"] <= 1
    kind = json.loads((out / "reward/config.json").read_text())["redline"]["kind"]
    assert kind == ("sequence" if "kind=sequence" in changes[0] else "token")


def test_a_reward_model_shares_the_policys_weights_and_states(redline, recipe, tmp_path):
    from redline.engine.settings import Adapt, Model
    from redline.policy.actor import ActorCritic

    out = tmp_path / "run"
    assert redline("train", "reward", recipe, "--out", out)[0] == 0
    backbone = load_recipe(recipe).model.name
    actor = ActorCritic(Model(name=backbone, dtype="float32"), Adapt(lora_rank=4, train_layers=2))
    with warnings.catch_warnings():  # what libraries have to say to each other is nothing to the user
        warnings.simplefilter("error")
        shared, alone = (
            load_reward_model(str(out / "reward"), actor.lm, actor.trunk),
            load_reward_model(str(out / "reward")),
        )
    assert shared.shares
    assert not alone.shares
    policys = {tensor.data_ptr() for tensor in actor.lm.parameters()}
    adapters = [name for name, tensor in shared.model.named_parameters() if tensor.data_ptr() not in policys]
    assert all("lora_" in name or name.startswith("score") for name in adapters)
    sequences = [torch.arange(5, 19), torch.arange(30, 37)]
    assert shared.split.cut <= actor.split.cut
    kept, tap = [shared.lower(ids[None])[0] for ids in sequences], Tap(actor.lm, {shared.split.cut})
    for ids, states in zip(sequences, kept, strict=True):
        with torch.no_grad():
            tap.run(input_ids=ids[None], use_cache=False)
        torch.testing.assert_close(
            tap.states[shared.split.cut][0], states
        )  # what the policy's own pass leaves there
    expected = alone.rewards(sequences, [4, 3])
    for found in (shared.rewards(sequences, [4, 3]), shared.rewards(sequences, [4, 3], kept)):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_the_reward_may_have_another_tokenizer_and_backbone(redline, recipe, tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    other = tmp_path / "bert"
    torch.manual_seed(0)
    BertForMaskedLM(
        BertConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=700,
            pad_token_id=1,
        )
    ).save_pretrained(other)
    from tiny_tokenizers import byte_bpe

    byte_bpe(bos=True).save_pretrained(other)
    out = tmp_path / "run"
    status, _, err = redline(
        "run",
        recipe,
        "--out",
        out,
        "policy.updates=1",
        f"reward.model={{name: {other}, dtype: float32}}",
        "reward.depth=null",
        "reward.adapt={lora_rank: 0}",
    )
    assert status == 0, err


def test_overlapping_or_missing_prompts_are_said(redline, recipe, tmp_path):
    status, _, err = redline(
        "run",
        recipe,
        "--out",
        tmp_path / "run",
        "data.eval_prompts.path=edits.jsonl",
        "data.prompts.path=edits.jsonl",
        "policy.updates=1",
        "reward.epochs=1",
    )
    assert status == 2
    assert "no prompts that training has not seen" in err
    assert "30 of the comparison's 30 prompts are left out: training has them too" in " ".join(err.split())


def test_a_conversation_that_the_template_refuses_is_left_out(recipe, tmp_path, tiny_model):
    from tiny_tokenizers import CHATML, byte_bpe

    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('a user begins') }}{% endif %}"
    byte_bpe(strict + CHATML).save_pretrained(shutil.copytree(tiny_model, tmp_path / "strict"))
    user = {"role": "user", "content": "was it good ?"}
    talks = [[user], [{"role": "system", "content": "be brief"}, user]]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps({"prompt": talk}) + "\n" for talk in talks))
    run = Run(
        load_recipe(recipe, ["data.prompts.path=talks.jsonl", f"model.name={tmp_path / 'strict'}"]),
        tmp_path / "run",
    )
    run.stages["data"](run.job)
    assert [line["prompt"] for line in lines(tmp_path / "run/data/prompts.jsonl")] == talks[:1]
    [reject] = lines(tmp_path / "run/data/prompts.rejects.jsonl")
    assert reject["reason"].startswith("the chat template refuses the conversation")
    assert reject["reason"].endswith("(a user begins)")


def test_a_folder_in_which_another_process_works_is_refused(redline, recipe, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with (out / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, _, err = redline("run", recipe, "--out", out)
    assert status == 2
    assert f"{out}: another process is working on this run" in err.splitlines()[-1]
    assert not (out / "recipe.yaml").exists()


def test_logins_are_neither_kept_nor_shown(redline, recipe, tmp_path, capsys):
    out, login = tmp_path / "run", "compare={judge: m, base_url: 'http://bob:s3cret@127.0.0.1:9/v1'}"
    assert "comes before `policy`" in redline("train", "policy", recipe, "--out", out, login)[2]
    run = Run(load_recipe(recipe, [login]), out)
    run.go("label")
    assert watching_judge(run.job) is None
    assert "m at http://127.0.0.1:9/v1 may cost money" in " ".join(capsys.readouterr().err.split())
    assert "base_url: http://127.0.0.1:9/v1\n" in (out / "recipe.yaml").read_text()
    assert run.settings("compare") == Run(load_recipe(out / "recipe.yaml"), out).settings("compare")
    (out / "recipe.yaml").write_text(
        (out / "recipe.yaml").read_text().replace("127.0", "bob:s3cret@127.0")
    )  # of an older version
    assert "s3cret" not in write_report(out).read_text()


def test_recipes_of_the_project_are_valid(monkeypatch):
    folder = Path(__file__).parents[2] / "recipes"
    monkeypatch.setenv("REDLINE_DATA", str(folder))
    found = sorted(path for path in folder.glob("*.yaml") if not path.name.startswith("experiment-"))
    assert {
        "quickstart.yaml",
        "reviews-cad.yaml",
        "detox.yaml",
        "faithful-summaries.yaml",
        "alpacafarm-7b.yaml",
    } <= {path.name for path in found}
    for path in found:
        assert load_recipe(path).name == path.stem


def test_environment_and_overrides(tmp_path, monkeypatch):
    path = tmp_path / "r.yaml"
    path.write_text("data: {edits: {path: '${SOMEWHERE}/e.jsonl'}}\npolicy: {reward: [{weight: 1.0}]}\n")
    monkeypatch.delenv("SOMEWHERE", raising=False)
    with pytest.raises(UserError, match="needs the environment variable SOMEWHERE"):
        load_recipe(path)
    monkeypatch.setenv("SOMEWHERE", "/there")
    recipe = load_recipe(path, ["policy.reward.0.weight=2", "policy.kl.target=null", "sft={epochs: 1}"])
    assert recipe.data.edits.path == "/there/e.jsonl"
    assert (recipe.policy.reward[0].weight, recipe.policy.kl.target, recipe.sft.epochs) == (2, None, 1)
