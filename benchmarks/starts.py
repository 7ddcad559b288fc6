"""The quickstart from the starts that people have: QLoRA, a 4-bit checkpoint that Redline did not write, and
the LoRA adapter of a supervised fine-tuning.

    python benchmarks/starts.py                   # what results/starts.json does not have yet
    python benchmarks/starts.py --again adapter   # this start once more
    python benchmarks/starts.py --table           # the table of docs/models.md, from the results

Each start is recipes/quickstart.yaml, shortened by ``CHANGES``, in a folder of its own under runs/starts.
The start "model" is the model itself, shortened in the same way, to compare with. A stopped run goes on. The
4-bit checkpoint and the adapter are made by plain Transformers, bitsandbytes and TRL.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import about, filled, into_page, table

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results" / "starts.json"
PAGE = ROOT / "docs" / "models.md"
RUNS = ROOT / "runs" / "starts"
RECIPE = Path("recipes") / "quickstart.yaml"
CHANGES = ("reward.epochs=1", "policy.updates=8", "seed=0")  # of 2 epochs and 40 updates, to save time
SFT_STEPS = 40


@dataclass(frozen=True)
class Start:
    """A start by its name in the table. ``make`` writes the model that the run begins with and returns its
    folder; without it the run begins with the embedded model. ``changes`` are those of the recipe."""

    name: str
    what: str
    make: Callable[[Path], None] | None = None
    changes: tuple[str, ...] = ()


def four_bit_checkpoint(folder: Path) -> None:
    """The embedded model in 4 bits, as others publish such checkpoints."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from redline.embedded import EMBEDDED, resolve

    base = resolve(EMBEDDED)
    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    lm = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=how, dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    lm.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def sft_adapter(folder: Path) -> None:
    """A LoRA adapter by TRL's trainer on the edited texts of the quickstart. Only the adapter is saved: no
    weights of the model, no tokenizer."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from redline.embedded import EMBEDDED, resolve

    base = resolve(EMBEDDED)
    lines = (ROOT / "recipes" / "quickstart" / "edits.jsonl").read_text(encoding="utf-8").splitlines()
    edits = [json.loads(line) for line in lines]
    rows = [{"prompt": edit["prompt"], "completion": edit["edited"]} for edit in edits]
    how = SFTConfig(
        output_dir=str(folder.with_name("sft-work")),
        max_steps=SFT_STEPS,
        per_device_train_batch_size=8,
        learning_rate=1e-4,
        bf16=False,
        use_cpu=not torch.accelerator.is_available(),
        report_to="none",
        save_strategy="no",
        seed=0,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(base),
        args=how,
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.model.save_pretrained(folder)  # type: ignore[union-attr,operator]  # a PEFT model


STARTS = [
    Start("qlora", "`model.load_in_4bit: true` (QLoRA)", changes=("model.load_in_4bit=true",)),
    Start("checkpoint", "a 4-bit checkpoint that others made", make=four_bit_checkpoint),
    Start("adapter", "the LoRA adapter of an SFT", make=sft_adapter),
    Start("model", "the model itself, to compare"),
]


def run(start: Start) -> dict[str, Any]:
    """Take a start through the quickstart to the end; returns its line of the results."""
    from reviews_cad import figures

    changes = [*CHANGES, *start.changes]
    if start.make is not None:
        folder = RUNS / f"{start.name}-model"
        if not folder.exists():
            aside = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(aside, ignore_errors=True)
            start.make(aside)
            aside.rename(folder)
        changes.append(f"model.name={folder.relative_to(ROOT)}")
    out = (RUNS / start.name).relative_to(ROOT)
    words = ["run", str(RECIPE), *changes, "--out", str(out)]
    subprocess.run([sys.executable, "-m", "redline.cli", *words], check=True, cwd=ROOT)
    described = about("starts.py")
    described["versions"]["bitsandbytes"] = version("bitsandbytes")
    return {
        "start": start.name,
        "changes": list(CHANGES),
        "run": " ".join(["redline", *words]),
        **figures(ROOT / out),
        **described,
    }


def written(lines: list[dict[str, Any]]) -> str:
    """The table of docs/models.md, in the order of ``STARTS``; empty where no start is done."""
    if not lines:
        return ""
    by_name = {line["start"]: line for line in lines}
    rows = [_row(start, by_name[start.name]) for start in STARTS if start.name in by_name]
    first = lines[0]
    versions = first["versions"]
    head = filled(
        "What came of some of these starts ([`benchmarks/starts.py`](../benchmarks/starts.py)): "
        f"`recipes/quickstart.yaml` end to end with `{' '.join(first['changes'])}`, Transformers "
        f"{versions['transformers']}, PEFT {versions['peft']}, bitsandbytes {versions['bitsandbytes']}. The "
        "win rate is over the start itself, by VADER on 140 held-out openings."
    )
    names = ["start", "reward AUC", "win rate", "95 %", "KL, nats"]
    return f"{head}\n{table(names, rows)}"


def _row(start: Start, line: dict[str, Any]) -> list[str]:
    low, high = line["ci95"]
    return [
        start.what,
        f"{line['reward_model_on_test_edits']['auc']:.3f}",
        f"{line['win_rate']:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{line['kl']:.1f}",
    ]


def finished() -> list[dict[str, Any]]:
    """The lines of the starts that are done."""
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError):
        lines = json.loads(RESULTS.read_text(encoding="utf-8"))["starts"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", nargs="*", default=[], metavar="START")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        into_page("starts.py", "starts", written(finished()), PAGE)
        return
    lines = {line["start"]: line for line in finished()}
    RUNS.mkdir(parents=True, exist_ok=True)
    for start in STARTS:
        if start.name in lines and start.name not in asked.again:
            continue
        if start.name in asked.again:
            shutil.rmtree(RUNS / start.name, ignore_errors=True)
        lines[start.name] = run(start)
        print(json.dumps(lines[start.name]), flush=True)
        ordered = [lines[each.name] for each in STARTS if each.name in lines]
        RESULTS.write_text(json.dumps({"starts": ordered}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
