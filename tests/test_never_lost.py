"""Killed with SIGKILL at any moment and started again, a training ends bit for bit as one that was never stopped; what keeps a
training from being saved, or makes it worthless, is one clear line, and nothing is destroyed.

Run as a script, this file is the one that kills: it loads the libraries once and forks a process for each attempt.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from redline.errors import UserError
from redline.recipe import Adapt, Kl, Model, Optimizer, Policy, Reward, RewardTerm, Sampling, Sft

MOMENTS, IN_A_WRITE = 16, 4  # kills at random moments, uniform over the time of a whole run; more, while a checkpoint is written
STEPS = {"policy": 3, "reward": 12, "sft": 4}  # of a whole run, a checkpoint after each
REWARDS = '''
from pathlib import Path

def vowels(prompts, responses):
    """A reward for each a and e of the response: dense, by character spans."""
    return [[(i, i + 1, 1.0) for i, letter in enumerate(text) if letter in "ae"] for text in responses]

def exploding(prompts, responses):
    """The same, but beyond all bounds while the file `explode` lies beside this one: from the third call on."""
    here = Path(__file__).parent
    calls = here / "calls"
    calls.write_text(calls.read_text() + "." if calls.exists() else ".")
    if (here / "explode").exists() and len(calls.read_text()) >= 3:
        return [1e30] * len(responses)
    return vowels(prompts, responses)
'''
TEXTS = ["the film was", "I liked", "this is a", "why did they do it at all", "not good", "very much", "a book", "the actors were"]


def policy_recipe(rewards: Path, function: str = "vowels", **changes) -> Policy:
    return Policy(**{
        "reward": [RewardTerm(function=f"{rewards}:{function}")], "updates": 3, "batch_size": 4, "minibatch_size": 3, "epochs": 2,
        "adapt": Adapt(lora_rank=4, train_layers=1), "sampling": Sampling(max_new_tokens=8, temperature=0.9, top_p=0.95),
        "kl": Kl(target=3.0, coefficient=0.1, horizon=20), "optimizer": Optimizer(lr=0.01, warmup=0.2), "eos_reward": 0.3,
        "length_normalise": True, "checkpoint_every": 1, "sample_every": 1, **changes})


def train(kind: str, out: Path, model: Model, rewards: Path) -> None:
    """One training of a kind, of about a second."""
    from redline.data.records import Edit, Prompt

    edits = [Edit(id=f"{number}", prompt=f"{TEXTS[number % 8]} {number}", rejected=f" bad and {'not ' * (number % 5)}unfair",
                  edited=f" good and {'not ' * (number % 5)}fair", editor="test") for number in range(24)]
    if kind == "policy":
        from redline.policy.ppo import train_policy

        train_policy(policy_recipe(rewards), model, [Prompt(id=text, prompt=text) for text in TEXTS], out)
    elif kind == "reward":
        from redline.label.stage import label_edits
        from redline.models import load_tokenizer
        from redline.reward.train import train_reward

        labels = list(label_edits(edits, load_tokenizer(model.name)))
        how = Reward(adapt=Adapt(lora_rank=4, train_layers=1), epochs=3, eval_every=0.25, batch_size=4,
                     optimizer=Optimizer(lr=0.01, head_lr=0.02, decay="cosine"))
        train_reward(how, model, labels[:16], labels[16:], out)
    else:
        from redline.policy.sft import train_sft

        train_sft(Sft(epochs=2, batch_size=12, lora_rank=4, lr=0.01), model, edits, out)


def weights(out: Path) -> dict:
    """Every tensor that a training left, by its file and name."""
    from safetensors.torch import load_file

    return {(str(path.relative_to(out)), name): tensor for path in sorted(out.rglob("*.safetensors"))
            if "checkpoints" not in path.parts for name, tensor in load_file(path).items()}


def assert_same(out: Path, whole: Path) -> None:
    """Two trainings left the same: every bit of their weights, every line of their logs."""
    import torch

    found, wanted = weights(out), weights(whole)
    assert found.keys() == wanted.keys()
    assert len(wanted) > 4
    assert not [name for name, tensor in found.items() if not torch.equal(tensor, wanted[name])], out
    for name in ("log.jsonl", "samples.jsonl"):
        assert lines(out / name) == lines(whole / name), out


def lines(path: Path) -> list[dict]:
    """A log without its times and memory."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else []
    return [{key: value for key, value in line.items() if not any(word in key for word in ("second", "gb"))}
            for line in found]


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
        said = (self.folder / f"{out.name}.err").read_text().replace("redline: ", "\nredline: ").splitlines()  # behind a bar
        return status, next((line for line in reversed(said) if line.startswith("redline: ")), "")

    def finish(self, out: Path) -> float:
        begun = time.monotonic()
        status, _ = self.wait(self.start(out), out)
        if status:
            raise SystemExit(f"{out}: " + (self.folder / f"{out.name}.err").read_text()[-3000:])
        return time.monotonic() - begun

    def kill(self, out: Path, after: float, step: int | None) -> bool:
        """Kill a new run after some seconds, or once it has begun to write a checkpoint; False when it was done before that."""
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
    from redline.policy.ppo import Ppo

    timed = Ppo._timed
    Ppo._timed = lambda self, phase: path.write_text(phase) and timed(self, phase)


