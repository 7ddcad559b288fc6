"""The data of recipes/experiment-paradetox.yaml: toxic comments and their polite rewrites (Logacheva et al.
2022), split.

    python recipes/paradetox_split.py path/to/data/paradetox runs/experiment-paradetox/source

By the first byte of a comment's SHA-256: 0-101 (two fifths) edits.jsonl to learn from, but those after the
3,000th, held out, are report-edits.jsonl; 102-127 (a tenth) choose-edits.jsonl, to choose by; 128-255 (half)
judge.jsonl, which only the judge of recipes/tfidf_judge.py learns from. Beside the edits lie openings of
their comments: the first four words, prompts to go on from. Offensive text inside.

The edits have no prompt, least of all the comment: a reward model that sees it can take for good whatever the
comment has not, and then pays a policy for leaving it. The comments come in lower case with a space before
every mark and inside contractions (`they don 't .`), most rewrites do not; both are put into one form, so
that rewards and judges learn what people changed and not how it is typed.
"""

import csv
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from redline.data.files import write_jsonl

TO_LEARN, TO_CHOOSE = range(102), range(102, 128)
LEARNED = 3000
WORDS = 4
SPACES = re.compile(r"\s+(?=[.,;:!?)]|'\s?(?:t|s|m|d|re|ve|ll)\b)|(?<=')\s+(?=(?:t|s|m|d|re|ve|ll)\b)")


def plain(text: str) -> str:
    """In lower case, without spaces before marks and inside contractions."""
    return SPACES.sub("", text.lower().strip())


def rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """The first byte of the comment's hash, the comment, and its first rewrite; pairs that differ in their
    form alone left out."""
    seen = set()
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            toxic, polite = plain(row["toxic"]), plain(row["neutral1"] or "")
            if row["toxic"] not in seen and polite and toxic != polite:
                seen.add(row["toxic"])
                yield hashlib.sha256(row["toxic"].encode()).digest()[0], toxic, polite


def openings(found: list[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """The first words of the comments that have more."""
    for number, (toxic, _) in enumerate(found):
        if len(words := toxic.split()) > WORDS:
            yield {"id": str(number), "prompt": " ".join(words[:WORDS])}


def texts(found: list[tuple[str, str]]) -> Iterator[dict[str, str | int]]:
    """Every comment and its rewrite with a label, 1 for polite."""
    return ({"text": text, "label": label} for pair in found for label, text in enumerate(pair))


def main(data: str, out: str) -> None:
    found = list(rows(Path(data) / "train.tsv"))
    learn, choose, judge = (
        [(toxic, polite) for byte, toxic, polite in found if byte in numbers]
        for numbers in (TO_LEARN, TO_CHOOSE, range(128, 256))
    )
    for name, part in {"": learn[:LEARNED], "choose-": choose, "report-": learn[LEARNED:]}.items():
        edits = [
            {"id": str(number), "rejected": toxic, "edited": polite, "editor": "people"}
            for number, (toxic, polite) in enumerate(part)
        ]
        print(
            f"{name}edits.jsonl: {write_jsonl(f'{out}/{name}edits.jsonl', edits)} edits; "
            f"{name}openings.jsonl: {write_jsonl(f'{out}/{name}openings.jsonl', openings(part))}"
        )
    write_jsonl(f"{out}/judge-test.jsonl", texts(choose))
    print(f"judge.jsonl: {write_jsonl(f'{out}/judge.jsonl', texts(judge))} texts")


if __name__ == "__main__":
    main(*sys.argv[1:])
