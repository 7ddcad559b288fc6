"""Watching a run: the monitors against hand-worked numbers, when gold and proxy part, and a run whose reward
is worth gaming."""

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from redline.data.records import Prompt, Response
from redline.engine.settings import Adapt, Model, Optimizer
from redline.errors import UserError
from redline.policy.monitors import advantage_monitors, phase_gb, reward_monitors
from redline.policy.settings import Kl, Policy
from redline.policy.train import train_policy
from redline.policy.watch import Gold, Point, parted
from redline.reward.settings import RewardTerm
from redline.sampling.rollouts import sample_rollout
from redline.sampling.settings import Sampling

WORDS = [
    "the film was",
    "I liked",
    "this is a",
    "why did they",
    "not good",
    "very much",
    "a book",
    "the actors were",
]
PROMPTS = [Prompt(id=str(index), prompt=text) for index, text in enumerate(WORDS)]
HELD_OUT = [
    Prompt(id=f"h{index}", prompt=f"{text} {more}")
    for index, (text, more) in enumerate((text, more) for more in ("not", "so", "and") for text in WORDS)
]
DOCS = Path(__file__).parents[2] / "docs/policy.md"
VOWELS = '''
import random
def vowels(prompts, responses):
    """Pays for every a and e, and draws random numbers, which nobody should notice."""
    random.random()
    return [[(i, i + 1, 1.0) for i, letter in enumerate(text) if letter in "ae"] for text in responses]
'''


def fewer_vowels(policy: list[Response], reference: list[Response]) -> list[float | None]:
    """A judge that dislikes what the reward pays for."""
    random.random()
    torch.rand(3)
    counts = [
        [sum(letter in "ae" for letter in record.response) for record in side] for side in (policy, reference)
    ]
    return [0.5 if a == b else float(a < b) for a, b in zip(*counts, strict=True)]


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(name=tiny_model, dtype="float32")


@pytest.fixture(scope="module")
def reward(tmp_path_factory) -> RewardTerm:
    path = tmp_path_factory.mktemp("rewards") / "rewards.py"
    path.write_text(VOWELS)
    return RewardTerm(function=f"{path}:vowels")


def recipe(reward: RewardTerm, **changes) -> Policy:
    return Policy(
        **{
            "reward": [reward],
            "updates": 4,
            "batch_size": 8,
            "minibatch_size": 4,
            "epochs": 1,
            "reward_scale": 0.5,
            "adapt": Adapt(lora_rank=4, train_layers=2),
            "sampling": Sampling(max_new_tokens=10),
            "eos_reward": 0.25,
            "no_eos_penalty": 0,
            "kl": Kl(target=None, coefficient=0),
            "optimizer": Optimizer(lr=0.02, warmup=0),
            "checkpoint_every": 1,
            **changes,
        }
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plain(path: Path) -> list[dict]:
    """The log without what differs from run to run: time and memory."""
    return [
        {key: value for key, value in line.items() if "seconds" not in key and "gb" not in key}
        for line in lines(path)
    ]


def test_where_the_reward_lies():
    rewards = [torch.tensor([0.1, -0.9, 0.0, 0.8]), torch.tensor([0.0, 0.1]), torch.zeros(0)]
    shaped = [2 * rewards[0] + torch.tensor([0, 0, 0, 1.0]), 2 * rewards[1], rewards[2]]
    found = reward_monitors(rewards, shaped, [True, False, False])
    assert found == pytest.approx({"changed_share": 2 / 6, "raw_reward_changed": -0.05, "reward_eos": 2.6})
    alike = reward_monitors([torch.full((7,), 0.1)], [torch.full((7,), 0.1)], [False])
    assert alike == {"changed_share": 0}  # where all tokens earn the same, none stands out, and nothing ended
    last = reward_monitors([torch.tensor([0, 0, 0, -1.5])], [torch.tensor([0, 0, 0, -3.0])], [True])
    assert last == pytest.approx({"changed_share": 0.25, "raw_reward_changed": -1.5, "reward_eos": -3.0})


def test_monitors_over_processes_are_those_of_the_whole_batch():
    """Two threads in place of two processes, which add up what they hold."""
    draw = torch.Generator().manual_seed(0)
    rewards = [torch.randn(size, generator=draw) for size in (5, 0, 9, 3)]
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0]]).bool()
    advantages = torch.randn(4, 3, generator=draw)
    held, meet = [torch.zeros(0)] * 2, Barrier(2)

    def one(part: int) -> dict[str, float]:
        def total(tensor: torch.Tensor) -> torch.Tensor:
            held[part] = tensor
            meet.wait()
            found = held[0] + held[1]
            meet.wait()
            return found

        rows = slice(part, None, 2)
        return reward_monitors(rewards[rows], rewards[rows], [True, False], total) | advantage_monitors(
            advantages[rows], mask[rows], total
        )

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(one, (0, 1)))
    whole = reward_monitors(rewards, rewards, [True, True, False, False]) | advantage_monitors(
        advantages, mask
    )
    assert parts[0] == pytest.approx(whole)
    assert parts[1] == pytest.approx(whole)


