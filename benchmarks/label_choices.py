"""How labels are best made: `label.fill` and `label.whole` against what people marked, and as what a reward
model learns from.

    REDLINE_DATA=../shared/data python benchmarks/label_choices.py [--marks] [--seeds 3]

writes benchmarks/results/label_choices.json; finished trainings are kept in
benchmarks/results/label_choices.jsonl and not done again. `--marks` leaves the trainings out.

**Gold tags** (MLQE-PE): OK or BAD for each machine-translated word; the share of words whose label agrees.

**Marked spans** (DeFacto): whoever corrected a summary also wrote what to do, such as 'Replace the
information about fourth day with ...'. Where that names a stretch of the summary word for word, it is a span
that the writer marked. Coverage: the share of the marked words that are labelled bad. Precision: the share
of the words labelled bad that touch or lie between marked spans, over summaries whose instructions all name
such a stretch.

**Rewards** (CAD, DeFacto): a token reward model trained on edits labelled in each way, its AUC (added against
removed tokens) and fault AUC (kept against removed tokens of rejected sides) on held-out edits labelled
without filling, and on the same edits labelled with it: neither way is judged by its own labels alone.
Settings as in reward_quality.py, soft labels.
"""

import argparse
import json
import os
import random
import re
import statistics
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import about

HERE = Path(__file__).parent
LINES, RESULT = HERE / "results" / "label_choices.jsonl", HERE / "results" / "label_choices.json"
FILLS = [0, 1, 2, 3]
TRAINED_FILLS = [0, 2]
SIZES = {"cad": 100, "defacto": 100}
MARK = re.compile(
    r"(?:replace|remove|modify|change)\s+the\s+information\s+about\s+(?:the\s+)?(.+?)"
    r"\s*(?:\s(?:with|from|in|to)\s+the\s|\.?$)",
    re.IGNORECASE,
)


def gold(data: Path) -> list[dict[str, Any]]:
    """Agreement with the gold tags of MLQE-PE, for each filling."""
    from redline.label.settings import Label
    from redline.label.tokens import labelled_words

    rows = []
    for pair in ("et-en", "ro-en"):
        with tarfile.open(data / "mlqe-pe" / f"{pair}-dev.tar.gz") as tar:
            columns = []
            for name in ("mt", "pe", "tags"):
                member = tar.extractfile(f"{pair}-dev/dev.{name}")
                assert member is not None  # a file, no folder
                columns.append(member.read().decode().splitlines())
            translated, post_edited, tags = columns
        for fill in FILLS:
            right = total = 0
            for before, after, gold_tags in zip(translated, post_edited, tags, strict=True):
                labels = labelled_words(before, after, Label(fill=fill)).rejected_labels
                bad = [tag == "BAD" for tag in gold_tags.split()[1::2]]
                right += sum(bool(label) == tag for label, tag in zip(labels, bad, strict=True))
                total += len(labels)
            rows.append({"data": pair, "fill": fill, "words": total, "agreement": right / total})
    return rows


def marked(candidate: str, instructions: list[str]) -> list[tuple[int, int]] | None:
    """The spans of a summary that its writer marked; None where an instruction names no stretch of it."""
    spans = []
    for instruction in instructions:
        if instruction.lower().startswith("add"):
            continue
        match = MARK.match(instruction.strip())
        start = candidate.lower().find(match[1].lower().strip(". ")) if match else -1
        if match is None or start < 0:
            return None
        spans.append((start, start + len(match[1].strip(". "))))
    return spans or None


