"""What keeps a training from being saved or continued, or makes it worthless, is one clear line, and nothing
is destroyed."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tiny_trainings
from redline.direct.settings import Sft
from redline.engine.settings import Adapt, Model, Optimizer
from redline.errors import UserError
from redline.policy.settings import Kl
from redline.reward.settings import Reward
from tiny_trainings import (
    REWARDS,
    TEXTS,
    assert_same,
    backbone,
    checkpoints,
    lines,
    policy_recipe,
    sealed,
    train,
    weights,
)


@contextmanager
def stopped_behind(stop: int | None, monkeypatch) -> Iterator[pytest.MonkeyPatch]:
    """A training is interrupted right behind its checkpoint of a step."""
    from redline.engine.checkpoints import Checkpoints

    def save(self, step: int, extra: dict, plain=Checkpoints.save) -> None:
        plain(self, step, extra)
        if step == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", save)
        yield patched


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return backbone(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rewards(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "rewards.py"
    path.write_text(REWARDS)
    return path


def test_a_reward_trainings_lost_best_weights_are_one_line(tmp_path, model, rewards):
    train("reward", tmp_path, model, rewards)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(UserError, match=r"best\.safetensors"):
        train("reward", tmp_path, model, rewards)


@pytest.mark.parametrize("layers", [None, 1])
def test_a_reward_training_resumes_bit_for_bit_with_and_without_kept_states(
    tmp_path, model, monkeypatch, layers
):
    """Stopped right behind its second checkpoint: what the memory kept until then is gone."""

    def once(out: Path, stop: int | None) -> None:
        with stopped_behind(stop, monkeypatch) as patched:
            patched.setattr(
                tiny_trainings,
                "Reward",
                lambda plain=Reward, **given: plain(
                    **given
                    | {"adapt": Adapt(lora_rank=4, train_layers=layers), "epochs": 3, "eval_every": 0.25}
                ),
            )
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


@pytest.mark.skipif(
    not Path("/sys/kernel").is_dir(), reason="no folder that even root cannot write to: this is not Linux"
)
@pytest.mark.parametrize("kind", ["policy", "sft", "reward"])
def test_a_folder_that_cannot_be_written_to_is_one_line(model, rewards, kind):
    with pytest.raises(UserError, match=r"/sys/kernel/redline.*cannot be written"):
        train(kind, Path("/sys/kernel/redline"), model, rewards)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path: path.write_bytes(
        bytes(
            byte ^ (32 if place == path.stat().st_size // 2 else 0)
            for place, byte in enumerate(path.read_bytes())
        )
    ),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory, model, rewards) -> Path:
    out = tmp_path_factory.mktemp("policy")
    train("policy", out, model, rewards)
    return out


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("manifest.json", "truncated"),
        ("manifest.json", "flipped"),
        ("manifest.json", "missing"),
        ("model.safetensors", "flipped"),
        ("optimizer.bin", "truncated"),
        ("scheduler.bin", "missing"),
        ("random_states_0.pkl", "flipped"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    tmp_path, model, rewards, policy, capsys, file, damage
):
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


def test_when_every_checkpoint_is_damaged_the_training_starts_over(
    tmp_path, model, rewards, policy, monkeypatch
):
    assert [path.name for path in checkpoints(policy)] == [
        "000002",
        "000003",
    ]  # of three updates the newest two are kept
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
    """TRL writes its checkpoints in place and reads whatever lies there: ours are sealed, and held to their
    settings."""
    from redline.direct import sft

    monkeypatch.setattr(sft.shutil, "rmtree", lambda *_, **__: None)  # leave the checkpoints behind
    out = tmp_path / "out"
    train("sft", out, model, rewards)
    monkeypatch.undo()
    before = weights(out)
    shutil.rmtree(out)
    newest = checkpoints(out)[-1]
    (newest / "trainer_state.json").write_text("{}")
    shutil.copytree(newest.parent, tmp_path / "again.work")
    monkeypatch.setattr(tiny_trainings, "Sft", lambda plain=Sft, **given: plain(**given | {"lr": 0.02}))
    with pytest.raises(
        UserError, match=r"checkpoint-\d+: was written with other settings \(sft.lr: 0.01 before, 0.02 now\)"
    ):
        train("sft", out, model, rewards)
    monkeypatch.undo()
    with monkeypatch.context() as patched:
        patched.setattr(tiny_trainings, "TEXTS", TEXTS[::-1])
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
    monkeypatch.setattr(
        tiny_trainings, "policy_recipe", lambda path, plain=policy_recipe: plain(path, clip=0.3)
    )
    monkeypatch.setattr(
        tiny_trainings, "Reward", lambda plain=Reward, **given: plain(**given | {"changed_weight": 2.0})
    )
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
        patched.setattr(tiny_trainings, "TEXTS", TEXTS[::-1])
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
    from redline.policy.train import train_policy

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


def test_a_policy_far_from_its_reference_stops_with_the_batch_and_the_last_checkpoint(
    tmp_path, model, rewards
):
    from redline.data.records import Prompt
    from redline.policy.train import train_policy

    how = policy_recipe(
        rewards, optimizer=Optimizer(lr=0.1, warmup=0), kl=Kl(target=None, coefficient=0, stop=0.5), updates=9
    )
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
def test_a_gradient_that_is_not_finite_stops_sft_and_reward_training_likewise(
    tmp_path, model, rewards, kind, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setattr(tiny_trainings, "Sft", lambda plain=Sft, **given: plain(**given | {"lr": 1e36}))
    monkeypatch.setattr(
        tiny_trainings,
        "Optimizer",
        lambda plain=Optimizer, **given: plain(**given | {"lr": 1e36, "warmup": 0.5}),
    )
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
