"""Seconds and peak memory of one PPO update with a critic and without one: policy.baseline.

    python benchmarks/baselines.py [--repeats 3]
    python benchmarks/baselines.py --table    # the table in docs/policy.md again, from the result file

A random model of about 30 million parameters, LoRA of rank 16 on the uppermost four of its 12 layers, 16
responses of 32 tokens (four to a prompt), two epochs, a reward function that costs nothing, float32. Each row
runs in a process of its own, in turn, so that its peak memory is its own; of three updates the first is not
counted. ``cpu_seconds`` are the processor's for the phases that a critic has a part in (re-scoring and
optimising), which other work on the machine does not lengthen much. Medians over the repeats, and ratios to
the group baseline repeat by repeat, go to benchmarks/results/baselines.json and into docs/policy.md.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import about, filled, into_page, table

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "baselines.json"
PAGE = HERE.parent / "docs" / "policy.md"
ROWS: dict[str, dict[str, Any]] = {
    "critic: shared": {},
    "critic: own": {"critic": "own"},
    "baseline: group": {"baseline": "group"},
}
REWARD = "def length(prompts, responses):\n    return [float(len(text)) for text in responses]\n"
UPDATES = 3


def measure(row: str) -> dict[str, float]:
    """One row in this process: medians of its updates' seconds by phase, and the peak memory."""
    import torch
    from accelerate import Accelerator
    from transformers import LlamaConfig, LlamaForCausalLM

    from redline.data.records import Prompt
    from redline.data.tokenization import load_tokenizer
    from redline.embedded import EMBEDDED
    from redline.engine.settings import Adapt, Model
    from redline.policy.settings import Kl, Policy
    from redline.policy.train import build_ppo
    from redline.reward.settings import RewardTerm
    from redline.sampling.settings import Sampling

    tokenizer = load_tokenizer(EMBEDDED)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=12,
            vocab_size=len(tokenizer),
            num_attention_heads=6,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).save_pretrained(f"{folder}/model")
        tokenizer.save_pretrained(f"{folder}/model")
        (Path(folder) / "rewards.py").write_text(REWARD, encoding="utf-8")
        recipe = Policy(
            reward=[RewardTerm(function=f"{folder}/rewards.py:length")],
            adapt=Adapt(lora_rank=16, train_layers=4),
            kl=Kl(target=None),
            reward_scale=1.0,
            batch_size=16,
            samples=4,
            minibatch_size=16,
            epochs=2,
            sampling=Sampling(max_new_tokens=32, min_new_tokens=32),
            **ROWS[row],
        )
        prompts = [
            Prompt(id=str(index), prompt=f"A prompt of some ten tokens, as short ones are, {index}:")
            for index in range(4)
        ]
        model = Model(name=f"{folder}/model", dtype="float32")
        ppo = build_ppo(recipe, model, prompts, Accelerator(cpu=True))
        sample, ends = ppo.sample, []

        def timed_sample(step: int) -> Any:
            rollout = sample(step)
            ends.append(time.process_time())
            return rollout

        ppo.sample = timed_sample  # type: ignore[method-assign]
        updates = []
        for step in range(UPDATES):
            metrics, _ = ppo.update(step)
            updates.append(metrics | {"cpu_seconds": time.process_time() - ends[-1]})
    figures = ["cpu_seconds", *(name for name in updates[0] if name.startswith("seconds"))]
    medians = {name: statistics.median(update[name] for update in updates[1:]) for name in figures}
    return medians | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians of each row, and of its ratios to the group baseline in the same repeat."""
    rows = {}
    for row, repeats in runs.items():
        figures = {name: statistics.median(run[name] for run in repeats) for name in repeats[0]}
        pairs = list(zip(repeats, runs["baseline: group"], strict=True))
        for name in ("cpu_seconds", "seconds", "peak_gb"):
            ratios = [run[name] / group[name] for run, group in pairs]
            figures[f"{name}_to_group"] = statistics.median(ratios)
        rows[row] = {name: round(value, 3) for name, value in figures.items()}
    return rows


def written(content: dict[str, Any]) -> str:
    """What docs/policy.md says of a result file's content."""
    repeats = content["repeats"]
    text = (
        "What it saves, of one update ([`benchmarks/baselines.py`](../benchmarks/baselines.py): a random "
        "model of 30 million parameters, 16 responses of 32 tokens, on a CPU that did other work too, "
        f"medians of {repeats} repeats). A shared critic is one row of weights on states that are there "
        "anyway, so leaving it out saves next to nothing; a critic of its own costs passes and weights of "
        "its own."
    )
    figures = ("cpu_seconds", "cpu_seconds_to_group", "peak_gb", "peak_gb_to_group")
    lines = [
        [f"`{name}`", *(f"{row[figure]:.2f}" for figure in figures)] for name, row in content["rows"].items()
    ]
    head = ["", "CPU seconds to re-score and optimise", "of group", "peak, GB", "of group"]
    return filled(text) + "\n" + table(head, lines)


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--repeats", type=int, default=3)
    cli.add_argument("--measure", metavar="ROW", choices=ROWS, help="(the driver's own) one row, here")
    cli.add_argument("--table", action="store_true", help="only write the table again")
    arguments = cli.parse_args()
    if arguments.table:
        into_page("baselines.py", "baselines", written(json.loads(RESULTS.read_text())), PAGE)
        return
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    runs: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    for _ in range(arguments.repeats):
        for row, measured in runs.items():
            command = [sys.executable, __file__, "--measure", row]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured.append(json.loads(done.stdout.splitlines()[-1]))
            print(row, measured[-1], flush=True)
    result = {
        "what": "one PPO update, medians",
        "repeats": arguments.repeats,
        "rows": summary(runs),
        "runs": runs,
        **about("baselines.py"),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    into_page("baselines.py", "baselines", written(result), PAGE)
    print(json.dumps(result["rows"], indent=2))


if __name__ == "__main__":
    main()
