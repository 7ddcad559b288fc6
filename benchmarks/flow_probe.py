"""Does a flow rank answers better than a straight line through the same numbers? PFM's exit condition.

    python recipes/cad_pairs.py path/to/data/cad runs/experiment-cad/source
    python benchmarks/flow_probe.py runs/experiment-cad/source

Every answer is the mean of SmolLM2-135M's states at layer 20 over its tokens, projected on 32 principal
components of the edits' two sides. Three scores are fitted on the edits: the flow of ``redline.direct.flow``,
the difference of the two sides' means, and a logistic probe. They are measured on edits that none was fitted
on (is the edited side ranked first?), and as judges of 16 samples to each held-out prompt: the win rate of
the best by each over a single sample, by VADER, with paired standard errors. A flow that does not beat both
by more than that is not worth having."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import about
from redline.data.records import Edit, Prompt
from redline.data.tokenization import encode_prompt
from redline.direct.flow import Projection, fit, scores
from redline.direct.weights import logistic_regression
from redline.engine.models import eos_ids, load_causal_lm, tokenizer_of
from redline.engine.settings import Model
from redline.judge.judges import judge_of
from redline.judge.settings import JudgedBy
from redline.sampling.local import InProcess
from redline.sampling.protocol import CurrentPolicy, Request
from redline.sampling.settings import Sampling

OUT = Path(__file__).parent / "results" / "flow_probe.json"
LAYER, COMPONENTS, CROP = 20, 32, 72
Score = Callable[[Tensor], Tensor]


@torch.no_grad()
def pooled(lm: Any, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> Tensor:
    """Mean states at ``LAYER`` over each response's tokens ``[N, H]``."""
    found = []
    for before, ids in zip(prompts, responses, strict=True):
        states = lm.base_model(
            input_ids=torch.tensor([[*before, *ids]]), output_hidden_states=True
        ).hidden_states[LAYER]
        found.append(states[0, len(before) :].float().mean(0))
    return torch.stack(found)


def fitted(disliked: Tensor, liked: Tensor) -> dict[str, Score]:
    """The three scores, from pairs ``[N, D]``."""
    field = fit(disliked, liked)
    difference = liked.mean(0) - disliked.mean(0)
    both = torch.cat([disliked, liked]).double()
    classes = torch.cat([torch.zeros(len(disliked)), torch.ones(len(liked))]).bool()
    probe = logistic_regression(both, classes, strength=1.0)
    return {
        "flow": lambda points: scores(field, points),
        "difference of means": lambda points: points @ difference,
        "logistic probe": lambda points: (points.double() @ probe[1:]).float(),
    }


def read(path: Path, kind: Any, limit: int | None = None) -> list[Any]:
    with path.open(encoding="utf-8") as lines:
        return [kind.model_validate_json(line) for line in lines][:limit]


def best_of_many(
    lm: Any, tokenizer: Any, chosen: argparse.Namespace, projection: Projection, judges: dict[str, Score]
) -> "dict[str, np.ndarray]":
    """By each score, how often the best of n samples beats a single one ``[prompts]``."""
    prompts = read(chosen.source / "report-openings.jsonl", Prompt, chosen.prompts)
    asked = [encode_prompt(tokenizer, prompt.prompt) for prompt in prompts]
    sampler = InProcess()
    sampler.sync(CurrentPolicy(lm))
    stop = eos_ids(lm, tokenizer, [prompt.prompt for prompt in prompts])
    drawn = sampler.sample(asked, chosen.n + 1, Request(Sampling(max_new_tokens=32), stop, seed=1)).ids
    size = chosen.n + 1
    answers = [[list(ids) for ids in drawn[start : start + size]] for start in range(0, len(drawn), size)]
    texts = [[tokenizer.decode(ids, skip_special_tokens=True) for ids in row] for row in answers]
    judge = judge_of(JudgedBy(judge="vader"))
    wins: dict[str, np.ndarray] = {}
    for name, score in judges.items():
        best = []
        for before, row in zip(asked, answers, strict=True):
            many = row[: chosen.n]
            best.append(int(score(projection(pooled(lm, [before] * len(many), many))).argmax()))
        first = [text[place] for text, place in zip(texts, best, strict=True)]
        others = [text[chosen.n] for text in texts]
        preferences = judge.prefer([prompt.prompt for prompt in prompts], first, others)
        wins[name] = np.array([0.5 if one is None else one for one in preferences])
    return wins


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("source", type=Path)
    options.add_argument("--edits", type=int, default=437)
    options.add_argument("--prompts", type=int, default=60, help="0: only rank the sides of held-out edits")
    options.add_argument("--n", type=int, default=16)
    chosen = options.parse_args()
    lm, tokenizer = load_causal_lm(Model()), tokenizer_of(Model())

    def points_of(edits: Sequence[Edit], side: str) -> Tensor:
        ids = [tokenizer(getattr(edit, side), add_special_tokens=False)["input_ids"][:CROP] for edit in edits]
        return pooled(lm, [[] for _ in ids], ids)

    train = read(chosen.source / "edits.jsonl", Edit, chosen.edits)
    test = read(chosen.source / "report-edits.jsonl", Edit)
    raw = {name: points_of(train, name) for name in ("rejected", "edited")}
    projection = Projection.of(torch.cat(list(raw.values())), COMPONENTS)
    judges = fitted(projection(raw["rejected"]), projection(raw["edited"]))
    sides = [projection(points_of(test, name)) for name in ("rejected", "edited")]
    right = {name: (score(sides[1]) > score(sides[0])).float().numpy() for name, score in judges.items()}

    wins = best_of_many(lm, tokenizer, chosen, projection, judges) if chosen.prompts else {}
    result = {
        "edits": len(train),
        "held_out_edits": len(test),
        "prompts": chosen.prompts,
        "n": chosen.n,
        "ranked_right": {name: summary(values) for name, values in right.items()},
        "win_rate_of_the_best": {name: summary(values) for name, values in wins.items()},
        "flow_minus": {
            name: {
                "ranked_right": summary(right["flow"] - right[name]),
                **({"win_rate": summary(wins["flow"] - wins[name])} if wins else {}),
            }
            for name in judges
            if name != "flow"
        },
    }
    OUT.write_text(json.dumps(result | about("flow_probe.py"), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def summary(values: "np.ndarray") -> dict[str, float]:
    error = float(values.std(ddof=1) / len(values) ** 0.5)
    return {"mean": round(float(values.mean()), 4), "standard_error": round(error, 4)}


if __name__ == "__main__":
    main()
