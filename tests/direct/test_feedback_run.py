"""A whole run from thumbs alone, and from edits of which some were accepted as they are."""

import json

import yaml
from rig import edits

from redline.data.files import read_json
from redline.recipe import load_recipe
from redline.run.files import RunFiles
from redline.run.job import Job


def recipe(folder, model, data, **direct):
    path = folder / "recipe.yaml"
    plain = {
        "model": {"name": model, "dtype": "float32"},
        "data": data,
        "direct": {"method": "bco", "batch_size": 8, "lr": 0.01, **direct},
        "policy": {"adapt": {"lora_rank": 4, "train_layers": 1}, "sampling": {"max_new_tokens": 4}},
        "watch": {"every": 0},
        "compare": {"judge": "length"},
    }
    path.write_text(yaml.safe_dump(plain))
    return path


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"path": str(path)}


def test_from_thumbs_alone_to_a_report(redline, tiny_model, tmp_path):
    """TRL's format; a share of the prompts is held out to compare on."""
    lines = [
        {"prompt": f"the film {number} was", "completion": f" {word} and fair", "label": word == "good"}
        for number in range(24)
        for word in ("good", "bad")
    ]
    data = {"feedback": write(tmp_path / "thumbs.jsonl", lines), "validation_share": 0.3}
    out = tmp_path / "run"
    status, _, err = redline("run", recipe(tmp_path, tiny_model, data), "--out", out)
    assert status == 0, err
    assert list(read_json(out / "state.json")) == ["data", "policy", "compare", "report"]
    assert (out / "policy/adapter/adapter_model.safetensors").exists()
    held_out = {
        json.loads(line)["prompt"] for line in (out / "compare/policy.jsonl").read_text().splitlines()
    }
    trained = {
        json.loads(line)["prompt"] for line in (out / "policy/rounds/0/pairs.jsonl").read_text().splitlines()
    }
    assert held_out
    assert not held_out & trained
    assert len(held_out) + len(trained) == 24
    status, _, err = redline("run", recipe(tmp_path, tiny_model, data), "--out", out)
    assert status == 0
    assert "nothing to do" in err


def test_answers_that_were_accepted_as_they_are_count_as_liked(redline, tiny_model, tmp_path):
    changed = [edit.model_dump() for edit in edits()]
    accepted = [{"id": "ok", "prompt": "I was", "rejected": " fine", "edited": " fine"}]
    prompts = [{"prompt": f"a book {number}"} for number in range(2)]
    data = {
        "edits": write(tmp_path / "edits.jsonl", [*changed, *accepted]),
        "validation": write(tmp_path / "validation.jsonl", changed[:2]),
        "eval_prompts": write(tmp_path / "prompts.jsonl", prompts),
    }
    path, out = recipe(tmp_path, tiny_model, data), tmp_path / "run"
    status, _, err = redline("train", "policy", path, "--out", out)
    assert status == 0, err
    [thumb] = Job(load_recipe(path), RunFiles(out)).thumbs()
    assert (thumb.response, thumb.liked) == (" fine", True)
    rows = [json.loads(line) for line in (out / "policy/rounds/0/pairs.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows if row["pair"] == -1] == ["ok"]
    assert len(rows) == 2 * 8 + 1
