"""Families that differ, a mixture of experts among them, on two processes: they do what one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import distributed_driver
import pytest
import torch
from safetensors.torch import load_file
from test_distributed import launch

from tiny_families import edits, write_family
from tiny_recipes import write_recipe

FAMILIES = ("gemma3_text", "granite", "lfm2", "olmo2", "qwen3_moe")
ADAPT = {"lora_rank": 4, "train_layers": 2}


def jobs(folder: Path, where: str) -> list[dict]:
    """An epoch of a reward model and an update of a policy for each family."""
    todo = []
    for family in FAMILIES:
        common = {"model": str(folder / family), "data": str(folder / family)}
        reward = {"adapt": ADAPT, "epochs": 1, "batch_size": 4, "eval_every": 1}
        policy = {"adapt": ADAPT, "updates": 1}
        for kind, settings in (("reward", reward), ("policy", policy)):
            todo.append(
                {**common, "kind": kind, "out": str(folder / where / family / kind), "settings": settings}
            )
    return todo


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Each family, trained by one process and by two."""
    from redline.data.files import write_jsonl
    from redline.data.settings import Source
    from redline.label.stage import label_file

    folder = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        write_family(family, folder / family)
        write_jsonl(folder / family / "edits.jsonl", edits(20))
        source = Source(path=str(folder / family / "edits.jsonl"))
        label_file(source, folder / family / "labels.jsonl", str(folder / family))
    distributed_driver.run(jobs(folder, "one"))
    for configuration, where in (("2-cpu-processes.yaml", "two"), ("8-gpus-fsdp2.yaml", "sharded")):
        (folder / f"{where}.json").write_text(json.dumps(jobs(folder, where)))
        done = launch(configuration, distributed_driver.__file__, folder / f"{where}.json")
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("where", ["two", "sharded"])
@pytest.mark.parametrize("kind", ["reward", "policy"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_do_what_one_does(trained, family, kind, where):
    one, two = (load_file(trained / name / family / kind / "model.safetensors") for name in ("one", where))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)
    untrained = load_file(trained / family / "model.safetensors")
    moved = [name for name in one if name in untrained and not torch.equal(one[name], untrained[name])]
    assert moved


def test_a_launch_that_starts_one_process_of_two_says_so(tmp_path, edits_file, tiny_model):
    """Without a configuration, ``accelerate launch --num_processes 2 --cpu`` starts one."""
    recipe = write_recipe(tmp_path, {"name": tiny_model})
    program = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", "2", "--cpu"]
    done = subprocess.run(
        [*program, "-m", "redline.cli", "run", str(recipe), "--out", str(tmp_path / "run")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "asked for 2 processes and started one" in " ".join(done.stderr.split())