def main(folder: Path, model: str, *kinds: str) -> None:
    import accelerate
    import peft
    import safetensors.torch
    import transformers.models.llama.modeling_llama
    import trl

    import redline.label.stage
    import redline.policy.ppo
    import redline.policy.sft
    import redline.reward.train

    assert all((accelerate, peft, trl.SFTTrainer, transformers.Trainer, safetensors, redline))  # loaded before the forks
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
            print(json.dumps({"kind": kind, "out": str(out), "after": after, "half": half, "reached": len(checkpoints(out)),
                              "phase": phase.read_text() if phase.exists() else None}), flush=True)
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
    print(json.dumps({"kind": f"{killer.kind}, full", "out": str(out), "status": status, "line": line, "kept": kept}), flush=True)
    if killer.kind == "policy":  # once more, now only to be saved
        adapter = (out / "adapter/adapter_model.safetensors").stat().st_size
        status, line = killer.wait(killer.start(out, disk=adapter - 1), out)
        print(json.dumps({"kind": "saving", "status": status, "line": line}), flush=True)


def sealed(checkpoint: Path) -> bool:
    """Whether its manifest is there, and whole: Trainer's checkpoints get theirs in place, so it is empty for a moment."""
    manifest = checkpoint / "manifest.json"
    return manifest.exists() and manifest.read_text().endswith("}")


@contextmanager
def stopped_behind(stop: int | None, monkeypatch) -> Iterator[pytest.MonkeyPatch]:
    """A training is interrupted right behind its checkpoint of a step."""
    from redline.checkpoint import Checkpoints

    def save(self, step: int, extra: dict, plain=Checkpoints.save) -> None:
        plain(self, step, extra)
        if step == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", save)
        yield patched


def checkpoints(out: Path) -> list[Path]:
    """The folders of a training's checkpoints, TRL's or ours, oldest first."""
    return sorted([*out.glob("checkpoints/*"), *out.with_name(out.name + ".work").glob("checkpoint-*")])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    from transformers import LlamaConfig

    from tiny_models import GROUPED, model_folder

    name = model_folder(tmp_path_factory.mktemp("model") / "tiny", LlamaConfig(**GROUPED | {"num_hidden_layers": 2}))
    return Model(name=name, dtype="float32")