def test_advantages_before_whitening_without_what_is_masked():
    advantages = torch.tensor([[1.0, 3.0, 99.0], [-2.0, torch.nan, torch.inf]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    valid = np.array([1.0, 3.0, -2.0])
    assert advantage_monitors(advantages, mask) == pytest.approx(
        {"advantage_mean": valid.mean(), "advantage_std": valid.std()}
    )
    assert advantage_monitors(advantages, torch.zeros_like(mask)) == {"advantage_mean": 0, "advantage_std": 0}


def test_memory_held_now_falls_when_something_is_let_go():
    if torch.cuda.is_available():
        pytest.skip("on an accelerator a phase's own peak is measured")
    block = np.ones(40_000_000)
    held = phase_gb()
    del block
    assert 0.2 < held - phase_gb() < 0.5


def curve(*points: tuple[list[float | None], float]) -> list[Point]:
    return [
        Point(0, [0.5] * len(points[0][0]), 0.0),
        *(Point(10 * place, *point) for place, point in enumerate(points, 1)),
    ]


def share(wins: int, losses: int) -> list[float | None]:
    return [*[1.0] * wins, *[0.0] * losses]


def test_they_part_where_gold_falls_from_its_best_while_the_reward_goes_on_rising():
    told = parted(curve((share(40, 24), 1.0), (share(58, 6), 2.0), (share(30, 34), 3.5)))
    assert told is not None
    for figure in ("update 20", "from 2.00 to 3.50", "from 0.91 to 0.47"):
        assert figure in told
    told = parted(curve((share(12, 52), 1.5)))  # it only ever lost: the best was the reference
    assert told is not None
    assert "since the start" in told


@pytest.mark.parametrize(
    "history",
    [
        curve((share(64, 0), 1.0))[:1],
        curve((share(40, 24), 1.0), (share(58, 6), 2.0)),  # both rise
        curve((share(58, 6), 2.0), (share(30, 34), 1.9)),  # both fall: no gaming
        curve((share(58, 6), 2.0), (share(55, 9), 3.0)),  # within the errors
        curve((share(6, 0), 2.0), (share(0, 6), 3.0)),  # too few prompts to say
    ],
)
def test_they_have_not_parted(history):
    assert parted(history) is None


def test_the_pairing_counts_prompts_that_both_judged():
    before, now = share(58, 6), share(30, 34)
    missing: list[float | None] = [None if place % 2 else value for place, value in enumerate(now)]
    assert parted(curve((before, 2.0), (missing, 3.0))) is not None
    nobody: list[float | None] = [None] * 60 + now[60:]
    assert parted(curve(([*before[:60], *[None] * 4], 2.0), (nobody, 3.0))) is None


def test_false_alarms_are_rare():
    """A policy that wins 60 % and does not change, its reward rising: ten measurements on 64 prompts. See
    ``parted``."""
    draw, alarms, runs = np.random.default_rng(0), 0, 300
    for _ in range(runs):
        found = curve(*((draw.integers(0, 10, 64) < 6, float(step)) for step in range(10)))  # type: ignore[misc]
        found = [
            Point(point.update, [float(value) for value in point.preferences], point.proxy) for point in found
        ]
        alarms += any(parted(found[:end]) for end in range(2, 12))
    assert alarms / runs < 0.1


def test_a_reward_worth_gaming_is_noticed(tmp_path, model, reward, capsys):
    how = recipe(
        reward,
        updates=15,
        batch_size=32,
        minibatch_size=16,
        epochs=2,
        gamma=0.01,
        gae_lambda=0,
        checkpoint_every=15,
        sample_every=5,
    )
    train_policy(how, model, PROMPTS, tmp_path, gold=Gold("fewer vowels", fewer_vowels, HELD_OUT, every=6))
    log = lines(tmp_path / "log.jsonl")
    assert [line["update"] for line in log if "gold" in line] == [6, 12, 15]
    first, last = (next(line for line in order if "gold" in line) for order in (log, log[::-1]))
    assert last["gold"] < 0.35
    assert last["gold_proxy"] > first["gold_proxy"]
    assert last["gold_kl"] > 0.1
    assert "reward and judge part ways: since" in last["warning"]
    said = " ".join(capsys.readouterr().err.split())
    noticed = next(line["update"] for line in log if "warning" in line)
    assert f"update {noticed}: reward and judge part ways" in said
    assert said.count("part ways") == 1  # said once, kept in every line that it is true of

    responses, reference = lines(tmp_path / "watch/000015.jsonl"), lines(tmp_path / "watch/reference.jsonl")
    assert (
        [row["id"] for row in responses]
        == [row["id"] for row in reference]
        == [prompt.id for prompt in HELD_OUT]
    )
    wins = [row["preference"] for row in responses]
    assert last["gold"] == pytest.approx(np.mean(wins), abs=1e-6)
    assert last["gold_error"] == pytest.approx(np.std(wins, ddof=1) / len(wins) ** 0.5, abs=1e-6)
    assert last["gold_kl"] == pytest.approx(np.mean([row["kl"] for row in responses]), abs=1e-6)
    assert {row["kl"] for row in reference} == {0.0}

    keys = {
        "reward",
        "raw_reward",
        "raw_reward_changed",
        "changed_share",
        "kl",
        "entropy",
        "length",
        "ended",
        "clip_fraction",
        "value_clip_fraction",
        "explained_variance",
        "advantage_mean",
        "advantage_std",
        "first_ratio_error",
        "peak_gb",
        *(
            f"{unit}_{phase}"
            for unit in ("seconds", "gb")
            for phase in ("sample", "score", "rescore", "optimise")
        ),
    }
    assert all(keys <= line.keys() for line in log)
    documented = set(re.findall(r"`(\w+)`", DOCS.read_text(encoding="utf-8")))
    assert {key for line in log for key in line} - {"update"} <= documented
    samples = lines(tmp_path / "samples.jsonl")
    assert {row["update"] for row in samples} == {1, 5, 10, 15}
    assert all(
        len(row[name]) == len(row["offsets"])
        for row in samples
        for name in ("rewards", "values", "kl", "advantages")
    )


def test_watched_rewards_have_trainings_scale_and_its_terms_for_the_end(tmp_path, model, reward, monkeypatch):
    ends, rollouts = list(range(100, 160)), []  # so that some responses end and some are cut off
    monkeypatch.setattr("redline.policy.watch.eos_ids", lambda *_: ends)
    monkeypatch.setattr(
        "redline.policy.watch.sample_rollout",
        lambda *how, **more: rollouts.append(sample_rollout(*how, **more)) or rollouts[-1],
    )
    how = recipe(reward, updates=1, no_eos_penalty=0.75)
    train_policy(how, model, PROMPTS, tmp_path, gold=Gold("fewer vowels", fewer_vowels, HELD_OUT, every=1))
    for name, rollout in zip(("reference", "000001"), rollouts, strict=True):
        rows = lines(tmp_path / f"watch/{name}.jsonl")
        terms = [row["reward"] - 0.5 * sum(letter in "ae" for letter in row["response"]) for row in rows]
        assert terms == pytest.approx(
            [0.25 if ids[-1].item() in ends else -0.75 for ids in rollout.response_ids]
        )
        assert len(set(rollout.ended)) == 2


@pytest.mark.parametrize("rank", [4, 0])
def test_watching_changes_nothing_and_a_resumed_watch_goes_on(tmp_path, model, reward, rank):
    """Bit for bit: unwatched, watched, and watched by a judge in whose fourth measurement the run dies."""
    how = recipe(reward, adapt=Adapt(lora_rank=rank, train_layers=2), checkpoint_every=2)
    train_policy(how, model, PROMPTS, tmp_path / "unwatched")
    train_policy(
        how, model, PROMPTS, tmp_path / "watched", gold=Gold("j", fewer_vowels, HELD_OUT[:8], every=1)
    )
    asked: list[list[Response]] = []

    def dies(policy: list[Response], reference: list[Response]) -> list[float | None]:
        asked.append(policy)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return fewer_vowels(policy, reference)

    gold = Gold("j", dies, HELD_OUT[:8], every=1)
    with pytest.raises(KeyboardInterrupt):
        train_policy(how, model, PROMPTS, tmp_path / "resumed", gold=gold)
    assert (tmp_path / "resumed/watch/000003.jsonl").exists()
    train_policy(how, model, PROMPTS, tmp_path / "resumed", gold=gold)
    assert len(asked) == 6  # after update 2's checkpoint, 3 and 4 came again
    assert asked[4] == asked[2]
    weights = [
        load_file(
            next((tmp_path / name).glob("**/adapter_model.safetensors" if rank else "model.safetensors"))
        )
        for name in ("unwatched", "watched", "resumed")
    ]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])
        assert torch.equal(tensor, weights[2][name])
    assert plain(tmp_path / "watched/log.jsonl") == plain(tmp_path / "resumed/log.jsonl")
    for file in ("reference.jsonl", "000003.jsonl", "000004.jsonl"):
        assert (tmp_path / "watched/watch" / file).read_bytes() == (
            tmp_path / "resumed/watch" / file
        ).read_bytes()
    unwatched = [
        {key: value for key, value in line.items() if "gold" not in key and key != "warning"}
        for line in plain(tmp_path / "watched/log.jsonl")
    ]
    assert unwatched == plain(tmp_path / "unwatched/log.jsonl")


