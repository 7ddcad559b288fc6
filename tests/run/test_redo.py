"""A changed key redoes what depends on it and no more; nothing that was made is lost."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml

from redline.data.files import read_json, read_jsonl, write_json, write_jsonl
from redline.data.records import Edit
from redline.errors import UserError
from redline.recipe import load_recipe, sections_in
from redline.run.depends import changes
from redline.run.files import RunFiles
from redline.run.run import Run
from redline.section import Section

PAIRS = [{"id": f"p{n}", "prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(4)]
STAGES = ["data", "edit", "label", "sft", "reward", "policy", "compare"]
FROM_LABEL = ["label", "sft", "reward", "policy", "compare"]
FROM_LABEL_BUT_SFT = ["label", "reward", "policy", "compare"]
TRAINED = ["sft", "reward", "policy", "compare"]

# a key and its new value -> the stages that depend on it; all others are kept
REDONE: dict[str, list[str]] = {
    "name=other": [],
    "trackers=[tensorboard]": [],
    "seed=1": TRAINED,
    "model.dtype=bfloat16": TRAINED,
    "model.load_in_4bit=true": TRAINED,
    "model.name=another": ["data", *FROM_LABEL],
    "model.revision=v2": ["data", *FROM_LABEL],
    "data.pairs.limit=3": ["data", "edit", *FROM_LABEL],
    "data.pairs.columns={rejected: worse}": ["data", "edit", *FROM_LABEL],
    "data.validation_share=0.2": FROM_LABEL,
    "data.test.path=edits.jsonl": ["data", *FROM_LABEL_BUT_SFT],
    "data.prompts.limit=2": ["data", "policy", "compare"],
    "data.eval_prompts.limit=2": ["data", "compare"],
    "data.max_prompt_tokens=99": ["data", *FROM_LABEL],
    "data.max_response_tokens=99": FROM_LABEL,
    "data.over_long=reject": FROM_LABEL_BUT_SFT,
    "edit.model=better": ["edit", *FROM_LABEL],
    "edit.template=plain": ["edit", *FROM_LABEL],
    "edit.guideline=be brief": ["edit", *FROM_LABEL],
    "edit.max_ratio=0.4": ["edit", *FROM_LABEL],
    "edit.attempts=5": ["edit", *FROM_LABEL],
    "edit.base_url=http://localhost:1/v1": [],
    "edit.concurrency=2": [],
    "edit.rate=5": [],
    "edit.retries=0": [],
    "edit.timeout=3": [],
    "edit.price_in=1": [],
    "edit.price_out=2": [],
    "label.unit=word": FROM_LABEL_BUT_SFT,
    "sft.epochs=9": TRAINED,
    "reward.epochs=9": ["reward", "policy", "compare"],
    "reward.adapt.lora_rank=3": ["reward", "policy", "compare"],
    "reward.optimizer.decay=linear": ["reward", "policy", "compare"],
    "reward.model={name: other}": FROM_LABEL_BUT_SFT,
    "policy.updates=9": ["policy", "compare"],
    "policy.reward=[{form: discrete}]": ["policy", "compare"],
    "policy.kl.target=null": ["policy", "compare"],
    "policy.sampler=mine.py:sampler": ["policy", "compare"],
    "policy.sampling.top_p=0.9": ["policy", "compare"],
    "policy.checkpoint_every=9": [],
    "policy.sample_every=9": [],
    "policy.show_samples=2": [],
    "policy.microbatch_tokens=999": [],
    "edit.api_key_env=MY_KEY": [],
    "compare.api_key_env=MY_KEY": [],
    "model.chat_template_kwargs={enable_thinking: false}": ["data", *FROM_LABEL],
    "policy.reward=[{weight: 2}]": ["policy", "compare"],
    "direct={method: dpo}": ["policy", "compare"],
    "watch.every=3": [],
    "compare.judge=length": ["compare"],
    "compare.base_url=http://localhost:1/v1": ["compare"],
    "compare.template=mine.txt": ["compare"],
    "compare.limit=2": ["compare"],
    "compare.sampling={temperature: 0.5}": ["compare"],
    "compare.concurrency=3": [],
}


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    """A recipe with all stages, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("redline.run.run.free_memory", lambda: None)  # there are no models, and it takes time
    write_jsonl("pairs.jsonl", PAIRS)
    write_jsonl("prompts.jsonl", [{"id": "x", "prompt": "x"}])
    plain = {
        "name": "r",
        "model": {"name": "m"},
        "data": {
            "pairs": {"path": "pairs.jsonl"},
            "prompts": {"path": "prompts.jsonl"},
            "eval_prompts": {"path": "prompts.jsonl"},
        },
        "edit": {"model": "editor"},
        "sft": {},
        "compare": {"judge": "vader"},
    }
    Path("r.yaml").write_text(yaml.safe_dump(plain))
    return Path("r.yaml")


