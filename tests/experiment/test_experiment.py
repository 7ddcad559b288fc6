"""An experiment on a tiny model, from recipe to page: what is shared is done once, what fails is told, what
is there stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from redline.data.files import read_json, write_json
from redline.errors import Problems, UserError
from redline.experiment.arms import Cell, Need, cells, load_experiment
from redline.experiment.results import collect
from redline.experiment.run import _must_wait, _processes, run_cell, run_cells
from redline.judge.judges import judge_of
from redline.run.folder import alone_in
from redline.run.run import Run

BASE = {
    "data": {"edits": {"path": "edits.jsonl"}, "validation_share": 0.3},
    "reward": {"adapt": {"lora_rank": 4, "train_layers": 2}, "epochs": 1, "batch_size": 8, "depth": 3},
    "policy": {
        "adapt": {"lora_rank": 4, "train_layers": 2},
        "updates": 2,
        "batch_size": 4,
        "minibatch_size": 4,
        "epochs": 1,
        "optimizer": {"lr": 0.02},
        "sampling": {"max_new_tokens": 4},
    },
    "watch": {"every": 1, "prompts": 4},
    "compare": {"limit": 4},
}
ARMS = {
    "token": {},
    "uniform": {"policy.reward": [{"spread": "uniform"}]},
    "both": {
        "reward.kind": "sequence",
        "policy.reward": [{}, {"model": "@token", "weight": 0.5}],
        "seeds": [1],
    },
    "sft": {"direct.method": "sft", "direct.epochs": 1, "seeds": [1]},
    "best-of-2": {"direct": {"method": "best_of_n", "n": 2}, "seeds": [1]},
    "broken": {"policy.reward": [{"function": "no_such_module:reward"}], "seeds": [0]},
}


@pytest.fixture
def recipe(tmp_path, tiny_model, edits_file) -> Path:
    judge = tmp_path / "judge.py"
    judge.write_text(
        "def vowels(prompts, a, b):\n    return [0.5 + 0.5 * ((x.count('a') > y.count('a')) - "
        "(x.count('a') < "
        "y.count('a'))) for x, y in zip(a, b)]\n"
    )
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump({"model": {"name": tiny_model, "dtype": "float32"}, **BASE}))
    path = tmp_path / "experiment.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "base": "base.yaml",
                "seeds": [0, 1],
                "arms": ARMS,
                "baseline": "token",
                "kl_levels": [0.01],
                "gold_levels": [0.5],
                "judges": [{"judge": "length"}, {"judge": "judge.py:vowels"}],
            },
            sort_keys=False,
        )
    )
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_from_a_recipe_to_a_page(redline, recipe, tmp_path):
    out = tmp_path / "out"
    status, printed, err = redline("experiment", recipe, "--out", out)
    assert status == 2
    assert (
        "1 of 8 runs failed (broken, seed 0: policy.reward.0.function: `no_such_module:reward`"
        in err.splitlines()[-1]
    )
    assert "report.html" in printed

    rows = {(row["arm"], row["seed"]): row for row in lines(out / "results.jsonl")}
    assert set(rows) == {
        ("token", 0),
        ("token", 1),
        ("uniform", 0),
        ("uniform", 1),
        ("both", 1),
        ("sft", 1),
        ("best-of-2", 1),
    }
    for row in rows.values():
        assert len(row["judges"]) == 2
        assert all(0 <= found["win_rate"] <= 1 and found["n"] == 4 for found in row["judges"].values())
    assert [point["samples"] for point in rows["token", 0]["curve"]] == [0, 4, 8]
    assert rows["token", 0]["curve"][0] == {"samples": 0, "seconds": 0.0, "kl": 0.0, "gold": 0.5}
    assert [point["n"] for point in rows["best-of-2", 1]["curve"]] == [1, 2]
    assert rows["sft", 1]["curve"][-1]["gold"] is not None

    shared = [
        os.stat(out / arm / "seed-1/reward/model.safetensors").st_ino
        for arm in ("token", "uniform", "best-of-2")
    ]
    assert len(set(shared)) == 1  # one reward model, trained once
    assert rows["uniform", 1]["taken_over"]["reward"].endswith("token/seed-1")
    assert not (out / "sft/seed-1/reward").exists()
    both = yaml.safe_load((out / "both/seed-1/recipe.yaml").read_text())
    assert both["policy"]["reward"] == [{}, {"model": str(out / "token/seed-1/reward"), "weight": 0.5}]

    summary = json.loads((out / "summary.json").read_text())
    assert summary["unfinished"] == ["broken, seed 0"]
    [end] = [
        row
        for row in summary["differences"]
        if (row["a"], row["b"], row["judge"], row["kl"]) == ("token", "uniform", "length", None)
    ]
    assert end["seeds"] == [0, 1]
    expected = [
        rows["token", seed]["judges"]["length"]["win_rate"]
        - rows["uniform", seed]["judges"]["length"]["win_rate"]
        for seed in (0, 1)
    ]
    assert end["by_seed"] == pytest.approx(expected)
    assert end["difference"] == pytest.approx(sum(expected) / 2)
    page = (out / "report.html").read_text()
    assert page.count("<figure") >= 6
    assert "<script" not in page
    assert f'<p class="when">{date.today()}, on ' in page

    before = {path: path.stat().st_mtime_ns for path in out.glob("*/seed-*/*/*") if path.is_file()}
    shutil.rmtree(out / "uniform/seed-0/compare")
    state = json.loads((out / "uniform/seed-0/state.json").read_text())
    kept = {name: state[name] for name in ("data", "label", "reward", "policy")}
    kept["policy"]["seconds"] = kept["reward"]["seconds"] = (
        0.0  # as if their last starts had little left to do
    )
    (out / "uniform/seed-0/state.json").write_text(json.dumps(kept))
    metrics = out / "uniform/seed-0/reward/metrics.json"
    write_json(metrics, read_json(metrics) | {"seconds": 12.5})
    again = {row["arm"]: row for row in lines(out / "results.jsonl")}
    status, _, err = redline("experiment", recipe, "--out", out, "--arms", "uniform", "name=tiny")
    assert status == 0, err
    assert {path: path.stat().st_mtime_ns for path in before if "uniform/seed-0/" not in str(path)} == {
        path: time for path, time in before.items() if "uniform/seed-0/" not in str(path)
    }  # what is done is not done again
    after = {(row["arm"], row["seed"]): row for row in lines(out / "results.jsonl")}
    assert {arm: row["judges"] for (arm, _), row in after.items()} == {
        arm: row["judges"] for arm, row in again.items()
    }
    log = lines(out / "uniform/seed-0/policy/log.jsonl")
    assert after["uniform", 0]["seconds"]["policy"] == round(
        sum(line["seconds"] + line.get("seconds_watch", 0) for line in log), 1
    )
    assert after["uniform", 0]["seconds"]["reward"] == 12.5
    assert (
        "1 of 1 runs failed"
        in redline("experiment", recipe, "--out", out, "--arms", "broken")[2].splitlines()[-1]
    )

    assert redline("experiment", recipe, "--out", out, "--report", "base.policy.clip=0.3")[0] == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["arms"] == []  # these runs had other settings: they say nothing of this recipe
    assert summary["unfinished"] == [
        "token, seeds 0, 1",
        "uniform, seeds 0, 1",
        "both, seed 1",
        "sft, seed 1",
        "best-of-2, seed 1",
        "broken, seed 0",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("baseline=tokens", "which is no arm"),
        ("arms.token={policy.updatess: 2}", "unknown key `policy.updatess`. Did you mean `updates`?"),
        ("arms.both.policy.reward=[{model: '@nobody'}]", "takes the reward model of `nobody`"),
        (
            "arms.token={policy.reward: [{}, {model: '@token'}]}",
            "waits for an arm that waits for it (token <- token)",
        ),
        (
            "arms.both={policy.reward: [{model: '@sft'}], seeds: [1]}",
            "the reward model of `sft`, which trains none",
        ),
        ("arms.token={seeds: 7}", "`seeds` is 7; it is a list of some of"),
        ("arms={a/b: {}}", "an arm's name is its folder's"),
        ("arms={token: {seeds: [7]}}", "arm token: `seeds` is [7], none of the experiment's [0, 1]"),
        ("base.policy=5", "arm token: `policy` is a section. Did you mean policy.reward=5?"),
        ("base.compare=vader", "arm token: `compare` is a section. Did you mean compare.judge=vader?"),
        ("base.watch=[1]", "arm token: `watch`: Input should be"),
        ("reuse=[nowhere]", "`reuse` names nowhere, which is no folder"),
        ("bases={}", "unknown key `bases`. Did you mean `base`?"),
    ],
)
def test_mistakes_are_said_with_their_place(redline, recipe, tmp_path, change, said):
    arguments = (
        [change]
        if change.startswith("baseline")
        else [change, *(["baseline=null"] if change.startswith("arms={") else [])]
    )
    status, _, err = redline("experiment", recipe, "--out", tmp_path / "out", *arguments)
    assert status == 2
    assert said in err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*/seed-*"))


@pytest.mark.parametrize("name", ["experiment-cad", "experiment-paradetox"])
def test_experiments_of_the_project_are_valid(name):
    experiment = load_experiment(Path(__file__).parents[2] / f"recipes/{name}.yaml")
    asked = cells(experiment, Path("runs") / name)
    assert experiment.name == name
    assert {cell.recipe.policy.kl.target for cell in asked} == {6}
    assert len({judge_of(how).name for how in experiment.judges}) == len(experiment.judges) >= 2


def test_runs_that_take_reward_models_come_after_them(recipe, tmp_path):
    experiment = load_experiment(
        recipe, ["arms={both: {policy.reward: [{model: '@token'}]}, token: {}}", "base.policy.updates=7"]
    )
    asked = cells(experiment, tmp_path)
    assert [cell.name for cell in asked] == ["token, seed 0", "both, seed 0", "token, seed 1", "both, seed 1"]
    assert asked[1].needs == (Need(asked[0], "reward"),)
    assert all(cell.recipe.policy.updates == 7 and cell.recipe.compare.judge == "length" for cell in asked)
    chain = (
        "arms={last: {policy.reward: [{}, {model: '@both'}]}, both: {policy.reward: [{}, {model: "
        "'@token'}]}, token: {}}"
    )
    asked = cells(load_experiment(recipe, [chain, "baseline=token", "seeds=[0]"]), tmp_path)
    assert [cell.arm for cell in asked] == ["token", "both", "last"]
    with pytest.raises(UserError, match="no arm `tokens`"):
        cells(experiment, tmp_path, ["tokens"])


def test_seeds_that_an_arm_does_not_have_are_left_out(recipe, tmp_path):
    experiment = load_experiment(recipe, ["seeds=[0]"])
    assert [cell.name for cell in cells(experiment, tmp_path)] == [
        "token, seed 0",
        "uniform, seed 0",
        "broken, seed 0",
    ]
    with pytest.raises(UserError, match=r"arm sft: `seeds` is \[1\], none of the experiment's \[0\]"):
        cells(experiment, tmp_path, ["token", "sft"])


def test_arms_with_different_judges_are_refused(recipe, tmp_path):
    with pytest.raises(
        UserError, match=r"different judges \(vader, length\), .* `judges: \[\{judge: vader\}\]`"
    ):
        cells(load_experiment(recipe, ["judges=[]", "arms.uniform.compare.judge=length"]), tmp_path)


def test_logins_are_neither_kept_nor_shown(redline, recipe, tmp_path):
    judges = "judges=[{judge: m, base_url: 'https://bob:s3cret@127.0.0.1:9/v1'}]"
    assert redline("experiment", recipe, "--out", tmp_path / "out", "--report", judges)[0] == 0
    kept, page = (tmp_path / "out" / name for name in ("experiment.yaml", "report.html"))
    assert "base_url: https://127.0.0.1:9/v1\n" in kept.read_text()
    kept.write_text(kept.read_text().replace("127.0", "bob:s3cret@127.0"))  # of an older version
    assert redline("report", tmp_path / "out")[0] == 0
    assert "127.0.0.1" in page.read_text()
    assert "s3cret" not in page.read_text()


def test_the_first_judge_is_the_gold_of_the_curves(recipe, tmp_path):
    for cell in cells(
        load_experiment(recipe, ["base.watch.judge=vader", "base.watch.base_url=http://127.0.0.1:9"]),
        tmp_path,
    ):
        assert (cell.recipe.watch.judge, cell.recipe.watch.base_url, cell.recipe.watch.every) == (
            "length",
            None,
            1,
        )


def test_another_base_and_paths_beside_the_recipe(recipe, tmp_path):
    (tmp_path / "other.yaml").write_text(
        yaml.safe_dump({"data": {"edits": {"path": "edits.jsonl"}}, "policy": {"clip": 0.3}})
    )
    found = load_experiment(
        recipe, ["base=other.yaml", "base.policy.updates=7", "arms.token={data.edits.path: edits.jsonl}"]
    )
    assert found.base["policy"] == {"clip": 0.3, "updates": 7}
    assert (
        found.arms["token"]["data.edits.path"]
        == found.base["data"]["edits"]["path"]
        == str(tmp_path / "edits.jsonl")
    )


def test_runs_differ_in_what_their_stages_depend_on_and_in_nothing_else(recipe, tmp_path):
    asked = {
        cell.name: Run(cell.recipe, cell.folder).missing()
        for cell in cells(load_experiment(recipe), tmp_path)
    }
    assert asked["token, seed 1"] == asked["uniform, seed 1"]
    assert {name for name, _ in asked["token, seed 1"] - asked["both, seed 1"]} == {"reward"}
    assert {name for name, _ in asked["sft, seed 1"]} == {"data", "label"}
    assert {name for name, _ in asked["token, seed 1"] - asked["token, seed 0"]} == {
        "reward"
    }  # data and labels know no seed
    other = cells(load_experiment(recipe, ["base.reward.model={name: other}"]), tmp_path)[0]
    changed = Run(other.recipe, other.folder).missing() - asked["token, seed 0"]
    assert {name for name, _ in changed} == {"label", "reward"}  # labels are in the reward model's tokens


def pretend(cell: Cell) -> Run:
    """As if a run had been done."""
    run = Run(cell.recipe, cell.folder)
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_json(
        cell.folder / "state.json",
        {name: {"settings": run.settings(name), "seconds": 1.0} for name in run.stages},
    )
    return run


def test_what_takes_a_reward_model_is_done_with_that_model_alone(recipe, tmp_path):
    arms, seeds = "arms={token: {}, taker: {policy.reward: [{model: '@token'}]}}", "seeds=[0]"
    token, taker = cells(load_experiment(recipe, [arms, seeds]), tmp_path)
    assert "token/seed-0/reward: is not there, or of another recipe. Run the arm `token` first." in run_cell(
        taker, []
    )
    done = [pretend(token), pretend(taker)]
    assert all(run.is_done("compare") for run in done)
    assert taker.lacks == []
    (tmp_path / "same").symlink_to(tmp_path)
    for cell in cells(
        load_experiment(recipe, [arms, seeds]), tmp_path / "same"
    ):  # the folders called otherwise
        assert Run(cell.recipe, cell.folder).is_done("compare")
    changed = cells(load_experiment(recipe, [arms, seeds, "base.reward.epochs=2"]), tmp_path)
    assert [need.cell.arm for need in changed[1].lacks] == ["token"]
    assert "of another recipe" in run_cell(changed[1], [])
    assert _must_wait(changed[1], [], [changed[0]], [])
    assert collect(load_experiment(recipe, [arms, seeds, "judges=[]"]), changed, tmp_path / "out") == []
    pretend(changed[0])
    assert not done[1].is_done("policy")  # the reward model that it took is gone


def test_at_once_only_what_does_not_wait_for_another(recipe, tmp_path):
    asked = {cell.name: cell for cell in cells(load_experiment(recipe), tmp_path)}
    token, uniform, both, sft = (asked[f"{arm}, seed 1"] for arm in ("token", "uniform", "both", "sft"))
    assert _must_wait(uniform, [token], [], [])  # it would train the same reward model
    assert _must_wait(both, [], [token], [])  # it takes that arm's reward model
    assert _must_wait(asked["token, seed 0"], [token], [], [])  # it would read and label the same data
    assert not _must_wait(uniform, [], [token], [])
    token.folder.mkdir(parents=True)
    run = Run(token.recipe, token.folder)
    state = {name: {"settings": run.settings(name), "seconds": 1.0} for name in ("data", "label", "reward")}
    (token.folder / "state.json").write_text(json.dumps(state))
    assert not _must_wait(uniform, [token], [], [token.folder])  # it takes over what is done there
    assert not _must_wait(asked["token, seed 0"], [token], [], [token.folder])
    assert not _must_wait(sft, [token], [], [token.folder])


class Deadly(type(Path())):
    """A path that kills the process in which it is unpickled, as a system short of memory would."""

    def __reduce__(self):
        return signal.raise_signal, (signal.SIGKILL,)


def test_a_killed_process_is_said(recipe, tmp_path):
    asked = cells(load_experiment(recipe), tmp_path / "out", ["token"])
    with pytest.raises(
        UserError, match=r"token, seed 0, or a run beside it, was killed; .* lower --parallel"
    ):
        run_cells(asked, [Deadly(tmp_path)], parallel=2)


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    with _processes(3) as pool:
        seen = {}
        while len(seen) < 3:  # an idle process takes the next task
            found = [pool.submit(_seen_gpu) for _ in range(3)]
            seen |= dict(task.result() for task in found)
    assert sorted(seen.values()) == ["5", "5", "7"]


def _seen_gpu() -> tuple[int, str]:
    time.sleep(0.2)
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


def test_stopped_all_its_processes_end(recipe, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "redline.cli",
            "experiment",
            str(recipe),
            "--out",
            str(out),
            "--arms",
            "token,sft",
            "--parallel",
            "2",
            "base.policy.updates=100000",
            "base.watch.every=0",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = out / "token/seed-0/policy/log.jsonl"
    wait_for(lambda: log.exists() and log.stat().st_size, process)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    changes = ["base.policy.updates=100000", "base.watch.every=0"]
    cell = cells(load_experiment(recipe, changes), out)[0]
    assert (
        run_cell(cell, [])
        == f"{cell.folder}: another process is working on this run. Wait for it, or choose another --out."
    )
    process.terminate()
    assert process.wait(20) == 143
    assert "The same command continues" in process.stderr.read()
    assert len(workers) >= 2
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    with alone_in(cell.folder):  # the folder is free again
        pass


def wait_for(
    condition: Callable[[], Any], process: subprocess.Popen | None = None, seconds: float = 90
) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.1)


def test_check_finds_the_problems_of_all_arms_once(redline, recipe, tmp_path):
    plain = yaml.safe_load(recipe.read_text())
    status, _, err = redline("check", recipe, "--out", tmp_path / "out")
    assert status == 1
    assert "arm broken: policy.reward.0.function: `no_such_module:reward`" in err
    assert "1 to mend" in err
    del plain["arms"]["broken"]
    arms = list(plain["arms"])
    recipe.write_text(yaml.safe_dump(plain, sort_keys=False))
    status, out, err = redline("check", recipe, "--out", tmp_path / "out")
    assert status == 0, err
    assert out.endswith(f"nothing to mend in {len(arms)} arms.\n")
    status, _, err = redline("check", recipe, "base.reward.adapt.train_layers=99", "--out", tmp_path / "out")
    assert status == 1
    assert err.count("reward.adapt.train_layers is 99") == 1
    plain["arms"][arms[0]]["policy.lr"] = 1.0
    plain["arms"][arms[1]]["reward.epochs"] = 0
    recipe.write_text(yaml.safe_dump(plain))
    status, _, err = redline("check", recipe)
    assert status == 1
    assert f"arm {arms[0]}" in err
    assert f"arm {arms[1]}" in err
    assert "2 to mend" in err


def an_experiment(folder: Path, arms: dict[str, dict], seeds: list[int], tiny_model: str) -> Path:
    """The file of an experiment in a folder that has edits.jsonl."""
    base = {"model": {"name": tiny_model}, "data": {"edits": {"path": str(folder / "edits.jsonl")}}}
    path = folder / "few.yaml"
    judges = [{"judge": "length"}]
    path.write_text(
        yaml.safe_dump({"name": "few", "base": base, "arms": arms, "seeds": seeds, "judges": judges})
    )
    return path


def test_a_folder_whose_name_begins_alike_does_not_hide_a_problem(
    redline, tmp_path, edits_file, tiny_model, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arms = {
        "first": {},
        "second": {
            "policy.reward": [{"model": "@first"}, {"model": "runs/few/first/seed-1/reward-of-old"}],
            "seeds": [1],
        },
    }
    status, _, err = redline("check", an_experiment(tmp_path, arms, [1, 10], tiny_model))
    assert status == 1
    assert "arm second: policy.reward.1.model: runs/few/first/seed-1/reward-of-old is not there" in err
    assert "1 to mend" in err  # the reward model of `first` will be made


def test_what_only_a_later_seed_has_is_found(redline, tmp_path, edits_file, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arms = {"first": {"seeds": [0]}, "second": {"policy.reward": [{"model": "@first"}]}}
    status, _, err = redline("check", an_experiment(tmp_path, arms, [0, 1], tiny_model))
    assert status == 1
    assert "takes the reward model of `first`, seed 1, which this experiment does not run" in err

    recipe = an_experiment(tmp_path, {"first": {}}, [0, 1], tiny_model)
    monkeypatch.setattr(
        "redline.experiment.check.check_run",
        lambda job, *_: _refuse(job) if job.recipe.seed == 1 else None,
    )
    status, _, err = redline("check", recipe)
    assert status == 1
    assert "arm first (seed 1): runs/few: no room" in err


def _refuse(job):
    raise Problems([f"{job.files.folder}: no room"])
