"""What a user can get wrong gives one clear line on stderr, status 2 and no traceback."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from redline.cli import app

RECIPE = "model: {name: MODEL}\ndata: {edits: {path: edits.jsonl}}\n"


@pytest.fixture
def here(tmp_path, monkeypatch, edits_file, tiny_model) -> Path:
    """A working folder with a good recipe, good edits, and several broken things."""
    monkeypatch.chdir(tmp_path)
    good = RECIPE.replace("MODEL", tiny_model)
    (tmp_path / "good.yaml").write_text(good)
    (tmp_path / "typo.yaml").write_text(good + "policy: {kl: {tarjet: 6}}\n")
    (tmp_path / "type.yaml").write_text(good + "policy: {updates: many}\n")
    (tmp_path / "notyaml.yaml").write_text("data: [1, 2\n")
    (tmp_path / "date.yaml").write_text("name: 2024-13-45\n" + good)
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "nodata.yaml").write_text("data: {}\n")
    (tmp_path / "gone.yaml").write_text(good.replace("edits.jsonl", "gone.jsonl"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("no model")
    rows = (tmp_path / "edits.jsonl").read_text().splitlines()
    (tmp_path / "broken.jsonl").write_text(
        "\n".join([*rows[:2], '{"id": "x", "prompt": ', *rows[3:5]]) + "\n"
    )
    (tmp_path / "l.rejects.jsonl").write_text(
        json.dumps({"id": "a", "prompt": "p", "rejected": "x", "edited": "y", "gate": "ratio"}) + "\n"
    )
    (tmp_path / "other.jsonl").write_text(
        json.dumps(
            {
                "id": "a",
                "prompt": "p",
                "rejected_tokens": ["x"],
                "rejected_labels": [-1],
                "edited_tokens": ["y"],
                "edited_labels": [1],
                "tokenizer": "another@123456",
            }
        )
        + "\n"
    )
    return tmp_path


CASES = {
    "missing recipe": (["run", "none.yaml"], "none.yaml: cannot be read"),
    "recipe that is not YAML": (["run", "notyaml.yaml"], "notyaml.yaml: not valid YAML"),
    "recipe with a date that is none": (
        ["run", "date.yaml"],
        "date.yaml: not valid YAML (month must be in 1..12)",
    ),
    "override with a date that is none": (
        ["run", "good.yaml", "name=2024-13-45"],
        "the value is not valid YAML",
    ),
    "empty recipe": (["run", "empty.yaml"], "a recipe is a mapping"),
    "unknown key": (["run", "typo.yaml"], "unknown key `policy.kl.tarjet`. Did you mean `target`?"),
    "wrong type": (["run", "type.yaml"], "`policy.updates`: Input should be a valid integer"),
    "no data": (["run", "nodata.yaml"], "data needs `edits`"),
    "override without a value": (["run", "good.yaml", "policy.updates"], "an override is key=value"),
    "override of a value's inside": (
        ["run", "good.yaml", "data.edits.path.x=1"],
        "is a value, not a section",
    ),
    "missing edits": (["run", "gone.yaml"], "gone.jsonl"),
    "a folder that is not a model": (["run", "good.yaml", "model.name=folder"], "folder: not a model folder"),
    "a model that is not there": (
        ["run", "good.yaml", "model.name=./none"],
        "./none: there is no such model folder",
    ),
    "too many layers": (
        ["train", "reward", "good.yaml", "reward.adapt.train_layers=9"],
        "the model has 4 layers",
    ),
    "too deep": (["train", "reward", "good.yaml", "reward.depth=9"], "reward.depth is 9"),
    "a stage out of order": (["train", "policy", "good.yaml"], "the stage `reward` comes before `policy`"),
    "a stage that is not in the recipe": (["train", "sft", "good.yaml"], "Add an `sft:` section"),
    "label a missing file": (
        ["label", "none.jsonl", "--out", "k.jsonl", "--tokenizer", "whitespace"],
        "none.jsonl",
    ),
    "label into a file as if it were a folder": (
        ["label", "edits.jsonl", "--out", "edits.jsonl/l.jsonl", "--tokenizer", "whitespace"],
        "rejects.jsonl: cannot be written",
    ),
    "label into the file of the edits": (
        ["label", "edits.jsonl", "--out", "./edits.jsonl", "--tokenizer", "whitespace"],
        "edits.jsonl: would be written over",
    ),
    "score into the file of the edits": (
        ["score", "edits.jsonl", "--reward", "folder", "--out", "edits.jsonl"],
        "edits.jsonl: would be written over",
    ),
    "label a file of rejects into its output": (
        ["label", "l.rejects.jsonl", "--out", "l.jsonl", "--tokenizer", "whitespace"],
        "l.rejects.jsonl: what is left out would be written there",
    ),
    "label beside what an editor refused": (
        ["label", "edits.jsonl", "--out", "l.labels", "--tokenizer", "whitespace"],
        "l.rejects.jsonl: what is left out would be written there",
    ),
    "label into a folder": (
        ["label", "edits.jsonl", "--out", ".", "--tokenizer", "whitespace"],
        ".: is a folder. Give the name",
    ),
    "label with a tokenizer that is not there": (
        ["label", "edits.jsonl", "--out", "k.jsonl", "--tokenizer", "./none"],
        "./none",
    ),
    "score with a folder that is no model": (
        ["score", "edits.jsonl", "--reward", "folder", "--out", "s.jsonl"],
        "not a model folder",
    ),
    "score with a model of other classes": (
        ["score", "edits.jsonl", "--reward", "MODEL", "--out", "s.jsonl"],
        "a sequence reward model has one",
    ),
    "a reward function that is not there": (
        ["run", "good.yaml", "policy.reward=[{function: 'nothing.py:f'}]"],
        "nothing.py",
    ),
    "report of no run": (["report", "folder"], "folder"),
    "show of a missing file": (["show", "none.jsonl"], "none.jsonl"),
    "compare with missing responses": (["compare", "a.jsonl", "b.jsonl", "--judge", "length"], "a.jsonl"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line(here, redline, case):
    arguments, message = CASES[case]
    before = {path.name: path.read_bytes() for path in here.glob("*.jsonl")}
    model = (here / "good.yaml").read_text().split("name: ")[1].split("}")[0]
    status, _, err = redline(*[model if argument == "MODEL" else argument for argument in arguments])
    last = err.strip().splitlines()[-1]
    assert status == 2, err
    assert "Traceback" not in err
    assert last.startswith("redline: ")
    assert message in last
    assert before.items() <= {path.name: path.read_bytes() for path in here.glob("*.jsonl")}.items()


def test_a_broken_line_is_named_and_the_rest_is_used(here, redline):
    status, _, err = redline("label", "broken.jsonl", "--out", "k.jsonl", "--tokenizer", "whitespace")
    assert status == 0
    assert len((here / "k.jsonl").read_text().splitlines()) == 4
    rejects = [json.loads(line) for line in (here / "k.rejects.jsonl").read_text().splitlines()]
    assert [(reject["line"], "JSON" in reject["reason"]) for reject in rejects] == [(3, True)]
    assert "1 left out" in err


def test_labels_of_another_tokenizer_are_refused(here, redline):
    assert redline("train", "reward", "good.yaml", "--out", "run", "reward.epochs=0.1")[0] == 0
    (here / "run/state.json").write_text(
        json.dumps(
            {
                name: done
                for name, done in json.loads((here / "run/state.json").read_text()).items()
                if name != "reward"
            }
        )
    )
    (here / "run/labels/train.jsonl").write_text((here / "other.jsonl").read_text())
    status, _, err = redline("train", "reward", "good.yaml", "--out", "run", "reward.epochs=0.1")
    assert status == 2
    assert "another@123456" in err


@pytest.mark.parametrize("times", [1, 20])  # the disk is full at the end, or in the midst of writing
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(here, times):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    rows = [json.loads(line) for line in (here / "edits.jsonl").read_text().splitlines()]
    (here / "edits.jsonl").write_text(
        "".join(
            json.dumps({name: f"{value} {time}" for name, value in row.items()}) + "\n"
            for time in range(times)
            for row in rows
        )
    )
    command = [
        sys.executable,
        "-m",
        "redline.cli",
        "label",
        "edits.jsonl",
        "--out",
        "k.jsonl",
        "--tokenizer",
        "whitespace",
    ]
    done = subprocess.run(
        command,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2
    assert "k.jsonl: cannot be written" in done.stderr.splitlines()[-1]
    assert not (here / "k.jsonl").exists()
    assert not list(here.glob(".*part"))


def test_a_seed_below_zero_is_told(here, redline):
    status, _, err = redline("compare", "a.jsonl", "b.jsonl", "--judge", "length", "--seed", "-1")
    assert status == 2
    assert "Invalid value for '--seed'" in err
    assert "Traceback" not in err


def test_help_is_quick_and_every_command_has_an_example():
    names = [
        command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands
    ]
    assert {"run", "experiment", "plan", "judge-check"} <= set(names)
    for name in ("", *names):
        command = [sys.executable, "-X", "importtime", "-m", "redline.cli", *name.split(), "--help"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0
        loaded = [
            line.removeprefix("import time:").split("|")
            for line in done.stderr.splitlines()
            if "import time:" in line
        ][1:]
        assert not {"torch", "transformers", "datasets"} & {module.strip() for _, _, module in loaded}
        assert not name or "Example:" in done.stdout
        assert sum(int(microseconds) for microseconds, _, _ in loaded) < 3_000_000  # each module's own