def a_run(recipe: Path, changes: Sequence[str] = ()) -> tuple[Run, list[str]]:
    """A run whose stages only leave a file each, and the list of those that were done."""
    run = Run(load_recipe(recipe, list(changes)), Path("run"))
    did: list[str] = []

    def stage(name: str):
        def work(job) -> None:
            did.append(name)
            files = RunFiles(Path("run"))
            places = {
                "data": files.data("pairs"),
                "edit": files.data("edits"),
                "label": files.labels("train"),
                "sft": files.sft.folder / "config.json",
                "reward": files.reward.config,
                "policy": files.policy.config,
                "compare": files.winrate,
                "report": files.report,
            }
            if name == "edit":  # as the editor does: an id that is there is finished
                there = files.data("edits").read_text() if files.data("edits").exists() else ""
                asked = [pair for pair in PAIRS if f'"{pair["id"]}"' not in there]
                did.extend(f"asked {pair['id']}" for pair in asked)
                with files.data("edits").open("a") as out:
                    out.writelines(json.dumps(pair | {"edited": "good"}) + "\n" for pair in asked)
            elif name == "data":
                write_jsonl(places[name], PAIRS)
            else:
                write_json(places[name], {"made with": list(changes)})

        return work

    run.stages = {name: stage(name) for name in run.stages}
    run.check = lambda *_: None  # there is no such model
    return run, did


@pytest.mark.parametrize("change", REDONE)
def test_what_depends_on_a_key_is_redone_and_nothing_else(recipe, change):
    before, now = (Run(load_recipe(recipe, made), Path("run")) for made in ([], [change]))
    redone = [stage for stage in STAGES if changes(before.settings(stage), now.settings(stage))]
    assert redone == REDONE[change]


# the start of a key -> the stages that depend on any such key; the longest start counts
BY_START: dict[str, list[str]] = {
    "name": [],
    "trackers": [],
    "seed": TRAINED,
    "model.": TRAINED,
    "model.name": ["data", *FROM_LABEL],
    "model.revision": ["data", *FROM_LABEL],
    "model.chat_template": ["data", *FROM_LABEL],  # and its kwargs
    "data.pairs.": ["data", "edit", *FROM_LABEL],
    "data.prompts.": ["data", "policy", "compare"],
    "data.eval_prompts.": ["data", "compare"],
    "data.validation_share": FROM_LABEL,
    "data.max_prompt_tokens": ["data", *FROM_LABEL],
    "data.max_response_tokens": FROM_LABEL,
    "data.over_long": FROM_LABEL_BUT_SFT,
    "edit.": ["edit", *FROM_LABEL],
    "label.": FROM_LABEL_BUT_SFT,
    "sft.": TRAINED,
    "reward.": ["reward", "policy", "compare"],
    "policy.": ["policy", "compare"],
    "watch.": [],
    "compare.": ["compare"],
    **{key.partition("=")[0]: stages for key, stages in REDONE.items() if not stages},  # no result changes
}


