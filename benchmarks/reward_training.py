"""Edits a second in the training of a token reward model, beside a token classifier on
``transformers.Trainer``.

    python benchmarks/reward_training.py --peers ../shared/peers --data ../shared/data --environment peer \\
        [--repeats 3] [--fp32]

The driver makes the peer's environment, then runs both sides in turn, each in a process of its own, and
writes medians to benchmarks/results/reward_training.json. Three classes on every token of both sides,
SmolLM2-135M in bf16, LoRA rank 16 on all linear layers of all 30 layers. With --fp32 both sides compute in
float32 (for processors without bf16 kernels), and the file is reward_training_float32.json. Edits by people:

reviews, cropped    192 edits of CAD train, drawn at random, which have no prompts, cropped to 128 tokens:
hardly a row is padded.
                    8 edits (the peer's 16 rows) a step
reviews, whole      96 of them, up to 512 tokens, 4 edits a step: the peer pads a step's rows to its longest
summaries           96 edits of DeFacto train whose article (the prompt) and summaries fit into 512 tokens, 4
edits a step. The peer
                    reads article and summary as one text, once for each side

What differs: the peer draws rows, Redline edits with both their sides; the peer's loss weighs all tokens
alike. For summaries, where the two sides of an edit share a row, a second row reads them apart, to show what
that saves; others train the upper ten layers alone, or cut the model to its lower 20 layers and train all or
the upper six of these, as the recipes do: edits a second count the frozen layers' one pass over every edit,
shared by four epochs; once_s is that pass for one edit. The last row is no training: the products of the
tokens that Redline computes with the frozen weights, forward and backward, and nothing else. Nobody who
trains adapters on all layers can do without them.
"""

import argparse
import csv
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import about, environment

HERE = Path(__file__).parent
EPOCHS = 4
TASKS = {
    "reviews, cropped": {"edits": 192, "batch": 8, "length": 128, "steps": 8},
    "reviews, whole": {"edits": 96, "batch": 4, "length": 512, "steps": 6},
    "summaries": {"edits": 96, "batch": 4, "length": 512, "steps": 6},
}
REVIEWS = {
    "path": "cad/train_paired.tsv",
    "columns": {"id": "batch_id", "side": "Sentiment", "text": "Text"},
    "sides": {"Negative": "rejected", "Positive": "edited"},
    "replace": {"<br />": " "},
}
SOURCES: dict[str, dict[str, Any]] = {
    "reviews, cropped": REVIEWS,
    "reviews, whole": REVIEWS,
    "summaries": {
        "path": "defacto/train.jsonl",
        "columns": {
            "prompt": "{article}\n\nOne-sentence summary:",
            "rejected": " {candidate}",
            "edited": " {feedback.summary}",
        },
    },
}
APART = "Redline, LoRA on all 30 layers, sides apart"
OURS = {
    "Redline, LoRA on all 30 layers": [],
    APART: ["--apart"],
    "Redline, LoRA on the upper 10 of 30 layers": ["--layers", "10"],
    "Redline, cut to 20 layers, LoRA on all of them": ["--depth", "20"],
    "Redline, cut to 20 layers, LoRA on the upper 6": ["--depth", "20", "--layers", "6"],
    "products with the frozen weights alone": ["--products"],
}
THEIRS = "transformers.Trainer, LoRA on all 30 layers"
PEER_PACKAGES = ["torch==2.13.0", "transformers", "peft", "accelerate", "rapidfuzz", "gguf"]