def test_the_reference_is_sampled_with_the_adapter_off(tmp_path, model, reward):
    """A watch that begins in the middle of a run finds the same reference as one from the start."""
    how = recipe(reward, updates=2)
    train_policy(how, model, PROMPTS, tmp_path, gold=Gold("j", fewer_vowels, HELD_OUT[:8], every=1))
    watched = tmp_path / "watch"
    before = (watched / "reference.jsonl").read_bytes()
    (watched / "reference.jsonl").unlink()
    last = max((tmp_path / "checkpoints").iterdir())
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    train_policy(how, model, PROMPTS, tmp_path, gold=Gold("j", fewer_vowels, HELD_OUT[:8], every=1))
    assert (watched / "reference.jsonl").read_bytes() == before


@pytest.mark.parametrize("silent", [True, False])
def test_a_judge_that_fails_does_not_stop_the_training(tmp_path, model, reward, capsys, silent):
    def fails(policy: list[Response], reference: list[Response]) -> list[float | None]:
        if silent:
            return [None] * len(policy)
        raise UserError("http://127.0.0.1:9: cannot be reached.")

    train_policy(
        recipe(reward, updates=2), model, PROMPTS, tmp_path, gold=Gold("j", fails, HELD_OUT[:8], every=2)
    )
    line = lines(tmp_path / "log.jsonl")[-1]
    assert "gold" not in line
    assert line["gold_proxy"] > 0
    why = "judge j gave no verdict" if silent else "cannot be reached"
    assert line["warning"].startswith("no gold score: ")
    assert why in line["warning"]
    assert why in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def run_recipe(tmp_path, model, reward, edits_file) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "model": {"name": model.name, "dtype": "float32"},
                "compare": {"judge": "length"},
                "data": {"edits": {"path": "edits.jsonl"}, "validation_share": 0.3},
                "watch": {"every": 1, "prompts": 5},
                "policy": recipe(reward, updates=2).model_dump(exclude_unset=True),
            }
        )
    )
    return path