def spans(data: Path, tokenizer: Any) -> list[dict[str, Any]]:
    """Coverage and precision against the spans that writers marked, in words."""
    from redline.data.records import Edit
    from redline.data.tokenization import encode_response
    from redline.data.units import unit_spans
    from redline.label.settings import Label
    from redline.label.stage import label_edits

    summaries = []
    for name in ("train", "val"):
        for line in (data / "defacto" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            edited = row["feedback"]["summary"]
            found = marked(row["candidate"], row["feedback"]["instruction_list"] or [])
            if row["has_error"] and edited and found:
                summaries.append((row["candidate"], edited, found))
    rows = []
    for whole in ("character", "word"):
        for fill in FILLS:
            covered = of_marks = inside = labelled = 0
            for candidate, edited, found in summaries:
                edit = Edit(id="", prompt="", rejected=candidate, edited=edited)
                how = Label.model_validate({"fill": fill, "whole": whole})
                (record,) = label_edits([edit], tokenizer, how)
                offsets = encode_response(tokenizer, "", candidate).offsets
                bad = {
                    place
                    for (start, end), label in zip(offsets, record.rejected_labels, strict=True)
                    for place in range(start, end)
                    if label
                }
                for start, end in unit_spans(candidate):
                    is_marked = any(start < last and first < end for first, last in found)
                    is_bad = any(place in bad for place in range(start, end))
                    of_marks += is_marked
                    covered += is_marked and is_bad
                    labelled += is_bad
                    inside += is_marked and is_bad
            rows.append(
                {
                    "whole": whole,
                    "fill": fill,
                    "summaries": len(summaries),
                    "coverage": covered / of_marks,
                    "precision": inside / labelled,
                }
            )
    return rows


def train(name: str, fill: int, seed: int, sets: dict[int, tuple[list[Any], list[Any]]]) -> dict[str, Any]:
    """One reward model on edits labelled with this filling, measured on held-out edits labelled both ways."""
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    from redline.engine.settings import Adapt, Model
    from redline.reward.examples import examples
    from redline.reward.model import new_reward_model
    from redline.reward.settings import Reward
    from redline.reward.train import RewardTrainer
    from reward_quality import RESPONSE

    ids = [record.id for record in sets[0][0]]
    part = set(random.Random(seed).sample(ids, min(SIZES[name], len(ids))))
    edits = [record for record in sets[fill][0] if record.id in part]
    held = max(10, len(edits) // 10)
    set_seed(seed)
    recipe = Reward(loss="soft", depth=20, adapt=Adapt(train_layers=6), epochs=3, batch_size=8)
    reward, _ = new_reward_model(recipe, Model())
    records = [edits[held:], edits[:held], *(sets[other][1] for other in TRAINED_FILLS)]
    parts = [examples(some, reward.tokenizer, recipe, RESPONSE) for some in records]
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(recipe, reward, Accelerator(), Path(folder), seed)
        trainer.lay_out([example for some in parts for example in some])
        trainer.train(parts[0], parts[1])
        figures = [trainer.evaluate(some) for some in parts[2:]]
    line: dict[str, Any] = {"data": name, "fill": fill, "seed": seed, "edits": len(edits)}
    for other, found in zip(TRAINED_FILLS, figures, strict=True):
        line[f"labels_with_fill_{other}"] = {"auc": found.auc, "fault_auc": found.fault_auc}
    return line


def finished() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


def trainings(data: Path, seeds: int, tokenizer: Any) -> None:
    """Every training that is missing, one line each."""
    from redline.label.settings import Label
    from reward_quality import labels, sources

    done = {(line["data"], line["fill"], line["seed"]) for line in finished()}
    with tempfile.TemporaryDirectory() as scratch:
        found = sources(data, Path(scratch))
        for seed in range(seeds):
            for name in SIZES:
                if all((name, fill, seed) in done for fill in TRAINED_FILLS):
                    continue
                train_source, test_source = found[name]
                sets = {}
                for fill in TRAINED_FILLS:
                    filled = Label(fill=fill)
                    train_labels = labels(train_source, tokenizer, filled)
                    sets[fill] = (train_labels, labels(test_source, tokenizer, filled))
                for fill in TRAINED_FILLS:
                    if (name, fill, seed) not in done:
                        line = train(name, fill, seed, sets)
                        print(json.dumps(line), flush=True)
                        with LINES.open("a", encoding="utf-8") as out:
                            out.write(json.dumps(line) + "\n")


def means() -> Iterator[dict[str, Any]]:
    """The trainings, a row for each data set and filling: means over the seeds."""
    lines = finished()
    for name in SIZES:
        for fill in TRAINED_FILLS:
            runs = [line for line in lines if (line["data"], line["fill"]) == (name, fill)]
            if not runs:
                continue
            row: dict[str, Any] = {"data": name, "fill": fill, "seeds": len(runs), "edits": runs[0]["edits"]}
            for other in TRAINED_FILLS:
                key = f"labels_with_fill_{other}"
                row[key] = {
                    figure: statistics.mean(run[key][figure] for run in runs)
                    for figure in ("auc", "fault_auc")
                }
            yield row


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--seeds", type=int, default=3)
    cli.add_argument("--marks", action="store_true", help="leave the trainings out")
    arguments = cli.parse_args()
    from redline.data.tokenization import load_tokenizer
    from redline.embedded import EMBEDDED

    data = Path(os.environ.get("REDLINE_DATA", HERE.parent.parent / "shared" / "data"))
    tokenizer = load_tokenizer(EMBEDDED)
    if not arguments.marks:
        trainings(data, arguments.seeds, tokenizer)
    result = {
        "gold_tags": gold(data),
        "marked_spans": spans(data, tokenizer),
        "rewards": list(means()),
        **about("label_choices.py"),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("gold_tags", "marked_spans", "rewards")}, indent=1))


if __name__ == "__main__":
    main()
