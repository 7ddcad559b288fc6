"""Trainings of about a second, of each kind, for tests that stop them: what they train on, and what they
leave."""

import json
from pathlib import Path

from redline.direct.settings import Sft
from redline.engine.settings import Adapt, Model, Optimizer
from redline.policy.settings import Kl, Policy
from redline.reward.settings import Reward, RewardTerm
from redline.sampling.settings import Sampling
from tiny_models import GROUPED, model_folder

REWARDS = '''
from pathlib import Path

def vowels(prompts, responses):
    """A reward for each a and e of the response: dense, by character spans."""
    return [[(i, i + 1, 1.0) for i, letter in enumerate(text) if letter in "ae"] for text in responses]

def exploding(prompts, responses):
    """The same, but beyond all bounds while the file `explode` lies here: from the third call on."""
    here = Path(__file__).parent
    calls = here / "calls"
    calls.write_text(calls.read_text() + "." if calls.exists() else ".")
    if (here / "explode").exists() and len(calls.read_text()) >= 3:
        return [1e30] * len(responses)
    return vowels(prompts, responses)
'''
TEXTS = [
    "the film was",
    "I liked",
    "this is a",
    "why did they do it at all",
    "not good",
    "very much",
    "a book",
    "the actors were",
]


def backbone(folder: Path) -> Model:
    """A model of two random layers."""
    from transformers import LlamaConfig

    return Model(
        name=model_folder(folder / "tiny", LlamaConfig(**GROUPED | {"num_hidden_layers": 2})), dtype="float32"
    )


def policy_recipe(rewards: Path, function: str = "vowels", **changes) -> Policy:
    return Policy(
        **{
            "reward": [RewardTerm(function=f"{rewards}:{function}")],
            "updates": 3,
            "batch_size": 4,
            "minibatch_size": 3,
            "epochs": 2,
            "adapt": Adapt(lora_rank=4, train_layers=1),
            "sampling": Sampling(max_new_tokens=8, temperature=0.9, top_p=0.95),
            "kl": Kl(target=3.0, coefficient=0.1, horizon=20),
            "optimizer": Optimizer(lr=0.01, warmup=0.2),
            "eos_reward": 0.3,
            "length_normalise": True,
            "checkpoint_every": 1,
            "sample_every": 1,
            **changes,
        }
    )


def train(kind: str, out: Path, model: Model, rewards: Path) -> None:
    """One training of a kind, of about a second."""
    from redline.data.records import Edit, Prompt

    edits = [
        Edit(
            id=f"{number}",
            prompt=f"{TEXTS[number % 8]} {number}",
            rejected=f" bad and {'not ' * (number % 5)}unfair",
            edited=f" good and {'not ' * (number % 5)}fair",
            editor="test",
        )
        for number in range(24)
    ]
    if kind == "policy":
        from redline.policy.train import train_policy

        train_policy(policy_recipe(rewards), model, [Prompt(id=text, prompt=text) for text in TEXTS], out)
    elif kind == "reward":
        from redline.data.tokenization import load_tokenizer
        from redline.label.stage import label_edits
        from redline.reward.train import train_reward

        labels = list(label_edits(edits, load_tokenizer(model.name)))
        how = Reward(
            adapt=Adapt(lora_rank=4, train_layers=1),
            epochs=3,
            eval_every=0.25,
            batch_size=4,
            optimizer=Optimizer(lr=0.01, head_lr=0.02, decay="cosine"),
        )
        train_reward(how, model, labels[:16], labels[16:], out)
    else:
        from redline.direct.sft import train_sft

        train_sft(Sft(epochs=2, batch_size=12, lora_rank=4, lr=0.01), model, edits, out)


def weights(out: Path) -> dict:
    """Every tensor that a training left, by its file and name."""
    from safetensors.torch import load_file

    return {
        (str(path.relative_to(out)), name): tensor
        for path in sorted(out.rglob("*.safetensors"))
        if "checkpoints" not in path.parts
        for name, tensor in load_file(path).items()
    }


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
    found = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        if path.exists()
        else []
    )
    return [
        {key: value for key, value in line.items() if not any(word in key for word in ("second", "gb"))}
        for line in found
    ]


def sealed(checkpoint: Path) -> bool:
    """Whether its manifest is there, and whole: Trainer's checkpoints get theirs in place, so it is empty for
    a moment."""
    manifest = checkpoint / "manifest.json"
    return manifest.exists() and manifest.read_text().endswith("}")


def checkpoints(out: Path) -> list[Path]:
    """The folders of a training's checkpoints, TRL's or ours, oldest first."""
    return sorted([*out.glob("checkpoints/*"), *out.with_name(out.name + ".work").glob("checkpoint-*")])
