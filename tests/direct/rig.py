"""Every method on a tiny model, in a second or two."""

from collections.abc import Sequence
from pathlib import Path

from redline.data.records import Edit, Labels, Prompt
from redline.data.tokenization import load_tokenizer
from redline.direct import settings as sections
from redline.direct.settings import Trained
from redline.direct.stage import Given, train_direct
from redline.engine.settings import Adapt, Model
from redline.label.stage import label_edits
from redline.policy.settings import Policy
from redline.policy.watch import Gold
from redline.reward.settings import RewardTerm
from redline.sampling.settings import Sampling

TAILS = ["not unfair", "very much", "the film", "I", "this", "they", "a", "b"]
PROMPTS = [Prompt(id=f"p{number}", prompt=f"the play {number} was") for number in range(6)]
HELD_OUT = [Prompt(id=f"h{number}", prompt=f"a book {number} is") for number in range(3)]
SMALL = {"batch_size": 4, "lr": 0.01}


def methods(extra: str) -> dict[str, Trained]:
    """Each method with settings for eight edits; ``extra`` is MRPO's second reference."""
    return {
        "sft": sections.DirectSft(method="sft", epochs=2, **SMALL),
        "figa": sections.DirectFiga(method="figa", epochs=2, **SMALL),
        "dpo": sections.DirectDpo(method="dpo", epochs=2, keep=0.1, **SMALL),
        "bco": sections.DirectBco(method="bco", epochs=2, **SMALL),
        "mrpo": sections.DirectMrpo(method="mrpo", epochs=2, extra=extra, **SMALL),
        "spo": sections.DirectSpo(method="spo", epochs=2, levels=2, **SMALL),
        "spin": sections.DirectSpin(method="spin", rounds=2, batch_size=4, lr=[0.01, 0.005]),
        "sapo": sections.DirectSapo(method="sapo", epochs=2, segment=3, buffer=10, **SMALL),
        "selm": sections.DirectSelm(method="selm", rounds=1, alpha=0.01, batch_size=4, lr=[0.01, 0.005]),
        "spa": sections.DirectSpa(method="spa", rounds=1, prompts=6, batch_size=2, lr=[0.01, 0.005]),
    }


NAMES = list(methods(""))
WITH_ANCHORS = ("spin", "sapo", "selm", "spa")


def edits(count: int = 8) -> list[Edit]:
    return [
        Edit(
            id=f"e{number}",
            prompt=f"the film {number} was",
            rejected=f" bad and {TAILS[number % 8]} so bad",
            edited=f" good and {TAILS[number % 8]} so good",
            editor="test",
        )
        for number in range(count)
    ]


def labels(model: str, records: Sequence[Edit] | None = None) -> list[Labels]:
    return list(label_edits(edits() if records is None else records, load_tokenizer(model)))


def reward_term(folder: Path) -> RewardTerm:
    """A reward for each letter e."""
    file = folder / "letters.py"
    file.write_text(
        "def score(prompts, responses):\n    return [float(text.count('e')) for text in responses]\n"
    )
    return RewardTerm(function=f"{file}:score")


def policy(folder: Path, **changes) -> Policy:
    plain = {
        "adapt": Adapt(lora_rank=4, train_layers=2),
        "sampling": Sampling(max_new_tokens=6),
        "reward": [reward_term(folder)],
    }
    return Policy(**plain | changes)


def watching(prefer=None) -> Gold:
    def longer(a, b):
        return [float(len(x.response) > len(y.response)) for x, y in zip(a, b, strict=True)]

    return Gold("length", prefer or longer, HELD_OUT)


def train(model: str, method: Trained, out: Path, how: Policy, given: Given | None = None, **more) -> Path:
    given = given or Given(labels(model), [], PROMPTS)
    train_direct(method, how, Model(name=model, dtype="float32"), given, out, **more)
    return out
