"""The public names: documented, typed, loaded when first used."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import redline
from redline import UserError

SOURCE = Path(redline.__file__)


def test_import_redline_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys, time; start = time.perf_counter(); import redline; "
        "seconds = time.perf_counter() - start; "
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pydantic'} & sys.modules.keys(); "
        "assert redline.UserError; print(seconds, sorted(heavy))"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True).split(" ", 1) for _ in range(3)]
    assert {heavy.strip() for _, heavy in runs} == {"[]"}
    assert min(float(seconds) for seconds, _ in runs) < 0.2  # the quickest: the machine may be busy


def test_what_type_checkers_see_is_what_there_is():
    """The imports under TYPE_CHECKING, the table of homes and __all__ name the same."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module.removeprefix("redline.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == redline._HOMES
    assert redline.__all__ == sorted(redline._HOMES)
    assert set(redline.__all__) <= set(dir(redline))


@pytest.mark.parametrize("name", redline.__all__)
def test_every_public_name_is_documented_and_typed(name):
    thing = getattr(redline, name)
    assert inspect.getdoc(thing)
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        assert signature.return_annotation is not inspect.Signature.empty
        untyped = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
        assert not untyped


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'reword'"):
        redline.reword  # noqa: B018


def test_records_are_read_with_a_mapping_and_what_is_wrong_is_said(tmp_path, capfd):
    rows = [{"question": "q", "bad": "a b", "good": "a c"}, {"question": "q", "bad": "", "good": "x"}]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "question", "rejected": "bad", "edited": "good"}
    (edit,) = redline.read_edits(path, columns=columns)
    assert (edit.prompt, edit.rejected, edit.edited) == ("q", "a b", "a c")
    assert "1 left out (1 rejected is empty)" in capfd.readouterr().err.replace("\n", " ")
    with pytest.raises(UserError, match="Map yours with `columns`"):
        redline.read_edits(path)
    with pytest.raises(UserError, match="lines: Extra inputs"):
        redline.read_edits(path, lines=3)
    (prompt,) = redline.read_records(path, redline.Prompt, columns={"prompt": "question"}, limit=1)
    assert prompt.prompt == "q"


def test_edits_to_labels_by_the_name_of_a_model(tiny_model):
    edit = redline.Edit(id="1", prompt="the film", rejected=" was bad", edited=" was good")
    (labels,) = redline.label_edits([edit], tiny_model)
    marked = [token for token, label in zip(labels.edited_tokens, labels.edited_labels, strict=True) if label]
    assert "".join(marked).replace("\u0120", " ").strip() == "good"


def test_a_recipe_runs_from_python_and_gives_typed_results(tiny_model, edits_file, tmp_path):
    recipe = {
        "name": "small",
        "model": {"name": tiny_model, "dtype": "float32"},
        "data": {"edits": {"path": str(edits_file)}, "validation_share": 0.3},
        "reward": {"epochs": 1, "adapt": {"train_layers": 1, "lora_rank": 2}},
        "policy": {
            "updates": 1,
            "batch_size": 4,
            "minibatch_size": 2,
            "adapt": {"train_layers": 1, "lora_rank": 2},
            "sampling": {"max_new_tokens": 6},
        },
        "compare": {"judge": "length"},
        "watch": {"every": 0},
    }
    found = redline.run_recipe(recipe, out=tmp_path / "run", seed=3, reward={"epochs": 2})
    made = json.loads((tmp_path / "run/winrate.json").read_text())
    assert found.win_rate.win_rate == made["win_rate"]
    assert found.win_rate.text["a"].mean_words == made["text"]["a"]["mean_words"]
    metrics = json.loads((tmp_path / "run/reward/metrics.json").read_text())
    assert found.reward_metrics.validation.auc == metrics["validation"]["auc"]
    assert found.reward_metrics.as_json() == metrics
    text = (tmp_path / "run/recipe.yaml").read_text()
    assert "seed: 3" in text
    assert "epochs: 2" in text  # the other keys of the section stay
    assert "lora_rank: 2" in text
    (scored,) = redline.TokenReward.from_pretrained(tmp_path / "run/reward").score(["the film"], [" was bad"])
    assert "".join(scored.tokens) == scored.text == " was bad"
    with pytest.raises(UserError, match=r"unknown key `reward\.epoch`"):
        redline.run_recipe(recipe, out=tmp_path / "other", reward={"epoch": 2})


def test_libraries_say_nothing_when_they_are_loaded():
    """On processors with bfloat16 bitsandbytes warns of a package that nothing here needs."""
    pytest.importorskip("bitsandbytes")
    code = "import redline.console, peft, bitsandbytes"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert loaded.returncode == 0
    assert "gemm_4bit_forward" not in loaded.stderr
