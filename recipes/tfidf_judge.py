"""A judge apart from VADER and from the reward models: TF-IDF and logistic regression on texts that nothing
else learns from.

    python recipes/tfidf_judge.py runs/experiment-cad/source

trains it and prints its accuracy on judge-test.jsonl.

`cad` and `paradetox` are the judges of recipes/experiment-*.yaml; each learns from the judge.jsonl in its
experiment's source folder ($CAD_SOURCE, $PARADETOX_SOURCE): texts, label 1 where they are good. Texts are cut
into pieces of ``PIECE`` words, about the length of what is judged. The response alone is judged; the one that
is more surely good wins.
"""

import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

PIECE = 25  # words
PENALTY = 1e-4  # of the squared weights


def features(text: str) -> list[str]:
    """Words and pairs of words, in lower case."""
    words = re.findall(r"[a-z']+|[!?]", text.lower())
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def pieces(text: str) -> list[str]:
    words = text.split()
    return [
        " ".join(words[start : start + PIECE]) for start in range(0, max(len(words) - PIECE // 2, 1), PIECE)
    ]


class Classifier:
    """Logistic regression on L2-normalised TF-IDF (1 + log tf, features of at least two texts)."""

    def __init__(self, texts: Sequence[str], labels: Sequence[int]):
        seen = Counter(feature for text in texts for feature in set(features(text)))
        self.places = {
            feature: place
            for place, feature in enumerate(sorted(name for name, count in seen.items() if count > 1))
        }
        self.idf = torch.tensor(
            [math.log((1 + len(texts)) / (1 + seen[feature])) + 1 for feature in self.places]
        )
        self.weights, self.bias = (
            torch.zeros(len(self.places), requires_grad=True),
            torch.zeros(1, requires_grad=True),
        )
        table, wanted = self.table(texts), torch.tensor(labels, dtype=torch.float32)
        optimizer = torch.optim.LBFGS([self.weights, self.bias], max_iter=60, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            found = torch.nn.functional.binary_cross_entropy_with_logits(self.odds(table), wanted)
            found = found + PENALTY * self.weights.square().sum()
            found.backward()
            return found

        optimizer.step(loss)

    def table(self, texts: Sequence[str]) -> tuple[int, Tensor, Tensor, Tensor]:
        """How many texts, and for each feature that one has: the text's row, the feature's place, its
        value."""
        rows, places, values = [], [], []
        for row, text in enumerate(texts):
            counts = Counter(self.places[feature] for feature in features(text) if feature in self.places)
            found = {place: (1 + math.log(count)) * float(self.idf[place]) for place, count in counts.items()}
            norm = math.sqrt(sum(value * value for value in found.values())) or 1.0
            rows += [row] * len(found)
            places += list(found)
            values += [value / norm for value in found.values()]
        return (
            len(texts),
            torch.tensor(rows, dtype=torch.long),
            torch.tensor(places, dtype=torch.long),
            torch.tensor(values),
        )

    def odds(self, table: tuple[int, Tensor, Tensor, Tensor]) -> Tensor:
        """Log odds that each text is good."""
        count, rows, places, values = table
        return torch.zeros(count).index_add(0, rows, values * self.weights[places]) + self.bias

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> list[float]:
        return self.odds(self.table(texts)).tolist()


@cache
def trained(source: str) -> Classifier:
    found = [(piece, label) for text, label in read(Path(source) / "judge.jsonl") for piece in pieces(text)]
    return Classifier([text for text, _ in found], [label for _, label in found])


def read(path: Path) -> Iterable[tuple[str, int]]:
    with path.open(encoding="utf-8") as file:
        return [(row["text"], row["label"]) for row in map(json.loads, file)]


def prefer(source: str, a: Sequence[str], b: Sequence[str]) -> list[float]:
    judge = trained(source)
    return [0.5 + 0.5 * ((x > y) - (x < y)) for x, y in zip(judge(a), judge(b), strict=True)]


def cad(prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> list[float]:
    """Which response is the more positive film review."""
    return prefer(os.environ.get("CAD_SOURCE", "runs/experiment-cad/source"), a, b)


def paradetox(prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> list[float]:
    """Which response is the less toxic."""
    return prefer(os.environ.get("PARADETOX_SOURCE", "runs/experiment-paradetox/source"), a, b)


if __name__ == "__main__":
    judge, test = trained(sys.argv[1]), read(Path(sys.argv[1]) / "judge-test.jsonl")
    for name, cases in (
        ("whole texts", test),
        (f"pieces of {PIECE} words", [(piece, label) for text, label in test for piece in pieces(text)]),
    ):
        right = [
            (odds > 0) == bool(label)
            for odds, (_, label) in zip(judge([text for text, _ in cases]), cases, strict=True)
        ]
        print(f"{name}: accuracy {sum(right) / len(right):.3f} on {len(right)}")
