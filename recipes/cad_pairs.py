"""The data of recipes/experiment-cad.yaml: edited IMDb reviews (Kaushik et al. 2020) split into parts that
never meet.

    python recipes/cad_pairs.py path/to/data/cad runs/experiment-cad/source

Of two rows of one batch_id the first is the review as it was written, the second its edit, as the authors'
own files of originals (sentiment/orig) show. Everything is split by a hash of the batch_id: `half` says
which.

- train, first half:
  - edits.jsonl: negative reviews (rejected), their human edits (edited) and, as CAD has no preferred response
    of its own, an unedited positive review of about the same length (chosen)
  - openings.jsonl: prompts, the first eight words of each unedited review and of its middle sentence
- train, second half:
  - judge.jsonl: texts and labels that only the judge of recipes/tfidf_judge.py learns from
- dev, first half:
  - choose-*.jsonl: edits and openings to choose settings by
- dev, second half:
  - report-*.jsonl: edits and openings to report, by which no setting of the experiment is chosen
"""

import csv
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from redline.data.files import write_jsonl

WORDS = 8


class Review(NamedTuple):
    """A review, its human edit, and whether the review (not the edit) is positive."""

    id: str
    text: str
    edit: str
    positive: bool


def reviews(path: Path) -> list[Review]:
    """The pairs of one of CAD's files."""
    found: dict[str, list[dict[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found.setdefault(row["batch_id"], []).append(row)
    return [
        Review(
            name,
            *(re.sub(r"(<br />|\s)+", " ", row["Text"]).strip() for row in rows),
            rows[0]["Sentiment"] == "Positive",
        )
        for name, rows in found.items()
    ]


def first_half(name: str) -> bool:
    """Which of two halves an id belongs to: the first byte of its SHA-256 is below 128, or not."""
    return hashlib.sha256(name.encode()).digest()[0] < 128


def edits(found: list[Review]) -> Iterator[dict[str, str]]:
    """Negative reviews with their edits, each beside an unedited positive one: both sorted by length, rank
    for rank."""
    negative = sorted(
        (review for review in found if not review.positive), key=lambda review: len(review.text)
    )
    positive = sorted((review for review in found if review.positive), key=lambda review: len(review.text))
    for rank, review in enumerate(negative):
        other = positive[rank * len(positive) // len(negative)]
        yield {
            "id": review.id,
            "prompt": "",
            "rejected": review.text,
            "edited": review.edit,
            "chosen": other.text,
            "chosen_id": other.id,
            "editor": "people",
        }


def openings(found: list[Review]) -> Iterator[dict[str, str]]:
    """First the openings of all reviews, then those of their middle sentences, where these are long
    enough."""
    for name in ("start", "middle"):
        for review in found:
            sentences = re.split(r"(?<=[.!?])\s+", review.text)
            words = (review.text if name == "start" else sentences[len(sentences) // 2]).split()
            if len(words) > WORDS and (name == "start" or len(sentences) > 1):
                yield {"id": f"{review.id}-{name}", "prompt": " ".join(words[:WORDS])}


def texts(found: list[Review]) -> Iterator[dict[str, str | int]]:
    """Every review and every edit with its label, 1 for positive."""
    for review in found:
        yield {"id": f"{review.id}-original", "text": review.text, "label": int(review.positive)}
        yield {"id": f"{review.id}-edit", "text": review.edit, "label": int(not review.positive)}


def main(data: str, out: str) -> None:
    train, dev = (reviews(Path(data) / f"{split}_paired.tsv") for split in ("train", "dev"))
    parts = {
        "": [review for review in train if first_half(review.id)],
        "choose-": [review for review in dev if first_half(review.id)],
        "report-": [review for review in dev if not first_half(review.id)],
    }
    for name, found in parts.items():
        pairs = list(edits(found))
        apart = sum(
            abs(len(pair["chosen"]) - len(pair["rejected"])) / len(pair["rejected"]) for pair in pairs
        ) / len(pairs)
        count = write_jsonl(f"{out}/{name}openings.jsonl", openings(found))
        print(
            f"{name}edits.jsonl: {write_jsonl(f'{out}/{name}edits.jsonl', pairs)} edits, chosen and "
            f"rejected differ by {apart:.1%} in length; {name}openings.jsonl: {count}"
        )
    judge = [review for review in train if not first_half(review.id)]
    print(
        f"judge.jsonl: {write_jsonl(f'{out}/judge.jsonl', texts(judge))} texts; "
        f"judge-test.jsonl: {write_jsonl(f'{out}/judge-test.jsonl', texts(parts['choose-']))}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
