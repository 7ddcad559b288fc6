"""Labels of 20,000 (or --pairs) edits of 512 tokens, against the least any labeller must do: tokenization
and bare RapidFuzz opcodes.

    REDLINE_DATA=../shared/data python benchmarks/labels.py [--passes 3] [--pairs 20000]

writes benchmarks/results/labels.json.

The edits are counterfactually augmented reviews (real human edits), joined until they hold 512 SmolLM2
tokens. All ways get the same texts on one thread, taking turns after every 640 edits, so that whatever else
the machine does falls on all alike; time is processor time. Ratios are medians of the passes over all edits.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from rapidfuzz.distance import Levenshtein

from common import about
from redline.data.alignment import align, labels
from redline.data.check import Rejects
from redline.data.files import write_json
from redline.data.read import read
from redline.data.records import Edit, as_text
from redline.data.settings import Source
from redline.data.tokenization import load_tokenizer
from redline.data.units import units
from redline.label.settings import Label
from redline.label.stage import BATCH, label_edits

TOKENS, TURN = 512, 640


def distinct_edits(folder: Path, tokenizer: Any) -> list[tuple[str, str]]:
    """Reviews joined until both sides hold 512 tokens, cropped there."""
    source = Source(
        path=str(folder / "cad" / "train_paired.tsv"),
        replace={"<br />": " "},
        columns={"id": "batch_id", "side": "Sentiment", "text": "Text"},
        sides={"Negative": "rejected", "Positive": "edited"},
    )
    found: list[tuple[str, str]] = []
    joined: tuple[list[int], list[int]] = ([], [])
    for edit in read(source, Edit, Rejects()):
        for ids, side in zip(joined, (edit.rejected, edit.edited), strict=True):
            ids += tokenizer(as_text(side) + " ", add_special_tokens=False)["input_ids"]
        if min(map(len, joined)) >= TOKENS:
            found.append(tuple(tokenizer.decode(ids[:TOKENS]) for ids in joined))
            joined = ([], [])
    return found


def bare(pairs: list[tuple[str, str]], tokenizer: Any) -> Iterator[object]:
    """The least that must be done: token ids, and a shortest script of RapidFuzz's choice."""
    for place in range(0, len(pairs), BATCH):
        texts = [text for pair in pairs[place : place + BATCH] for text in pair]
        ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        yield from (
            Levenshtein.opcodes(one, other).as_list() for one, other in zip(ids[::2], ids[1::2], strict=True)
        )


def seconds(work: Iterator[object], expected: int) -> float:
    start = time.process_time()
    assert sum(1 for _ in work) == expected
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "labels.json")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=20_000)
    options = parser.parse_args()
    tokenizer = load_tokenizer("smollm2-135m")
    distinct = distinct_edits(Path(os.environ.get("REDLINE_DATA", "../shared/data")), tokenizer)
    pairs = [distinct[place % len(distinct)] for place in range(options.pairs)]

    edits = [Edit(id=str(k), prompt="", rejected=one, edited=other) for k, (one, other) in enumerate(pairs)]
    before, passes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(options.passes):
        times = {"bare": 0.0, "token": 0.0, "word": 0.0}
        passes.append(times)
        for place in range(0, options.pairs, TURN):
            turn = slice(place, place + TURN)
            size = len(pairs[turn])
            times["bare"] += seconds(bare(pairs[turn], tokenizer), size)
            times["token"] += seconds(label_edits(edits[turn], tokenizer), size)
            times["word"] += seconds(label_edits(edits[turn], tokenizer, Label(unit="word")), size)
            print(f"{place + size}: {times}", file=sys.stderr)
    ratios = {unit: [times[unit] / times["bare"] for times in passes] for unit in ("token", "word")}
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    ids = [[tokenizer(text, add_special_tokens=False)["input_ids"] for text in pair] for pair in distinct]
    aligned = [labels(align(one, other)) for one, other in ids]
    write_json(
        options.out,
        {
            "pairs": options.pairs,
            "distinct": len(distinct),
            "tokens_a_side": statistics.mean(len(side) for pair in ids for side in pair),
            "changed_tokens": statistics.mean(label == 1 for _, edited in aligned for label in edited),
            "words_a_side": statistics.mean(len(units(text)) for pair in distinct for text in pair),
            "passes": passes,
            "ratios": ratios,
            "medians": {f"ratio_{unit}": statistics.median(found) for unit, found in ratios.items()}
            | {
                f"{unit}_pairs_a_second": statistics.median(options.pairs / times[unit] for times in passes)
                for unit in passes[0]
            },
            "memory_grown_mib": grown,
            **about("labels.py"),
        },
    )
    print(json.dumps(json.loads(options.out.read_text()), indent=1))


if __name__ == "__main__":
    main()