def test_a_run_is_watched_by_its_comparisons_judge(redline, run_recipe, tmp_path):
    out = tmp_path / "run"
    status, _, err = redline("train", "policy", run_recipe, "--out", out)
    assert status == 0, err
    assert [0 <= line["gold"] <= 1 for line in lines(out / "policy/log.jsonl")] == [True, True]
    trained = {row["prompt"] for row in lines(out / "labels/train.jsonl")}
    held_out = {row["prompt"] for row in lines(out / "policy/watch/reference.jsonl")}
    assert len(held_out) == 5
    assert not held_out & trained
    assert (out / "policy/watch/verdicts.sqlite").exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            ["compare.judge=gpt", "compare.base_url=http://127.0.0.1:9/v1"],
            "may cost money; name it in watch.judge",
        ),
        (["compare.judge=human:verdicts.jsonl"], "people cannot be asked"),
        (["watch.every=0"], ""),
    ],
)
def test_what_costs_is_not_watched_unless_it_is_named(redline, run_recipe, tmp_path, changes, why):
    status, _, err = redline(
        "train", "policy", run_recipe, "--out", tmp_path / "run", "policy.updates=1", *changes
    )
    assert status == 0, err
    assert ("no judge watches this training" in err) == bool(why)
    assert why in " ".join(err.split())
    assert not (tmp_path / "run/policy/watch").exists()


