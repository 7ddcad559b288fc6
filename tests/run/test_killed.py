"""Killed with SIGKILL at any moment and started again, a training ends bit for bit as one that was never
stopped; on a full disk it ends with one clear line.

Run as a script, this file is the one that kills: it loads the libraries once and forks a process for each
attempt.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from redline.engine.settings import Model
from redline.errors import UserError
from tiny_trainings import REWARDS, assert_same, backbone, checkpoints, sealed, train

MOMENTS, IN_A_WRITE = (
    16,
    4,
)  # kills at random moments, uniform over the time of a whole run; more, while a checkpoint is written
STEPS = {"policy": 3, "reward": 12, "sft": 4}  # of a whole run, a checkpoint after each


class Killer:
    """Runs a training in forked processes of its own, and kills them."""

    def __init__(self, kind: str, folder: Path, model: Model):
        self.kind, self.folder, self.model = kind, folder, model

    def start(self, out: Path, disk: int | None = None) -> int:
        """Train in a new process; ``disk`` is the size in bytes at which its files are full."""
        pid = os.fork()
        if pid == 0:
            status = 1
            log = os.open(self.folder / f"{out.name}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                if disk is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))
                note_phases(self.folder / f"{out.name}.phase")
                train(self.kind, out, self.model, self.folder / "rewards.py")
                status = 0
            except UserError as error:
                print(f"redline: {error}", file=sys.stderr, flush=True)
                status = 2
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        return pid

    def wait(self, pid: int, out: Path) -> tuple[int, str]:
        """The exit status of a process and what it said about its end."""
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = (
            (self.folder / f"{out.name}.err").read_text().replace("redline: ", "\nredline: ").splitlines()
        )  # behind a bar
        return status, next((line for line in reversed(said) if line.startswith("redline: ")), "")

    def finish(self, out: Path) -> float:
        begun = time.monotonic()
        status, _ = self.wait(self.start(out), out)
        if status:
            raise SystemExit(f"{out}: " + (self.folder / f"{out.name}.err").read_text()[-3000:])
        return time.monotonic() - begun

    def kill(self, out: Path, after: float, step: int | None) -> bool:
        """Kill a new run after some seconds, or once it has begun to write a checkpoint; False when it was
        done before that."""
        pid, begun = self.start(out), time.monotonic()
        if step is None:
            time.sleep(after)
        else:
            while not self.half_written(out, step) and time.monotonic() < begun + 60:
                time.sleep(0.0005)
        os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1] == signal.SIGKILL

    def half_written(self, out: Path, step: int) -> bool:
        """Whether its checkpoint of a step has been begun and is not whole."""
        if self.kind == "sft":
            found = out.with_name(out.name + ".work") / f"checkpoint-{step}"
            return found.exists() and not sealed(found)
        return (out / f"checkpoints/.{step:06d}.part").exists()


def note_phases(path: Path) -> None:
    """Write the name of each phase of an update to a file as it begins."""

    from redline.policy.monitors import Phases

    measure = Phases.measure
    Phases.measure = lambda self, phase: path.write_text(phase) and measure(self, phase)


def main(folder: Path, model: str, *kinds: str) -> None:
    import accelerate
    import peft
    import safetensors.torch
    import transformers.models.llama.modeling_llama
    import trl

    import redline.direct.sft
    import redline.label.stage
    import redline.policy.train
    import redline.reward.train

    assert all(
        (accelerate, peft, trl.SFTTrainer, transformers.Trainer, safetensors, redline)
    )  # loaded before the forks
    draw = random.Random(5)
    for kind in kinds:
        killer = Killer(kind, folder, Model(name=model, dtype="float32"))
        killer.finish(folder / f"{kind}-whole")
        took = killer.finish(folder / f"{kind}-again")  # timed with warm caches
        shutil.rmtree(folder / f"{kind}-again")
        for number in range(MOMENTS + IN_A_WRITE):
            out, after = folder / f"{kind}-{number}", draw.uniform(0, took)
            step = None if number < MOMENTS else draw.randint(1, STEPS[kind])
            while not killer.kill(out, after, step):  # it was quicker this time
                for left in folder.glob(f"{out.name}*"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                after *= 0.8
            half = any(killer.half_written(out, step) for step in range(1, STEPS[kind] + 1))
            phase = folder / f"{out.name}.phase"
            print(
                json.dumps(
                    {
                        "kind": kind,
                        "out": str(out),
                        "after": after,
                        "half": half,
                        "reached": len(checkpoints(out)),
                        "phase": phase.read_text() if phase.exists() else None,
                    }
                ),
                flush=True,
            )
            killer.finish(out)
        full_disk(killer, folder / f"{kind}-full")


def full_disk(killer: Killer, out: Path) -> None:
    """Kill a run once it has a checkpoint, let its files grow no more, and then finish it."""
    pid = killer.start(out)
    while not (found := [path for path in checkpoints(out) if path.name[0] != "." and sealed(path)]):
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    before = {str(path): path.stat().st_mtime_ns for path in found[0].rglob("*")}
    largest = max(path.stat().st_size for path in found[0].rglob("*.safetensors"))
    status, line = killer.wait(killer.start(out, disk=largest - 1), out)
    kept = all(Path(path).exists() and Path(path).stat().st_mtime_ns == time for path, time in before.items())
    if status == 2:
        killer.finish(out)
    print(
        json.dumps(
            {"kind": f"{killer.kind}, full", "out": str(out), "status": status, "line": line, "kept": kept}
        ),
        flush=True,
    )
    if killer.kind == "policy":  # once more, now only to be saved
        adapter = (out / "adapter/adapter_model.safetensors").stat().st_size
        status, line = killer.wait(killer.start(out, disk=adapter - 1), out)
        print(json.dumps({"kind": "saving", "status": status, "line": line}), flush=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return backbone(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory, model) -> tuple[Path, dict[str, list[dict]]]:
    """The folders of all killed and resumed runs, and of those left alone; two processes share the work."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "rewards.py").write_text(REWARDS)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # the helpers that pytest finds
    }
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), model.name, *kinds],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for kinds in (["policy"], ["reward", "sft"])
    ]
    found: dict[str, list[dict]] = {}
    for process in started:
        out, err = process.communicate()
        assert process.returncode == 0, err[-3000:]
        for line in out.splitlines():
            found.setdefault(json.loads(line)["kind"], []).append(json.loads(line))
    return folder, found