def keys_of(section: Section, start: str = "") -> Iterator[str]:
    """The keys of a recipe that hold a value; sections that may be absent are in the table above."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from keys_of(value, f"{start}{name}.")
        elif not list(sections_in(field.annotation)):
            yield f"{start}{name}"


def with_another_value(section: Section, key: str) -> Section:
    """A copy in which one key has another value of its kind."""
    name, _, rest = key.partition(".")
    value = getattr(section, name)
    if rest:
        return section.model_copy(update={name: with_another_value(value, rest)})
    return section.model_copy(update={name: another(value, type(section).model_fields[name].annotation)})


def another(value: object, kind: object) -> object:
    choices = [choice for choice in get_args(kind) if isinstance(choice, str | int) and choice != value]
    if get_origin(kind) is Literal:
        return choices[0]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, dict):
        return {"x": "a"}
    if isinstance(value, list):
        return [get_args(get_args(kind)[0])[0]]
    if value is None and (int in get_args(kind) or float in get_args(kind)):
        return 3
    return f"{value}x"


def test_each_key_redoes_the_stages_that_depend_on_it(recipe):
    whole = load_recipe(recipe)
    before = {stage: Run(whole, Path("run")).settings(stage) for stage in STAGES}
    keys = list(keys_of(whole))
    assert len(keys) > 130
    for key in keys:
        start = max((start for start in BY_START if key.startswith(start)), key=len)
        now = Run(with_another_value(whole, key), Path("run"))
        redone = [stage for stage in STAGES if changes(before[stage], now.settings(stage))]
        assert (key, redone) == (key, BY_START[start])


def test_a_finished_run_does_nothing_and_says_so(recipe, capsys):
    a_run(recipe)[0].go()
    written = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    run, did = a_run(recipe)
    outcome = run.go()
    assert (did, outcome.did, outcome.before) == ([], (), (*STAGES, "report"))
    assert "nothing to do. Done already: data, edit, label" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_changed_key_is_named_and_the_old_result_can_be_had_again(recipe, capsys):
    a_run(recipe)[0].go()
    run, did = a_run(recipe, ["reward.epochs=6"])
    run.go()
    assert did == ["reward", "policy", "compare", "report"]
    said = capsys.readouterr().err
    assert "reward is done again: reward.epochs was 4, is 6 now" in said
    assert "what was there is kept in run/previous/1" in said
    assert read_json("run/previous/1/reward/config.json") == {"made with": []}
    assert read_json("run/reward/config.json") == {"made with": ["reward.epochs=6"]}
    run, did = a_run(recipe)
    run.go()
    assert did == ["report"]  # what was set aside fits again
    assert read_json("run/reward/config.json") == {"made with": []}
    assert "policy: taken over from run/previous/1" in capsys.readouterr().err


def test_records_that_are_added_are_noticed_and_only_they_are_asked_for(recipe, monkeypatch, capsys):
    a_run(recipe)[0].go()
    added = [{"id": "new", "prompt": "q", "chosen": "good", "rejected": "bad"}, *PAIRS]
    write_jsonl("pairs.jsonl", added)
    monkeypatch.setattr("test_redo.PAIRS", added)
    run, did = a_run(recipe)
    run.go()
    assert [name for name in did if name.startswith("asked")] == ["asked new"]
    assert did[:2] == ["data", "edit"]
    said = capsys.readouterr().err
    assert "the contents of pairs.jsonl (data.pairs) have changed" in said
    assert "4 edits are kept: their pairs are as they were" in said


def test_another_editor_is_asked_for_all_and_the_old_edits_are_kept(recipe):
    a_run(recipe)[0].go()
    run, did = a_run(recipe, ["edit.model=better"])
    run.go()
    assert [name for name in did if name.startswith("asked")] == [f"asked p{n}" for n in range(4)]
    assert len(list(read_jsonl("run/previous/1/data/edits.jsonl", Edit))) == 4


def test_from_a_stage_all_that_follows_is_done_again(recipe):
    a_run(recipe)[0].go()
    run, did = a_run(recipe)
    run.go(start="policy")
    assert did == ["policy", "compare", "report"]
    assert Path("run/previous/1/policy/config.json").exists()
    run, did = a_run(recipe)
    run.go(start="data")
    assert [name for name in did if name.startswith("asked")] == []  # edits were paid for
    assert did == ["data", *FROM_LABEL, "report"]
    with pytest.raises(UserError, match="no stage `polcy`"):
        a_run(recipe)[0].go(start="polcy")


def test_a_run_takes_over_what_another_did_alike(recipe, capsys):
    a_run(recipe)[0].go()
    Path("run").rename("first")
    run, did = a_run(recipe, ["policy.updates=9"])
    run.go(others=[Path("first")])
    assert did == ["policy", "compare", "report"]
    assert "edit: taken over from first" in capsys.readouterr().err
    assert Path("run/data/edits.jsonl").read_text() == Path("first/data/edits.jsonl").read_text()
    assert read_json("run/state.json")["reward"]["from"] == "first"


def test_a_stage_that_was_stopped_begins_anew_with_another_key(recipe):
    run, _ = a_run(recipe)

    def stopped(job) -> None:
        write_json(run.files.policy.checkpoints / "manifest.json", {})
        raise KeyboardInterrupt

    run.stages["policy"] = stopped
    with pytest.raises(KeyboardInterrupt):
        run.go()
    assert read_json("run/begun.json")["stage"] == "policy"
    a_run(recipe, ["policy.updates=9"])[0].go()
    assert not Path("run/policy/checkpoints").exists()
    assert Path("run/previous/1/policy/checkpoints/manifest.json").exists()
    assert not Path("run/begun.json").exists()


def test_one_stage_alone_minds_the_stages_before_it(recipe):
    a_run(recipe)[0].go()
    with pytest.raises(UserError, match=r"`reward` comes before `policy` and was done with other settings"):
        a_run(recipe, ["reward.epochs=6"])[0].go("policy")
    assert Path("run/reward/config.json").exists()
    run, did = a_run(recipe, ["policy.updates=9"])
    run.go("policy")
    assert did == ["policy"]
    assert "compare" in read_json("run/state.json")  # stages after it are left alone


def test_the_state_of_an_earlier_version_is_one_line(recipe):
    write_json("run/state.json", {"data": {"settings": "0123", "seconds": 1.0}})
    with pytest.raises(UserError, match=r"done by an earlier version .* run/data/edits.jsonl"):
        a_run(recipe)[0].go()
