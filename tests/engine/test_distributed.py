"""Several processes: they end with the parameters of one, sharded or not; a lost one ends the run, which any
number continues."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import distributed_driver
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from redline.engine.batching import minibatches
from redline.errors import UserError
from redline.policy.advantages import explained_variance
from redline.sampling.local import InProcess
from redline.sampling.protocol import CurrentPolicy, Request
from redline.sampling.settings import Sampling
from tiny_models import CONFIGS, model_folder, random_model

CONFIGURATIONS = Path(__file__).parents[2] / "recipes" / "accelerate"
SUBJECTS = {
    "film": "not unfair",
    "book": "very much",
    "actors": "the film",
    "play": "I",
    "system": "this",
    "user": "they",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with a model, edits and their labels."""
    from redline.data.settings import Source
    from redline.label.stage import label_file

    folder = tmp_path_factory.mktemp("data")
    model_folder(folder / "model")
    rows = [
        {
            "id": f"e{number}-{subject}",
            "prompt": f"the {subject} {number} was",
            "rejected": f" bad and {tail}",
            "edited": f" good and {tail}",
        }
        for number in range(5)
        for subject, tail in SUBJECTS.items()
    ]
    (folder / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    label_file(Source(path=str(folder / "edits.jsonl")), folder / "labels.jsonl", str(folder / "model"))
    return folder


def jobs(data: Path, where: str, reward: Path) -> list[dict[str, Any]]:
    """PPO: LoRA with an uneven batch and a critic of its own; full fine-tuning, checkpointed, with a reward
    model on the policy's backbone; no critic, and groups that lie on both processes; reward model; SFT."""
    upper = {"lora_rank": 0, "train_layers": 2, "gradient_checkpointing": True}
    found = [
        ("reward", "reward", {}),
        ("policy", "policy", {"batch_size": 7, "critic": "own"}),
        ("policy", "full", {"adapt": upper, "reward": str(reward), "updates": 2}),
        ("sft", "sft", {"epochs": 1}),
        ("policy", "group", {"batch_size": 6, "samples": 3, "baseline": "group", "standardise": "group"}),
    ]
    return [
        {
            "kind": kind,
            "model": str(data / "model"),
            "data": str(data),
            "out": str(data / where / name),
            "settings": settings,
        }
        for kind, name, settings in found
    ]


def launch(configuration: str, *command: object, **environment: str) -> subprocess.CompletedProcess:
    """``accelerate launch`` of two processes, as a user would."""
    program = [
        str(Path(sys.executable).with_name("accelerate")),
        "launch",
        "--config_file",
        str(CONFIGURATIONS / configuration),
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        *map(str, command),
    ]
    return subprocess.run(
        program,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def write_recipe(path: Path, data: Path, sections: dict[str, Any], own_reward: bool = False) -> Path:
    """A recipe of 24 edits to train on and 6 to hold out, a checkpoint at each of four updates, and a reward
    that can kill."""
    adapt = {"lora_rank": 4, "train_layers": 2}
    path.write_text(
        yaml.safe_dump(
            {
                "model": {"name": str(data / "model"), "dtype": "float32"},
                "compare": {"judge": "length"},
                "data": {"edits": {"path": str(data / "edits.jsonl")}, "validation_share": 0.22},
                "policy": {
                    "adapt": adapt,
                    "updates": 4,
                    "batch_size": 8,
                    "minibatch_size": 4,
                    "sampling": {"max_new_tokens": 8},
                    "checkpoint_every": 1,
                    "sample_every": 2,
                    "reward": [{"function": f"{distributed_driver.__file__}:vowels"}, *[{}] * own_reward],
                },
            }
            | sections
        )
    )
    return path


@pytest.fixture(scope="module")
def single(data) -> Path:
    """Everything in one process."""
    distributed_driver.run(jobs(data, "single", data / "single/reward"))
    return data / "single"


@pytest.fixture(scope="module", params=["2-cpu-processes.yaml", "8-gpus-fsdp2.yaml"], ids=["ddp", "fsdp2"])
def several(request, data, single) -> Path:
    """Everything in two processes; and what one process did, continued by two from its last checkpoint but
    one."""
    folder = data / request.param.removesuffix(".yaml")
    todo = jobs(data, folder.name, single / "reward")
    for job in todo[:2]:
        resumed = folder / ("resumed-" + Path(job["out"]).name)
        shutil.copytree(single / Path(job["out"]).name / "checkpoints", resumed / "checkpoints")
        shutil.rmtree(max((resumed / "checkpoints").iterdir()))
        if job["kind"] == "reward":
            shutil.copy(single / "reward/best.safetensors", resumed)
        todo.append(job | {"out": str(resumed)})
    only = "sharded" if "fsdp" in request.param else "direct"
    todo += [todo[0] | {"kind": kind, "out": str(folder / kind)} for kind in (only, "counted")]
    (folder / "jobs.json").write_text(json.dumps(todo))
    done = launch(request.param, distributed_driver.__file__, folder / "jobs.json")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The trained weights of the last checkpoint, or of the finished model where there is none."""
    kept = sorted(folder.glob("checkpoints/*/model.safetensors"))
    return load_file(kept[-1] if kept else folder / "model.safetensors")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "name", ["reward", "policy", "full", "sft", "group", "resumed-reward", "resumed-policy"]
)
def test_two_processes_end_with_the_parameters_of_one(data, single, several, name):
    one, two = (weights(folder) for folder in (single / name.removeprefix("resumed-"), several / name))
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-5)
    if name == "full":  # and they have moved
        untrained = load_file(data / "model/model.safetensors")
        saved = load_file(several / name / "model.safetensors")
        assert max(float((saved[key] - untrained[key]).abs().max()) for key in saved) > 1e-3


def test_each_layer_is_sharded_by_itself_or_a_policy_without_rl_is_trained(data, several):
    if (several / "direct").exists():
        distributed_driver.run(
            [jobs(data, "single", data)[0] | {"kind": "direct", "out": str(data / "single/direct")}]
        )
        methods = sorted(path.name for path in (several / "direct").iterdir())
        assert {"sft", "dpo", "bco"} <= set(methods)
        for method in methods:
            folders = [data / where / "direct" / method for where in ("single", several.name)]
            updates = [[row["update"] for row in lines(folder / "log.jsonl")] for folder in folders]
            assert updates[0] == updates[1]
            one, two = (load_file(folder / "model.safetensors") for folder in folders)
            for key, tensor in one.items():
                torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-5)
    else:
        depth = CONFIGS["llama"].num_hidden_layers  # of the policy, and of the critic
        assert json.loads((several / "sharded/sharded.json").read_text()) == [
            "FSDPActorCritic",
            *["FSDPLlamaDecoderLayer"] * 2 * depth,
        ]


def test_what_all_processes_need_is_computed_once_by_one_of_them(data, single, several):
    """The frozen layers, validation and watching: shared out, with the results of one process."""
    alone = data / "single/counted"
    if not alone.exists():
        job = jobs(data, "single", data)[0] | {"kind": "counted", "out": str(alone), "settings": {}}
        distributed_driver.run([job])
    whole = json.loads((alone / "counts-0.json").read_text())
    parts = [json.loads((several / f"counted/counts-{rank}.json").read_text()) for rank in range(2)]
    for name in ("frozen rows", "answers"):
        assert sum(part[name] for part in parts) == whole[name]
    validations = 2 + 1  # one an epoch, the best one's, and the scores
    spare = sum(part["held-out edits"] for part in parts) - whole["held-out edits"]
    assert 0 <= spare <= 2 * validations
    for part in parts:
        for name, count in part.items():
            assert 0.3 * whole[name] < count < 0.7 * whole[name], (name, parts, whole)

    ours, theirs = (
        json.loads((folder / "reward/metrics.json").read_text()) for folder in (alone, several / "counted")
    )
    assert theirs["validation"]["auc"] == pytest.approx(ours["validation"]["auc"], abs=1e-5)
    assert theirs["validation"]["reward_std"] == pytest.approx(ours["validation"]["reward_std"], abs=1e-5)
    for name in ("reference", "000001", "000002"):
        one, two = (lines(folder / f"policy/watch/{name}.jsonl") for folder in (alone, several / "counted"))
        assert [row["response"] for row in two] == [row["response"] for row in one]
        for key in ("reward", "kl"):
            assert [row[key] for row in two] == pytest.approx([row[key] for row in one], abs=1e-3)


def test_sharded_weights_are_computed_with_in_bfloat16(data, single, tmp_path):
    """Full fine-tuning by autocast as under DDP; and adapters of float32 on frozen weights of bfloat16,
    without it."""
    reward, lora, full, *_ = jobs(data, "mixed", single / "reward")
    for name, todo, options in (
        ("mixed", [reward, full], ["--mixed_precision", "bf16"]),
        ("plain", [job | {"dtype": "bfloat16"} for job in (reward, lora)], []),
    ):
        todo = [job | {"out": str(tmp_path / name / Path(job["out"]).name)} for job in todo]
        (tmp_path / f"{name}.json").write_text(json.dumps(todo))
        done = launch("8-gpus-fsdp2.yaml", *options, distributed_driver.__file__, tmp_path / f"{name}.json")
        assert done.returncode == 0, done.stderr[-3000:]
        out = Path(todo[1]["out"])
        ours, theirs = (lines(folder / "log.jsonl")[0] for folder in (out, single / out.name))
        assert 1e-4 < abs(ours["entropy"] - theirs["entropy"]) < 0.1  # bfloat16's rounding, no more
        assert max(ours["first_ratio_error"], ours["sampler_drift"]) < 0.05  # what samples is what learns


def test_trainings_without_rl_refuse_to_be_sharded(data, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as the launcher says it
    with pytest.raises(UserError, match=r"direct\.method=sft does not run sharded"):
        distributed_driver.run([jobs(data, "refused", data)[0] | {"kind": "direct"}])


@pytest.mark.parametrize("name", ["reward", "policy", "full", "group"])
def test_metrics_are_of_the_whole_batch_and_written_once(single, several, name):
    one, two = (lines(folder / name / "log.jsonl") for folder in (single, several))
    assert len(one) == len(two)
    for ours, theirs in zip(one, two, strict=True):
        ours, theirs = (
            {key: value for key, value in row.items() if not key.startswith(("seconds", "gb_", "peak_gb"))}
            for row in (ours, theirs)
        )
        counts = [
            key for key in ours if key.endswith("clip_fraction")
        ]  # rounding decides on a token that lies on the edge
        assert [theirs.pop(key) for key in counts] == pytest.approx(
            [ours.pop(key) for key in counts], abs=0.03
        )
        assert theirs == pytest.approx(ours, abs=1e-4, nan_ok=True)


def test_saved_models_are_plain_whichever_way_they_were_trained(several):
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    for kind, names in (
        (AutoModelForTokenClassification, ["reward"]),
        (AutoModelForCausalLM, ["policy", "full", "sft"]),
    ):
        for name in names:
            model = kind.from_pretrained(several / name)
            assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_a_killed_process_ends_the_run_and_another_number_continues(redline, data, tmp_path):
    """The real command: of two processes one is killed in its third update; one alone goes on and ends as if
    nothing had been."""
    path = write_recipe(tmp_path / "recipe.yaml", data, {"watch": {"every": 0}})
    began = time.monotonic()
    killed = launch(
        "2-cpu-processes.yaml",
        "-m",
        "redline.cli",
        "train",
        "policy",
        path,
        "--out",
        tmp_path / "run",
        KILL="1 7",
    )
    assert killed.returncode != 0
    assert time.monotonic() - began < 120
    assert (
        "redline: another process of this run has ended" in killed.stderr
        or "redline: stopped." in killed.stderr
    )
    assert "Traceback" not in killed.stderr.split("redline: ")[0]
    assert "(SIGKILL)" in killed.stderr  # the launcher says which
    assert [path.name for path in sorted((tmp_path / "run/policy/checkpoints").glob("[0-9]*"))] == [
        "000001",
        "000002",
    ]

    for folder in ("run", "whole"):
        status, _, err = redline("train", "policy", path, "--out", tmp_path / folder)
        assert status == 0, err
    one, other = (
        load_file(tmp_path / folder / "policy/adapter/adapter_model.safetensors")
        for folder in ("run", "whole")
    )
    for key, tensor in one.items():
        torch.testing.assert_close(other[key], tensor, rtol=0, atol=1e-5)
    assert [row["update"] for row in lines(tmp_path / "run/policy/log.jsonl")] == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def whole(data) -> tuple[Path, subprocess.CompletedProcess, list[int]]:
    """A whole run of the real command: by two processes, the main one killed in its third update, as it then
    lies (killed/); by two again (two/); by one that is never stopped (one/). And what the first launch said,
    and the processes that it left."""
    import psutil

    from redline.run.run import run_file

    folder = data / "whole"
    folder.mkdir()
    adapt = {"lora_rank": 4, "train_layers": 2}
    path = write_recipe(
        folder / "recipe.yaml",
        data,
        {
            "sft": {"epochs": 1, "batch_size": 8, "lora_rank": 4},
            "watch": {"every": 2},
            "reward": {"adapt": adapt, "epochs": 1, "batch_size": 8, "depth": 3},
        },
        own_reward=True,
    )
    command = ("2-cpu-processes.yaml", "-m", "redline.cli", "run", path, "--out", folder / "two")
    killed = launch(*command, KILL="0 9")  # calls 1 to 4 measure the scale, 5 and 8 are the watch's
    left = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(path) in (process.info["cmdline"] or [])
    ]
    shutil.copytree(folder / "two", folder / "killed")
    done = launch(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    run_file(path, [], folder / "one")
    return folder, killed, left


def test_the_main_process_killed_ends_the_others_too(whole):
    folder, killed, left = whole
    assert killed.returncode != 0
    assert "(SIGKILL)" in killed.stderr
    said = [line for line in killed.stderr.splitlines() if line.startswith("redline: ")]
    assert len(said) == 1  # the other process's
    assert said[0].startswith(("redline: another process of this run has ended", "redline: stopped."))
    assert "Traceback" not in killed.stderr.split("redline: ")[0]
    assert left == []
    assert list(json.loads((folder / "killed/state.json").read_text())) == ["data", "label", "sft", "reward"]
    assert [path.name for path in sorted((folder / "killed/policy/checkpoints").glob("[0-9]*"))] == [
        "000001",
        "000002",
    ]


@pytest.mark.parametrize(
    "name", ["sft/model", "reward/model", "policy/adapter/adapter_model", "policy/model"]
)
def test_two_processes_continue_what_two_began_and_end_as_one(whole, name):
    one, two = (load_file(whole[0] / where / f"{name}.safetensors") for where in ("one", "two"))
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-5)
    if name == "policy/model":  # and they have moved
        start = load_file(whole[0] / "two/sft/model.safetensors")
        assert max(float((two[key] - start[key]).abs().max()) for key in two) > 1e-3


def test_two_processes_repeat_nothing_that_two_had_done(whole):
    killed, two = whole[0] / "killed", whole[0] / "two"
    for stage in ("data", "labels", "sft", "reward"):
        for path in (killed / stage).rglob("*"):
            assert (two / path.relative_to(killed)).stat().st_mtime_ns == path.stat().st_mtime_ns
    before, after = (lines(folder / "policy/log.jsonl") for folder in (killed, two))
    assert len(before) == 2
    assert after[:2] == before  # with the seconds that they took


def test_only_the_main_process_writes_and_what_one_would_have_written(whole):
    folder = whole[0]
    one, two = (
        {str(path.relative_to(folder / where)) for path in (folder / where).rglob("*")}
        for where in ("one", "two")
    )
    assert one == two
    for name in ("recipe.yaml", "data/edits.jsonl", "labels/train.jsonl", "labels/validation.jsonl"):
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes()
    for name, *keys in (
        ("policy/log.jsonl", "update"),
        ("reward/log.jsonl", "step"),
        ("reward/scores.jsonl", "id", "side"),
        ("policy/watch/000004.jsonl", "id", "response"),
        ("compare/policy.jsonl", "id", "response"),
    ):
        one, two = (
            [tuple(row[key] for key in keys) for row in lines(folder / where / name)]
            for where in ("one", "two")
        )
        assert one == two
        assert len(set(two)) == len(two) > 1
    one, two = (lines(folder / where / "policy/samples.jsonl") for where in ("one", "two"))
    assert [row["id"] for row in one] == [f"{update}-{index}" for update in (1, 2, 4) for index in range(8)]
    assert [row["id"] for row in two] == [f"{update}-{index}" for update in (1, 2, 4) for index in range(4)]
    for ours, theirs in zip(
        one[::2], two, strict=True
    ):  # of a batch's rows the main process has every other one
        assert [theirs[key] for key in ("update", "prompt", "text")] == [
            ours[key] for key in ("update", "prompt", "text")
        ]
        assert theirs["rewards"] == pytest.approx(ours["rewards"], abs=1e-3)


@pytest.mark.parametrize("stage", ["reward", "policy"])
def test_reward_models_and_ppo_refuse_deepspeed_in_one_line(redline, data, tmp_path, monkeypatch, stage):
    from accelerate import Accelerator, DistributedType

    path = write_recipe(tmp_path / "recipe.yaml", data, {})
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.DEEPSPEED)  # as the launcher says it
    status, _, err = redline(
        "train", stage, path, "--out", tmp_path / "run", *["policy.reward=[{}]"] * (stage == "reward")
    )
    assert status == 2, err
    [said] = [line for line in err.splitlines() if line.startswith("redline: ")]
    assert err.endswith(f"{said}\n")
    assert "Traceback" not in err
    assert "do not run under DeepSpeed. Use FSDP2 (recipes/accelerate/8-gpus-fsdp2.yaml)" in said
    assert (CONFIGURATIONS / "8-gpus-fsdp2.yaml").exists()
    assert not list((tmp_path / "run" / stage).rglob("*.safetensors"))


def test_processes_draw_what_one_would_have_drawn():
    model, prompts, how = (
        random_model(CONFIGS["llama"]),
        [[5, 6], [7], [5, 6], [7], [5, 6]],
        Sampling(max_new_tokens=9),
    )
    sampler = InProcess()
    sampler.sync(CurrentPolicy(model))
    whole = sampler.sample(prompts, 1, Request(how, [1], seed=4)).ids
    for rank in range(2):
        part = sampler.sample(prompts[rank::2], 1, Request(how, [1], seed=4, places=range(rank, 5, 2)))
        assert part.ids == whole[rank::2]
    assert whole[0] != whole[2] != whole[4]  # one prompt, other rows: other draws


@given(size=st.integers(1, 40), minibatch=st.integers(1, 40), seed=st.integers(0, 99))
def test_minibatches_share_out_evenly(size, minibatch, seed):
    found = minibatches(size, minibatch, seed, epoch=1)
    assert sorted(row for rows in found for row in rows) == list(range(size))
    assert len(found) == -(-size // minibatch)
    for rows in found:
        assert 0 < len({row % minibatch for row in rows}) == len(rows) <= minibatch
        for processes in (
            divisor
            for divisor in range(1, minibatch + 1)
            if minibatch % divisor == 0 and size % minibatch == 0
        ):
            assert {sum(row % processes == rank for row in rows) for rank in range(processes)} == {
                minibatch // processes
            }


def test_explained_variance_of_parts_is_that_of_the_whole():
    values, returns = torch.randn(2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = 1 - ((returns - values).var(correction=0) / returns.var(correction=0)).item()
    assert explained_variance(values, returns) == pytest.approx(expected)
    rests = []  # what another process, with the last 20, would add

    def other(part: torch.Tensor) -> torch.Tensor:
        rests.append(part)
        return part

    explained_variance(values[10:], returns[10:], other)
    assert len(rests) == 3


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_configurations(path):
    from accelerate.commands.config.config_args import load_config_from_file

    read = load_config_from_file(str(path))
    assert read.num_processes >= 1
    if read.distributed_type == "FSDP":
        assert (read.fsdp_config["fsdp_version"], read.fsdp_config["fsdp_cpu_ram_efficient_loading"]) == (
            2,
            False,
        )
