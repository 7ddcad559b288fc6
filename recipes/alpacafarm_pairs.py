"""AlpacaFarm's human preferences (the Hub data set tatsu-lab/alpaca_farm) as pairs.

python recipes/alpacafarm_pairs.py pairs.jsonl
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from redline.data.files import write_jsonl

WITH_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
WITHOUT = "### Instruction:\n{instruction}\n\n### Response:\n"


def pairs(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Rows with instruction, input, output_1, output_2 and preference (1 or 2) as pairs."""
    for number, row in enumerate(rows):
        chosen, rejected = ("output_1", "output_2") if row["preference"] == 1 else ("output_2", "output_1")
        template = WITH_INPUT if row["input"] else WITHOUT
        yield {
            "id": f"alpacafarm-{number}",
            "prompt": template.format(**row),
            "chosen": row[chosen],
            "rejected": row[rejected],
        }


if __name__ == "__main__":
    from datasets import load_dataset

    print(
        write_jsonl(
            sys.argv[1],
            pairs(load_dataset("tatsu-lab/alpaca_farm", "alpaca_human_preference", split="preference")),
        )
    )