def test_metrics_and_the_warning_reach_the_tracker(tmp_path, model, reward):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_policy(
        recipe(reward, updates=2),
        model,
        PROMPTS,
        tmp_path,
        trackers=["tensorboard"],
        gold=Gold("j", lambda policy, reference: [None] * len(policy), HELD_OUT, every=1),
    )
    events = EventAccumulator(str(tmp_path / "policy")).Reload()
    tags = events.Tags()
    assert {"reward", "kl", "gold_proxy", "advantage_std"} <= set(tags["scalars"])
    assert any("warning" in tag for tag in tags["tensors"])


def test_metrics_reach_weights_and_biases_and_trackio(tmp_path, model, reward, monkeypatch):
    """The real ones, on this machine alone."""
    import sqlite3

    import trackio.sqlite_storage

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    train_policy(recipe(reward, updates=2), model, PROMPTS, tmp_path / "out", trackers=["wandb", "trackio"])
    wanted = [json.loads(line)["reward"] for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]

    (kept,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert all(f"{value}".encode() in kept.read_bytes() for value in wanted)
    with sqlite3.connect(tmp_path / "trackio/policy.db") as database:
        rows = database.execute("select metrics from metrics order by step").fetchall()
    assert [json.loads(metrics)["reward"] for (metrics,) in rows] == pytest.approx(wanted)


def test_a_tracker_that_is_not_installed_is_one_line_before_any_work(
    tmp_path, redline, run_recipe, monkeypatch
):
    monkeypatch.setattr("redline.run.check.find_spec", lambda name: None)
    status, _, err = redline("run", run_recipe, "--out", tmp_path / "run", "trackers=[wandb]")
    assert status == 2
    assert "trackers: wandb is not installed. Run `pip install wandb`" in " ".join(err.split())
    assert not (tmp_path / "run/state.json").exists()
