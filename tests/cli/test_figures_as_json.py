"""``--json`` on every command that prints figures: stdout is one JSON value and nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from redline.cli import app

WITHOUT_FIGURES = {
    "init": "writes a recipe",
    "schema": "prints a schema, which is JSON already",
    "show": "prints records, which are JSON already",
    "serve-reward": "serves",
}
ADAPT = {"lora_rank": 2, "train_layers": 1}
RECIPE = {
    "data": {"edits": {"path": "edits.jsonl"}, "validation_share": 0.3},
    "reward": {"adapt": ADAPT, "epochs": 1, "batch_size": 8, "depth": 2},
    "policy": {
        "adapt": ADAPT,
        "updates": 1,
        "batch_size": 4,
        "minibatch_size": 4,
        "sampling": {"max_new_tokens": 6},
    },
    "compare": {"judge": "length"},
    "watch": {"every": 0},
}
# a command line -> the keys that its JSON has; they run in this order, in the folder of a finished run
COMMANDS: dict[str, set[str]] = {
    "run r.yaml --out run": {"run", "did", "did_before", "winrate", "reward", "sanity"},
    "train reward r.yaml --out run": {"run", "did", "did_before", "reward"},
    "check r.yaml --out run": {"problems", "stages", "changed", "dry_run_seconds"},
    "plan r.yaml": {"plans", "changes"},
    "report run": {"winrate", "reward", "sanity"},
    "score edits.jsonl --reward run/reward --out scores.jsonl": {"out", "records", "left_out"},
    "label edits.jsonl --tokenizer whitespace --out labels.jsonl": {"out", "records", "left_out", "warnings"},
    "edits edits.jsonl": {"median", "words", "refused"},
    "edit edits.jsonl --out made.jsonl --model x --base-url http://127.0.0.1:9/v1 --dry-run "
    "--template plain": {"pairs", "tokens_in", "tokens_out", "cost", "prompts"},
    "sample run/policy --prompts prompts.jsonl --out answers.jsonl --max-new-tokens 4": {"out", "records"},
    "compare answers.jsonl other.jsonl --judge length": {"win_rate", "ci95"},
    "judge-check verdicts.jsonl --judge length": {"people", "with_people"},
    "import-log log.csv --out sent.jsonl": {"out", "rows", "edits", "changed", "dropped"},
    "extrapolate run/policy --strength 1.5 --out further": {"out", "strength", "measured"},
    "push run --to ada/model": {"folder", "repository", "files", "bytes", "address"},
    "experiment e.yaml --report --out experiment": {"arms", "unfinished"},
    "annotate --status --db sqlite:///edits.db": {"done", "total"},
    "export --db sqlite:///edits.db --out done.jsonl": {"out", "records", "left_out"},
}
ELSEWHERE = {"rounds": "tests/run/test_rounds.py"}


def lines(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def fill_database() -> None:
    """A database of `redline annotate` with one pair that nobody has edited."""
    from redline.annotate.intake import add_pairs, set_up
    from redline.annotate.schema import connect
    from redline.data.check import Rejects
    from redline.data.records import ToEdit

    engine = connect("sqlite:///edits.db")
    set_up(engine, "edit", "", None, 0.0, None)
    add_pairs(engine, [ToEdit(id="p", prompt="Q", rejected="a wrong answer")], Rejects())
    engine.dispose()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edits_file: Path, tiny_model: str) -> Path:
    """The working folder, with what the commands read."""
    monkeypatch.chdir(tmp_path)
    recipe = RECIPE | {"model": {"name": tiny_model, "dtype": "float32"}}
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    experiment = {
        "name": "e",
        "base": {name: section for name, section in recipe.items() if name != "compare"},
        "arms": {"one": {}, "two": {"policy.updates": 2}},
        "judges": [{"judge": "length"}],
        "seeds": [0],
    }
    Path("e.yaml").write_text(yaml.safe_dump(experiment))
    lines("prompts.jsonl", [{"id": "1", "prompt": "the film was"}, {"id": "2", "prompt": "the book was"}])
    people = [{"prompt": "p", "a": "x" * n, "b": "yyy", "preference": float(n > 3)} for n in range(1, 9)]
    lines("verdicts.jsonl", [{"id": str(n), **row} for n, row in enumerate(people)])
    Path("log.csv").write_text("draft,sent\nthe room is red and large,the room is blue and large\n")
    fill_database()
    return tmp_path


def test_every_command_prints_json_alone(redline: Any, place: Path) -> None:
    for command, keys in COMMANDS.items():
        if command.startswith("compare"):
            shutil.copy("answers.jsonl", "other.jsonl")
        status, out, err = redline(*command.split(), "--json")
        assert status == 0, f"{command}\n{err}"
        figures = json.loads(out)
        first = figures[0] if isinstance(figures, list) else figures
        assert keys <= first.keys(), f"{command}: {sorted(first)}"


def test_no_command_is_left_out() -> None:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        has_json = any("--json" in parameter.opts for parameter in command.params)
        assert has_json == (name not in WITHOUT_FIGURES), name
    tried = {command.split()[0] for command in COMMANDS} | ELSEWHERE.keys()
    assert tried == group.commands.keys() - WITHOUT_FIGURES.keys()  # type: ignore[attr-defined]


def test_the_figures_of_a_check_that_fails_come_with_status_1(redline: Any, place: Path) -> None:
    status, out, err = redline("check", "r.yaml", "compare.judge=vadr", "--json")
    assert status == 1
    assert len(json.loads(out)["problems"]) == 1
    assert err == "redline: r.yaml: 1 to mend\n"
