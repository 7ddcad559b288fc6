"""Sample the responses that the quickstart's edits were made from: three continuations of each opening.

    python recipes/quickstart/sample.py OUT.jsonl

Raw continuations (no chat template) by the embedded model, temperature 0.7, at most 32 tokens, seeds 1, 2 and
3. An editor then read the three, kept the one with most to correct that could still be mended by a small
edit, and edited it by hand.
"""

import json
import sys
from pathlib import Path

from redline.data.files import write_jsonl
from redline.data.tokenization import load_tokenizer
from redline.engine.models import eos_ids, load_causal_lm
from redline.engine.settings import Model
from redline.sampling.local import InProcess
from redline.sampling.protocol import CurrentPolicy, Request
from redline.sampling.settings import Sampling


def main(out: str) -> None:
    lines = (Path(__file__).parent / "openings.jsonl").read_text(encoding="utf-8").splitlines()
    openings = [json.loads(line) for line in lines]
    lm, tokenizer = load_causal_lm(Model()), load_tokenizer(Model().name)
    sampling, stop = Sampling(max_new_tokens=32, temperature=0.7), eos_ids(lm, tokenizer, [])
    sampler = InProcess()
    sampler.sync(CurrentPolicy(lm))
    records = []
    for start in range(0, len(openings), 44):
        batch = openings[start : start + 44]
        prompts = [tokenizer(row["opening"])["input_ids"] for row in batch]
        drawn = [
            sampler.sample(prompts, 1, Request(sampling, stop, seed=1000 * seed + start)).ids
            for seed in (1, 2, 3)
        ]
        records += [
            {
                "id": row["id"],
                "prompt": row["opening"],
                "samples": [
                    tokenizer.decode(responses[index], skip_special_tokens=True) for responses in drawn
                ],
            }
            for index, row in enumerate(batch)
        ]
        print(f"{len(records)} of {len(openings)}", file=sys.stderr)
    write_jsonl(out, records)


if __name__ == "__main__":
    main(sys.argv[1])