@pytest.fixture(scope="module")
def rewards(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "rewards.py"
    path.write_text(REWARDS)
    return path


@pytest.fixture(scope="module")
def killed(tmp_path_factory, model) -> tuple[Path, dict[str, list[dict]]]:
    """The folders of all killed and resumed runs, and of those left alone; two processes share the work."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "rewards.py").write_text(REWARDS)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    started = [subprocess.Popen([sys.executable, __file__, str(folder), model.name, *kinds], env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for kinds in (["policy"], ["reward", "sft"])]
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


def test_a_reward_trainings_lost_best_weights_are_one_line(tmp_path, model, rewards):
    train("reward", tmp_path, model, rewards)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(UserError, match=r"best\.safetensors"):
        train("reward", tmp_path, model, rewards)


@pytest.mark.parametrize("layers", [None, 1])
def test_a_reward_training_resumes_bit_for_bit_with_and_without_kept_states(tmp_path, model, monkeypatch, layers):
    """Stopped right behind its second checkpoint: what the memory kept until then is gone."""
    def once(out: Path, stop: int | None) -> None:
        with stopped_behind(stop, monkeypatch) as patched:
            patched.setattr(sys.modules[__name__], "Reward", lambda plain=Reward, **given: plain(**given | {
                "adapt": Adapt(lora_rank=4, train_layers=layers), "epochs": 3, "eval_every": 0.25}))
            train("reward", out, model, tmp_path)

    once(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "resumed", 2)
    once(tmp_path / "resumed", None)
    assert_same(tmp_path / "resumed", tmp_path / "whole")


@pytest.mark.parametrize("kind", ["policy", "sft", "reward"])
def test_a_file_in_the_place_of_the_folder_is_one_line_and_stays(tmp_path, model, rewards, kind):
    out = tmp_path / "out"
    for taken in (out, *([out.with_name("out.work")] if kind == "sft" else [])):
        taken.write_text("mine")
        with pytest.raises(UserError, match=r"out.* cannot be written"):
            train(kind, out, model, rewards)
        assert taken.read_text() == "mine"
        taken.unlink()
        shutil.rmtree(out.with_name("out.work"), ignore_errors=True)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path: path.write_bytes(bytes(byte ^ (32 if place == path.stat().st_size // 2 else 0)
                                                   for place, byte in enumerate(path.read_bytes()))),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory, model, rewards) -> Path:
    out = tmp_path_factory.mktemp("policy")
    train("policy", out, model, rewards)
    return out


@pytest.mark.parametrize(("file", "damage"), [
    ("manifest.json", "truncated"), ("manifest.json", "flipped"), ("manifest.json", "missing"), ("model.safetensors", "flipped"),
    ("optimizer.bin", "truncated"), ("scheduler.bin", "missing"), ("random_states_0.pkl", "flipped")])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, model, rewards, policy, capsys, file, damage):
    out = tmp_path / "out"
    shutil.copytree(policy, out)
    newest = max((out / "checkpoints").iterdir())
    DAMAGE[damage](newest / file)
    for path in out.glob("*.safetensors"):
        path.unlink()
    train("policy", out, model, rewards)
    warned = " ".join(capsys.readouterr().err.split())
    assert "damaged checkpoint, passed over" in warned
    assert_same(out, policy)


def test_when_every_checkpoint_is_damaged_the_training_starts_over(tmp_path, model, rewards, policy, monkeypatch):
    assert [path.name for path in checkpoints(policy)] == ["000002", "000003"]  # of three updates the newest two are kept
    out = tmp_path / "out"
    shutil.copytree(policy, out)
    for checkpoint in (out / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
        checkpoint.mkdir()
    with pytest.raises(KeyboardInterrupt), stopped_behind(1, monkeypatch):
        train("policy", out, model, rewards)
    assert sealed(out / "checkpoints/000001")  # not thrown away for the damaged ones of higher numbers
    with stopped_behind(1, monkeypatch):  # goes on behind it
        train("policy", out, model, rewards)
    assert_same(out, policy)


def test_sfts_damaged_checkpoints_and_other_settings(tmp_path, model, rewards, capsys, monkeypatch):
    """TRL writes its checkpoints in place and reads whatever lies there: ours are sealed, and held to their settings."""
    from redline.policy import sft

    monkeypatch.setattr(sft.shutil, "rmtree", lambda *_, **__: None)  # leave the checkpoints behind
    out = tmp_path / "out"
    train("sft", out, model, rewards)
    monkeypatch.undo()
    before = weights(out)
    shutil.rmtree(out)
    newest = checkpoints(out)[-1]
    (newest / "trainer_state.json").write_text("{}")
    shutil.copytree(newest.parent, tmp_path / "again.work")
    monkeypatch.setattr(sys.modules[__name__], "Sft", lambda plain=Sft, **given: plain(**given | {"lr": 0.02}))
    with pytest.raises(UserError, match=r"checkpoint-\d+: was written with other settings \(sft.lr: 0.01 before, 0.02 now\)"):
        train("sft", out, model, rewards)
    monkeypatch.undo()
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[__name__], "TEXTS", TEXTS[::-1])
        with pytest.raises(UserError, match=r"other settings \(checksum_of_edits: \d+ before"):
            train("sft", out, model, rewards)
    train("sft", tmp_path / "again", model, rewards)
    assert "damaged checkpoint, passed over" in " ".join(capsys.readouterr().err.split())
    import torch

    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path / "again").items())


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_a_recipe_that_changed_is_refused(tmp_path, model, rewards, kind, monkeypatch):
    out = tmp_path / "out"
    train(kind, out, model, rewards)
    before = weights(out)
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "policy_recipe", lambda path, plain=policy_recipe: plain(path, clip=0.3))
    monkeypatch.setattr(here, "Reward", lambda plain=Reward, **given: plain(**given | {"changed_weight": 2.0}))
    key = {"policy": "clip: 0.2 before, 0.3 now", "reward": "changed_weight: 3.0 before, 2.0 now"}[kind]
    with pytest.raises(UserError, match=rf"other settings \({key}\). Put them back, or choose another --out"):
        train(kind, out, model, rewards)
    assert weights(out).keys() == before.keys()
    assert checkpoints(out)


def test_other_data_or_another_backbone_are_refused(tmp_path, model, rewards, policy, monkeypatch):
    """Of the same number, and of the same shape: nothing else would tell them apart."""
    from safetensors.torch import load_file, save_file

    train("reward", tmp_path / "reward", model, rewards)
    shutil.copytree(policy, tmp_path / "policy")
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[__name__], "TEXTS", TEXTS[::-1])
        with pytest.raises(UserError, match=r"other settings \(checksum_of_edits: \d+ before"):
            train("reward", tmp_path / "reward", model, rewards)
        with pytest.raises(UserError, match=r"other settings \(prompts: \d+ before"):
            train("policy", tmp_path / "policy", model, rewards)
    other = tmp_path / "other"
    shutil.copytree(model.name, other)
    held = load_file(other / "model.safetensors")
    held["model.norm.weight"] += 0.01
    save_file(held, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"other settings \(backbone: \w+ before"):
        train("reward", tmp_path / "reward", model.model_copy(update={"name": str(other)}), rewards)


def test_a_loss_that_is_not_finite_stops_with_the_batch_and_the_last_checkpoint(tmp_path, model, rewards):
    from redline.data.records import Prompt
    from redline.policy.ppo import train_policy

    folder = tmp_path / "rewards"
    folder.mkdir()
    (folder / "rewards.py").write_text(REWARDS)
    how = policy_recipe(folder / "rewards.py", "exploding", reward_scale=1.0, length_normalise=False)
    prompts = [Prompt(id=text, prompt=text) for text in TEXTS]
    train_policy(how, model, prompts, tmp_path / "whole")
    (folder / "calls").unlink()
    (folder / "explode").touch()
    with pytest.raises(UserError, match=r"update 3 is not finite.*Lower policy.optimizer.lr") as stopped:
        train_policy(how, model, prompts, tmp_path / "out")
    assert "last good checkpoint is " + str(tmp_path / "out/checkpoints/000002") in str(stopped.value)
    bad = [json.loads(line) for line in (tmp_path / "out/bad_batch.jsonl").read_text().splitlines()]
    assert [record["update"] for record in bad] == [3] * how.batch_size
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["000001", "000002"]
    (folder / "explode").unlink()
    train_policy(how, model, prompts, tmp_path / "out")
    assert_same(tmp_path / "out", tmp_path / "whole")


def test_a_policy_far_from_its_reference_stops_with_the_batch_and_the_last_checkpoint(tmp_path, model, rewards):
    from redline.data.records import Prompt
    from redline.policy.ppo import train_policy

    how = policy_recipe(rewards, optimizer=Optimizer(lr=0.1, warmup=0), kl=Kl(target=None, coefficient=0, stop=0.5), updates=9)
    with pytest.raises(UserError, match="KL") as stopped:
        train_policy(how, model, [Prompt(id=text, prompt=text) for text in TEXTS], tmp_path)
    log = lines(tmp_path / "log.jsonl")
    done = int(checkpoints(tmp_path)[-1].name)
    assert 1 <= done <= len(log) < 9
    assert all(line["kl"] <= 0.5 for line in log[:done])  # the checkpoint is from before
    bad = [json.loads(line) for line in (tmp_path / "bad_batch.jsonl").read_text().splitlines()]
    assert [record["update"] for record in bad] == [done + 1] * how.batch_size
    good = tmp_path / f"checkpoints/{done - 1:06d}"  # the newest one has the state that went too far
    assert f"last good checkpoint is {good if done > 1 else 'none'}" in str(stopped.value)
    assert "policy." in str(stopped.value)  # which keys to try


@pytest.mark.parametrize("kind", ["sft", "reward"])
def test_a_gradient_that_is_not_finite_stops_sft_and_reward_training_likewise(tmp_path, model, rewards, kind, monkeypatch):
    here, out = sys.modules[__name__], tmp_path / "out"
    monkeypatch.setattr(here, "Sft", lambda plain=Sft, **given: plain(**given | {"lr": 1e36}))
    monkeypatch.setattr(here, "Optimizer", lambda plain=Optimizer, **given: plain(**given | {"lr": 1e36, "warmup": 0.5}))
    with pytest.raises(UserError, match=rf"gradient of step \d+ is not finite.*Lower {kind}\.") as stopped:
        train(kind, out, model, rewards)
    last = checkpoints(out)[-1]
    assert f"last good checkpoint is {last}. " in str(stopped.value)
    folder = last.parent if kind == "sft" else out
    bad = [json.loads(line) for line in (folder / "bad_batch.jsonl").read_text().splitlines()]
    assert f"step {bad[0]['step']} is" in str(stopped.value)
    assert len(bad) == {"sft": 12, "reward": 4}[kind]
    assert all(any(text in record["text" if kind == "sft" else "worse"] for text in TEXTS) for record in bad)
    assert not (out / "model.safetensors").exists()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