@pytest.mark.parametrize("kind", ["policy", "sft", "reward"])
def test_killed_at_any_moment_and_resumed_equals_never_stopped_bit_for_bit(killed, kind):
    folder, found = killed
    assert len(found[kind]) == MOMENTS + IN_A_WRITE
    for attempt in found[kind]:
        assert_same(Path(attempt["out"]), folder / f"{kind}-whole")
        assert not list(Path(attempt["out"]).glob("checkpoints/.*.part"))
    assert sum(attempt["half"] for attempt in found[kind]) > 1  # checkpoints were half written
    assert len({attempt["reached"] for attempt in found[kind]}) > 2  # none, one or two were there
    if kind == "policy":
        assert {"sample", "optimise"} <= {attempt["phase"] for attempt in found[kind]}


@pytest.mark.parametrize("kind", ["policy", "sft", "reward"])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(killed, kind):
    folder, found = killed
    (attempt,) = found[f"{kind}, full"]
    assert attempt["status"] == 2, attempt
    assert attempt["line"].startswith("redline: ")
    assert "cannot be written" in attempt["line"]
    assert attempt["kept"]
    assert_same(Path(attempt["out"]), folder / f"{kind}-whole")


def test_a_full_disk_while_the_policy_is_saved_is_one_line(killed):
    (attempt,) = killed[1]["saving"]
    assert attempt["status"] == 2
    assert "cannot be written" in attempt["line"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
