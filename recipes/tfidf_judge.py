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
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

PIECE = 25  # words
PENALTY = 1e-4  # of the squared weights, beside the mean loss of a text
WORD = r"[a-z']+|[!?]"


def pieces(text: str) -> list[str]:
    """A text in pieces of ``PIECE`` words; a last piece of less than half as many is left out."""
    words = text.split()
    starts = range(0, max(len(words) - PIECE // 2, 1), PIECE)
    return [" ".join(words[start : start + PIECE]) for start in starts]


def train(texts: Sequence[str], labels: Sequence[int]) -> Pipeline:
    """Logistic regression on TF-IDF of words and pairs of words that at least two texts have."""
    features = TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    strength = 1 / (2 * PENALTY * len(texts))
    classifier = make_pipeline(features, LogisticRegression(C=strength, max_iter=1000))
    return classifier.fit(texts, labels)


@cache
def trained(source: str) -> Pipeline:
    """The judge of an experiment's source folder, trained once in a process."""
    cases = cut(read(Path(source) / "judge.jsonl"))
    return train([text for text, _ in cases], [label for _, label in cases])


def read(path: Path) -> list[tuple[str, int]]:
    with path.open(encoding="utf-8") as file:
        return [(row["text"], row["label"]) for row in map(json.loads, file)]


def cut(cases: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The same texts in pieces, each with its text's label."""
    return [(piece, label) for text, label in cases for piece in pieces(text)]


def prefer(source: str, a: Sequence[str], b: Sequence[str]) -> list[float]:
    """For each pair 1 where ``a`` is more surely good, 0 where ``b`` is, 0.5 where both are alike."""
    judge = trained(source)
    odds_a, odds_b = judge.decision_function(a), judge.decision_function(b)
    return [
        0.5 + 0.5 * float((x > y) - (x < y)) for x, y in zip(odds_a.tolist(), odds_b.tolist(), strict=True)
    ]


def cad(prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> list[float]:
    """Which response is the more positive film review."""
    return prefer(os.environ.get("CAD_SOURCE", "runs/experiment-cad/source"), a, b)


def paradetox(prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> list[float]:
    """Which response is the less toxic."""
    return prefer(os.environ.get("PARADETOX_SOURCE", "runs/experiment-paradetox/source"), a, b)


def main(source: str) -> None:
    test = read(Path(source) / "judge-test.jsonl")
    for name, cases in (("whole texts", test), (f"pieces of {PIECE} words", cut(test))):
        accuracy = trained(source).score([text for text, _ in cases], [label for _, label in cases])
        print(f"{name}: accuracy {accuracy:.3f} on {len(cases)}")


if __name__ == "__main__":
    main(sys.argv[1])