def ours(arguments: argparse.Namespace) -> None:
    """One configuration in this process: prints seconds a step, edits a second, tokens computed and peak
    memory as JSON."""
    from accelerate import Accelerator

    from redline.engine.batching import draw_rows
    from redline.engine.settings import Adapt, Model
    from redline.label.stage import label_edits
    from redline.reward.examples import examples
    from redline.reward.model import new_reward_model
    from redline.reward.settings import Reward
    from redline.reward.train import RewardTrainer

    task = TASKS[arguments.task]
    recipe = Reward(
        loss="hard",
        depth=arguments.depth,
        adapt=Adapt(lora_rank=16, train_layers=arguments.layers),
        batch_size=task["batch"],
    )
    reward, _ = new_reward_model(recipe, Model(dtype="float32" if arguments.fp32 else "bfloat16"))
    edits = examples(
        label_edits(
            read_edits(arguments, reward.tokenizer), reward.tokenizer, max_response_tokens=task["length"]
        ),
        reward.tokenizer,
        recipe,
        task["length"],
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(recipe, reward, Accelerator(), Path(folder), 0)
        trainer.lay_out(edits, apart=arguments.apart)
        tokens_an_edit = statistics.mean(sum(len(row.ids) for row in example.rows) for example in edits)
        if arguments.products:
            products(reward.model, round(task["batch"] * tokens_an_edit), task["batch"])
            return
        batches = [
            [edits[row] for row in draw_rows(len(edits), task["batch"], step, 0)]
            for step in range(task["steps"])
        ]
        start = time.perf_counter()
        trainer.states.fill([example.rows for example in edits], lambda count: None)
        once = (time.perf_counter() - start) / len(edits)
        seconds = []
        for batch in batches:
            start = time.perf_counter()
            trainer.step(batch)
            seconds.append(time.perf_counter() - start)
    step = statistics.median(seconds[1:] or seconds)
    print(
        json.dumps(
            {
                "median_step_s": step,
                "edits_per_s": 1 / (step / task["batch"] + once / EPOCHS),
                "once_s": once,
                "tokens_an_edit": tokens_an_edit,
                "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            }
        )
    )


def products(model: Any, tokens: int, batch: int) -> None:
    """Time what a step of so many tokens multiplies with the model's frozen weights: ``x W'`` forward, ``g
    W`` backward."""
    import torch

    weights = [
        parameter.detach() for name, parameter in model.named_parameters() if "base_layer.weight" in name
    ]
    inputs = {
        size: torch.randn(tokens, size, dtype=weights[0].dtype) for weight in weights for size in weight.shape
    }
    seconds = []
    with torch.no_grad():
        for _ in range(5):
            start = time.perf_counter()
            for weight in weights:
                torch.nn.functional.linear(inputs[weight.shape[1]], weight)
                torch.mm(inputs[weight.shape[0]], weight)
            seconds.append(time.perf_counter() - start)
    step = statistics.median(seconds[1:])
    print(json.dumps({"median_step_s": step, "edits_per_s": batch / step}))


def read_edits(arguments: argparse.Namespace, tokenizer: Any) -> list[Any]:
    """Some edits of the task's data set, always the same; where they have prompts, of those that fit
    whole."""
    from redline.data.check import Rejects
    from redline.data.read import read
    from redline.data.records import Edit
    from redline.data.settings import Source

    task, source = TASKS[arguments.task], SOURCES[arguments.task]
    found = read(Source(**source | {"path": str(arguments.data / source["path"])}), Edit, Rejects())
    fitting = [
        edit
        for edit in found
        if not edit.prompt
        or max(len(tokenizer(f"{edit.prompt}{side}")["input_ids"]) for side in (edit.rejected, edit.edited))
        < task["length"]
    ]
    return random.Random(0).sample(fitting, task["edits"])


def theirs(python: Path, arguments: argparse.Namespace, model: str) -> dict[str, float]:
    from redline.data.tokenization import load_tokenizer
    from redline.embedded import EMBEDDED

    task = TASKS[arguments.task]
    with tempfile.TemporaryDirectory() as folder:
        edits = Path(folder) / "edits.tsv"
        with edits.open("w", encoding="utf-8", newline="") as out:
            table = csv.writer(out, delimiter="\t")
            table.writerow(["Sentiment", "Text", "batch_id"])
            for edit in read_edits(arguments, load_tokenizer(EMBEDDED)):
                table.writerow(["Negative", f"{edit.prompt}{edit.rejected}", edit.id])
                table.writerow(["Positive", f"{edit.prompt}{edit.edited}", edit.id])
        command = [
            str(python),
            str(arguments.peers.absolute() / "hf_token_classification.py"),
            "--model",
            model,
            "--edits",
            str(edits),
            "--length",
            str(task["length"]),
            "--batch",
            str(2 * task["batch"]),
            "--steps",
            str(task["steps"]),
            *["--fp32"] * arguments.fp32,
        ]
        printed = (
            subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
            .stdout.splitlines()[-1]
            .split()
        )
    return dict(zip(printed[::2], map(float, printed[1::2]), strict=True))


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--peers", type=Path, default=HERE.parent.parent / "shared" / "peers")
    cli.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    cli.add_argument("--environment", type=Path, default=Path("peer"))
    cli.add_argument("--repeats", type=int, default=3)
    cli.add_argument("--task", choices=TASKS, help="one kind of edits")
    cli.add_argument(
        "--ours", action="store_true", help="(the driver's own) run one configuration in this process"
    )
    cli.add_argument("--layers", type=int)
    cli.add_argument("--depth", type=int)
    cli.add_argument("--apart", action="store_true")
    cli.add_argument("--products", action="store_true")
    cli.add_argument("--fp32", action="store_true", help="both sides in float32")
    arguments = cli.parse_args()
    if arguments.ours:
        ours(arguments)
        return
    from redline.embedded import embedded_model_folder

    model, (python, versions) = (
        str(embedded_model_folder()),
        environment(arguments.environment, *PEER_PACKAGES),
    )
    tasks = [arguments.task] if arguments.task else list(TASKS)
    runs: dict[str, dict[str, list[dict[str, float]]]] = {
        task: {
            name: [] for name in [THEIRS, *OURS] if name != APART or task == "summaries"
        }  # reviews are read apart anyway
        for task in tasks
    }
    for repeat in range(arguments.repeats):
        for task in tasks:
            arguments.task = task
            for name in runs[task]:
                if name == THEIRS:
                    found = theirs(python, arguments, model)
                else:
                    command = [
                        sys.executable,
                        __file__,
                        "--ours",
                        "--task",
                        task,
                        "--data",
                        str(arguments.data),
                        *OURS[name],
                        *["--fp32"] * arguments.fp32,
                    ]
                    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                    found = json.loads(printed.splitlines()[-1])
                runs[task][name].append(found)
                print(repeat, task, name, found, flush=True)
                write(runs, arguments.repeats, arguments.fp32, versions)


def write(
    runs: dict[str, dict[str, list[dict[str, float]]]], repeats: int, fp32: bool, versions: dict[str, str]
) -> None:
    """The medians so far, the runs behind them, and the ratios to the peer."""
    rows = {
        task: {
            name: {key: statistics.median(run[key] for run in found) for key in found[0]}
            for name, found in of.items()
            if found
        }
        for task, of in runs.items()
    }
    result = {
        "what": f"training of a token reward model: LoRA rank 16, {'float32' if fp32 else 'bf16'}, "
        "SmolLM2-135M, a step's seconds and edits a second",
        "tasks": {task: TASKS[task] for task in runs},
        "repeats": repeats,
        "medians": rows,
        "times_the_edits_per_second": {
            task: {name: of[name]["edits_per_s"] / of[THEIRS]["edits_per_s"] for name in OURS if name in of}
            for task, of in rows.items()
        },
        "runs": runs,
        "peer_versions": versions,
        **about("reward_training.py"),
    }
    (HERE / "results").mkdir(exist_ok=True)
    file = "reward_training_float32.json" if fp32 else "reward_training.json"
    (HERE / "results" / file).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
