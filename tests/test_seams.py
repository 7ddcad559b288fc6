"""The seams of the design, used from outside: examples/seams/ has a file for each.

What each of them takes, in files touched: a reward, a judge and a sampler none of Redline's (one file of
one's own, named in a recipe or on the command line); a file format its file and one line in
data/formats/__init__.py; a method its class, its section, and one line in direct/settings.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import redline
from redline import train_policy
from redline.data import formats
from redline.data.records import Prompt, Response
from redline.direct.stage import Given, train_direct
from redline.engine.settings import Adapt, Model
from redline.policy.settings import Kl, Policy
from redline.reward.settings import RewardTerm
from redline.sampling.settings import Sampling

SEAMS = Path(__file__).resolve().parents[1] / "examples" / "seams"
PROMPTS = [Prompt(id=text, prompt=text) for text in ("the film was", "I liked", "this is a", "not good")]


def policy(**changes) -> Policy:
    plain = {
        "updates": 1,
        "batch_size": 4,
        "minibatch_size": 2,
        "adapt": Adapt(lora_rank=2, train_layers=1),
        "sampling": Sampling(max_new_tokens=6),
        "kl": Kl(target=3.0),
        "reward": [RewardTerm(function=f"{SEAMS}/my_reward.py:no_repeats")],
        "reward_scale": 1.0,
    }
    return Policy(**plain | changes)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def seams(monkeypatch):
    """The examples, to be imported as a user's own modules are."""
    monkeypatch.syspath_prepend(str(SEAMS))
    yield
    for name in ("my_method", "my_format", "my_reward"):
        sys.modules.pop(name, None)


def test_a_reward(seams, tiny_model, tmp_path):
    from my_reward import no_repeats

    assert no_repeats(["p"], ["so so good"], [["so", " so", " good", ""]]) == [[0.0, -1.0, 0.0, 0.0]]
    train_policy(policy(), Model(name=tiny_model, dtype="float32"), PROMPTS, tmp_path / "policy")
    for sample in lines(tmp_path / "policy/samples.jsonl"):
        assert len(sample["rewards"]) == len(sample["offsets"])
    assert (tmp_path / "policy/config.json").exists()


def test_a_sampler(tiny_model, tmp_path):
    how = policy(sampler=f"{SEAMS}/my_sampler.py:Generate")
    train_policy(how, Model(name=tiny_model, dtype="float32"), PROMPTS, tmp_path / "policy")
    (line,) = lines(tmp_path / "policy/log.jsonl")
    assert line["sampler_drift"] is None  # it gives no log-probabilities
    assert (tmp_path / "policy/config.json").exists()


def test_a_judge(tmp_path):
    def system(end: str) -> list[Response]:
        return [Response(id=str(n), prompt=f"p{n}", response=f"yes{n % 3 * end}") for n in range(6)]

    result = redline.compare(system("."), system("!"), f"{SEAMS}/my_judge.py:calmer")
    assert (result.wins, result.ties, result.losses) == (4, 2, 0)


def test_a_method(seams, tiny_model, edits_file, tmp_path):
    from my_method import DirectIpo

    labels = list(redline.label_edits(redline.read_edits(edits_file, limit=8), tiny_model))
    how = DirectIpo(method="ipo", tau=0.1, epochs=4, batch_size=4, lr=0.02)
    model = Model(name=tiny_model, dtype="float32")
    train_direct(how, policy(), model, Given(labels, [], PROMPTS), tmp_path / "policy")
    losses = [line["loss"] for line in lines(tmp_path / "policy/log.jsonl") if "loss" in line]
    assert losses[0] == pytest.approx(25, rel=0.5)  # (0 - 1 / 0.2) ** 2, as the policy is its own anchor
    assert losses[-1] < losses[0] / 2


def test_a_recipe_takes_a_method_that_one_line_names(edits_file, tmp_path):
    """In a copy of the package: the new class in a file of its own, the new section in settings.py, and one
    line that names it."""
    package = tmp_path / "redline"
    shutil.copytree(Path(redline.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    example = (SEAMS / "my_method.py").read_text(encoding="utf-8")
    head, section, method = re.split(r"^(?=class )", example, flags=re.MULTILINE)
    section = section.replace("my_method:", "redline.direct.ipo:")
    head = head.replace("import DirectDpo", "import DirectIpo")
    (package / "direct/ipo.py").write_text(head + method, encoding="utf-8")
    settings = package / "direct/settings.py"
    before = settings.read_text(encoding="utf-8")
    assert before.count("    | DirectSpo\n") == 1
    after = before.replace("    | DirectSpo\n", "    | DirectSpo\n    | DirectIpo\n")
    after = after.replace("\nTrained = (", f"\n{section}\nTrained = (")
    settings.write_text(after, encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{edits: {{path: {edits_file}}}}}\ndirect: {{method: ipo, tau: 0.2}}\n")
    program = """
import sys
from redline.recipe import load_recipe
from redline.report.section_run import method_of
recipe = load_recipe(sys.argv[1])
method = recipe.direct.make(8)
print(type(method).__module__, method.target, method_of(recipe), sep="; ")
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(recipe)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    said = "redline.direct.ipo; 2.5; preferring the edits by a fixed margin (IPO), 1 epochs in steps of 16"
    assert result.stdout.strip() == said


def test_a_file_format(seams, tmp_path, monkeypatch):
    from my_format import record_rows

    monkeypatch.setitem(formats.READERS, ".rec", record_rows)  # the line in data/formats/__init__.py
    path = tmp_path / "edits.rec"
    path.write_text(
        "prompt: the film\nrejected: was bad\nedited: was good\n\nprompt: I\nrejected: x\nedited: y\n"
    )
    edits = redline.read_edits(path)
    assert [(edit.prompt, edit.edited) for edit in edits] == [("the film", "was good"), ("I", "y")]
