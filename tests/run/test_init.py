"""`redline init` writes a recipe that the second command takes; `redline schema` knows every key."""

import json

import pytest
from typer.testing import CliRunner

from redline.cli import app
from redline.errors import UserError
from redline.recipe import load_recipe

TABLE = "question,draft,corrected\n" + "".join(
    f"is film {number} good?,it was bad {number},it was good {number}\n" for number in range(12)
)
PAIRS = "".join(
    json.dumps({"prompt": f"p {number}", "chosen": f"good {number}", "rejected": f"bad {number}"}) + "\n"
    for number in range(3)
)
ALPACA = json.dumps(
    [{"instruction": "say it", "input": "", "chosen": "yes", "rejected": "no"} for _ in range(2)]
)


@pytest.mark.parametrize(
    ("name", "text", "said", "section"),
    [
        ("edits.csv", TABLE, "rejected = draft: it was bad 0", "edits"),
        ("pairs.jsonl", PAIRS, "chosen = chosen: good 0", "pairs"),
        ("alpaca.json", ALPACA, "prompt = instruction: say it", "pairs"),
    ],
)
def test_columns_are_guessed_and_the_recipe_is_valid(tmp_path, monkeypatch, name, text, said, section):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    ran = CliRunner().invoke(app, ["init", name, "--out", "sub/recipe.yaml"])
    assert ran.exit_code == 0, ran.exception
    assert said in ran.output
    recipe = load_recipe("sub/recipe.yaml")
    source = getattr(recipe.data, section)
    assert source is not None
    assert (tmp_path / source.path).resolve() == tmp_path / name or source.path == f"sub/../{name}"
    assert "# The model to align" in (tmp_path / "sub" / "recipe.yaml").read_text()
    again = CliRunner().invoke(app, ["init", name, "--out", "sub/recipe.yaml"])
    assert "exists" in str(again.exception)


def test_a_file_of_neither_is_refused_with_its_columns(tmp_path):
    (tmp_path / "x.csv").write_text("one,two\n1,2\n")
    ran = CliRunner().invoke(app, ["init", str(tmp_path / "x.csv"), "--out", str(tmp_path / "r.yaml")])
    assert isinstance(ran.exception, UserError)
    assert "Its columns: one, two" in str(ran.exception)


def test_the_schema_has_every_section(tmp_path):
    ran = CliRunner().invoke(app, ["schema"])
    schema = json.loads(ran.output)
    assert {"data", "label", "policy", "compare"} <= set(schema["properties"])
    assert schema["$defs"]["Label"]["properties"]["fill"]["description"]
    assert schema["additionalProperties"] is False
    assert CliRunner().invoke(app, ["schema", "--out", str(tmp_path / "s.json")]).exit_code == 0
    assert json.loads((tmp_path / "s.json").read_text()) == schema
