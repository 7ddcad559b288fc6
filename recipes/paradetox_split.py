"""The data of recipes/experiment-paradetox.yaml: toxic comments and their polite rewrites (Logacheva et al. 2022), split.

    python recipes/paradetox_split.py path/to/data/paradetox runs/experiment-paradetox/source

By the first byte of a comment's SHA-256: 0-101 (two fifths) edits.jsonl to learn from; 102-114 choose.jsonl and 115-127
report.jsonl, held out, to choose settings by and to report; 128-255 (half) judge.jsonl, which only the judge of
recipes/tfidf_judge.py learns from. Offensive text inside.

The comments come in lower case with a space before every mark and inside contractions (`they don 't .`), most rewrites do not. Both
are put into one form, so that rewards and judges learn what people changed and not how it is typed.
"""

import csv
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from redline.data.files import write_jsonl

PARTS = {"edits": range(102), "choose": range(102, 115), "report": range(115, 128), "judge": range(128, 256)}
SPACES = re.compile(r"\s+(?=[.,;:!?)]|'\s?(?:t|s|m|d|re|ve|ll)\b)|(?<=')\s+(?=(?:t|s|m|d|re|ve|ll)\b)")


def plain(text: str) -> str:
    """In lower case, without spaces before marks and inside contractions."""
    return SPACES.sub("", text.lower().strip())


def rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """The first byte of the comment's hash, the comment, and its first rewrite; pairs that differ in their form alone left out."""
    seen = set()
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            toxic, polite = plain(row["toxic"]), plain(row["neutral1"] or "")
            if row["toxic"] not in seen and polite and toxic != polite:
                seen.add(row["toxic"])
                yield hashlib.sha256(row["toxic"].encode()).digest()[0], toxic, polite


def main(data: str, out: str) -> None:
    found = list(rows(Path(data) / "train.tsv"))
    for name, bytes_ in PARTS.items():
        part = [(toxic, polite) for byte, toxic, polite in found if byte in bytes_]
        edits = [{"id": f"{name}-{number}", "prompt": f"Comment: {toxic}\nPolite:", "rejected": f" {toxic}", "edited": f" {polite}",
                  "editor": "people"} for number, (toxic, polite) in enumerate(part)]
        texts = [{"text": text, "label": label} for pair in part for label, text in enumerate(pair)]
        if name == "judge":
            print(f"judge.jsonl: {write_jsonl(f'{out}/judge.jsonl', texts)} texts")
        else:
            print(f"{name}.jsonl: {write_jsonl(f'{out}/{name}.jsonl', edits)} edits")
        if name == "choose":
            write_jsonl(f"{out}/judge-test.jsonl", texts)


if __name__ == "__main__":
    main(*sys.argv[1:])
