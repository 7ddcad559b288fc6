"""Seconds and peak memory of one PPO update, beside the PPO trainer of TRL 1.12.0 on the same work.

    python benchmarks/ppo_update.py --peers ../shared/peers --environment peer \\
        [--batch 32] [--repeats 3] [--fp32] [--only full]

The driver makes the peer's environment (a virtual environment with the versions that its docstring names),
then runs both sides in turn, each in a process of its own, and writes medians, and the ratios run by run, to
benchmarks/results/ppo_update.json. With --fp32 all rows compute in float32 (for processors without bf16
kernels), and the file is ppo_update_float32.json. The work: 16 prompts, 48 sampled tokens each, 4 epochs in
minibatches of 16, LoRA rank 16 or full fine-tuning, a sequence reward model with all 30 layers.

With --batch 32 an update has 32 prompts, as in the recipes, still in minibatches of 16, and the file's name
ends in _32. TRL's script then takes one step of 32 where Redline takes two of 16: as many tokens pass.

Of TRL's updates one a run counts, of Redline's as many as begin within a minute, since shared machines have
slow moments.

What differs: TRL holds a value model and a reward model of their own, each of the policy's size; Redline's
critic is a head on the policy, and its reward model (30 layers) shares the policy's frozen weights. In the
row "own critic, whole reward model" the critic has adapters of its own on all layers, as deep as TRL's value
model, and the reward model's adapters reach all layers too, so that nothing of it is shared with sampling.
Without LoRA, Redline keeps a frozen copy of the trained weights as the reference, as TRL does.

Beside them, the machine's own bare throughput: forward and backward passes of the frozen model by plain
Transformers on the same number of tokens, no adapters, no critic, logits of the responses only.
``share_of_bare`` is the tokens trained a second in a whole update (sampling, scoring and re-scoring included)
over the tokens of such passes a second.
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

from common import about, environment

HERE = Path(__file__).parent
EPOCHS = 4
TIMED = 60.0  # seconds of Redline's updates that count in a run: about as long as one of TRL's
LIMIT = 20  # updates of Redline in a run at most
QUESTIONS = [
    "Write a short poem about the sea.",
    "What is the capital of France?",
    "How do I make tea?",
    "Explain gravity to a child.",
    "Give me three tips to sleep better.",
    "Why is the sky blue?",
    "Tell me about dogs.",
    "Plan a day in Rome.",
]
LORA = {
    "Redline, LoRA on the upper 10 of 30 layers": ["--lora-rank", "16", "--layers", "10"],
    "Redline, LoRA on all layers": ["--lora-rank", "16"],
    "Redline, LoRA on all layers, own critic, whole reward model": ["--lora-rank", "16", "--whole"],
}


def configurations(fp32: bool) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The rows of both sides, each with its flags; full fine-tuning is always in float32."""
    name, dtype = ("fp32", "float32") if fp32 else ("bf16", "bfloat16")
    ours = {f"{row}, {name}": [*flags, "--dtype", dtype] for row, flags in LORA.items()}
    ours["Redline, full fine-tuning, fp32"] = ["--lora-rank", "0", "--dtype", "float32"]
    return ours, {
        f"TRL 1.12.0, LoRA, {name}": ["--lora", *["--bf16"] * (not fp32)],
        "TRL 1.12.0, default (full, fp32)": [],
    }


def ours(arguments: argparse.Namespace) -> None:
    """One configuration in this process: prints the median update and the peak memory as JSON."""
    from accelerate import Accelerator

    from redline.data.records import Prompt
    from redline.engine.settings import Adapt, Model, Optimizer
    from redline.policy.settings import Kl, Policy
    from redline.policy.train import build_ppo
    from redline.reward.model import new_reward_model, save_reward_model
    from redline.reward.settings import Reward
    from redline.sampling.settings import Sampling

    model = Model(dtype=arguments.dtype)
    adapt = Adapt(lora_rank=arguments.lora_rank, train_layers=arguments.layers)
    with tempfile.TemporaryDirectory() as folder:
        reward_adapt = Adapt(lora_rank=16, train_layers=None if arguments.whole else 10)
        reward, wrapped = new_reward_model(Reward(kind="sequence", adapt=reward_adapt), model)
        save_reward_model(reward, wrapped, Path(folder) / "reward", model.name)
        del reward, wrapped
        recipe = Policy(
            adapt=adapt,
            optimizer=Optimizer(lr=1e-5),
            kl=Kl(target=None),
            reward_scale=1.0,
            batch_size=arguments.batch,
            minibatch_size=16,
            epochs=EPOCHS,
            updates=LIMIT,
            critic="own" if arguments.whole else "shared",
            sampling=Sampling(max_new_tokens=48, min_new_tokens=48),
            gae_lambda=0.95,
        )
        prompts = [
            Prompt(id=str(index), prompt=[{"role": "user", "content": text}])
            for index, text in enumerate(QUESTIONS * (arguments.batch // len(QUESTIONS)))
        ]
        trainer = build_ppo(recipe, model, prompts, Accelerator(), Path(folder) / "reward")
        seconds: list[float] = []
        phases: dict[str, float] = {}
        while len(seconds) < arguments.updates or (sum(seconds[1:]) < TIMED and len(seconds) < LIMIT):
            start = time.perf_counter()
            metrics, _ = trainer.update(len(seconds))
            seconds.append(time.perf_counter() - start)
            phases = {name: round(value, 2) for name, value in metrics.items() if name.startswith("seconds_")}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        update = statistics.median(seconds[1:] or seconds)
        del trainer
        lengths = [len(ids) + 48 for ids in _prompt_ids(model, prompts)]
        bare = bare_seconds(model, lengths, arguments)
    print(
        json.dumps(
            {
                "median_update_s": update,
                "peak_gb": peak,
                "bare_s": bare,
                "share_of_bare": EPOCHS * bare / update,
                **phases,
            }
        )
    )


def _prompt_ids(model: Any, prompts: list[Any]) -> list[Any]:
    from redline.data.tokenization import encode_prompt, load_tokenizer

    tokenizer = load_tokenizer(model.name)
    return [encode_prompt(tokenizer, prompt.prompt) for prompt in prompts]


def bare_seconds(model: Any, lengths: list[int], arguments: argparse.Namespace, repeats: int = 3) -> float:
    """The best of some bare passes over one epoch's tokens: forward and backward of the trained layers and
    the output embedding."""
    import torch
    from transformers import AutoModelForCausalLM

    from redline.embedded import resolve
    from redline.engine.models import dtype_of

    lm = AutoModelForCausalLM.from_pretrained(resolve(model.name), dtype=dtype_of(model))
    lm.requires_grad_(not arguments.lora_rank)  # with LoRA the weights are frozen: no gradients of theirs
    if arguments.layers is not None:
        lm.model.layers = lm.model.layers[-arguments.layers :]
    states = torch.randn(
        len(lengths), max(lengths), lm.config.hidden_size, dtype=lm.dtype, requires_grad=True
    )
    targets = torch.randint(0, lm.config.vocab_size, (len(lengths) * 48,))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        logits = lm(inputs_embeds=states, logits_to_keep=48, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets).backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def theirs(python: Path, model: str, flags: list[str], arguments: argparse.Namespace) -> dict[str, float]:
    """One run of TRL's side: the median update and the peak memory, from the last line that it prints."""
    script = arguments.peers.absolute() / "trl_ppo.py"
    command = [str(python), str(script), "--model", model, "--updates", str(arguments.updates)]
    command += ["--batch", str(arguments.batch), *flags]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    words = done.stdout.splitlines()[-1].split()
    figures = dict(zip(words[::2], map(float, words[1::2]), strict=True))
    return {"median_update_s": figures["median_update_s"], "peak_gb": figures["peak_gb"]}


def one_of_ours(flags: list[str], arguments: argparse.Namespace) -> dict[str, float]:
    """One run of Redline's side, in a process of its own: what `ours` prints."""
    command = [sys.executable, __file__, "--ours", "--updates", str(arguments.updates)]
    command += ["--batch", str(arguments.batch), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--peers", type=Path, default=HERE.parent.parent / "shared" / "peers")
    cli.add_argument("--environment", type=Path, default=Path("peer"))
    cli.add_argument("--repeats", type=int, default=3)
    cli.add_argument("--batch", type=int, choices=(16, 32), default=16, help="prompts of an update")
    cli.add_argument("--updates", type=int, default=2, help="the first of each run is not counted")
    cli.add_argument("--only", default="", help="only rows with this in their name")
    cli.add_argument("--go-on", action="store_true", help="add what is missing to the result file")
    cli.add_argument("--fp32", action="store_true", help="all rows in float32")
    cli.add_argument(
        "--ours", action="store_true", help="(the driver's own) run one configuration in this process"
    )
    cli.add_argument("--lora-rank", type=int)
    cli.add_argument("--layers", type=int)
    cli.add_argument("--dtype")
    cli.add_argument("--whole", action="store_true")
    arguments = cli.parse_args()
    if arguments.ours:
        ours(arguments)
        return
    from redline.embedded import embedded_model_folder

    model, (left, right) = str(embedded_model_folder()), configurations(arguments.fp32)
    python, versions = environment(arguments.environment, "torch==2.13.0", "trl==1.12.0", "peft", "gguf")
    names = [*list(left)[:1], *list(right)[:1], *list(left)[1:], *list(right)[1:]]  # both sides in turn
    name = "ppo_update" + "_float32" * arguments.fp32 + "_32" * (arguments.batch == 32)
    result = HERE / "results" / f"{name}.json"
    done = json.loads(result.read_text(encoding="utf-8"))["runs"] if arguments.go_on else {}
    runs: dict[str, list[dict[str, float]]] = {name: done.get(name, []) for name in names}
    for repeat in range(arguments.repeats):
        for name in runs:
            if len(runs[name]) > repeat or arguments.only not in name:
                continue
            if name in left:
                figures = one_of_ours(left[name], arguments)
            else:
                figures = theirs(python, model, right[name], arguments)
            runs[name].append(figures)
            print(repeat, name, figures, flush=True)
            write(result, runs, [*left], [*right], arguments, versions)


def write(
    path: Path,
    runs: dict[str, list[dict[str, float]]],
    left: list[str],
    right: list[str],
    arguments: argparse.Namespace,
    versions: dict[str, str],
) -> None:
    """The medians so far, the runs behind them, and the ratios to TRL: of the medians, and run by run."""
    rows = {
        name: {key: statistics.median(run[key] for run in timed) for key in timed[0]}
        for name, timed in runs.items()
        if timed
    }
    ratios = {
        name: {
            other: {
                "times_faster": rows[other]["median_update_s"] / rows[name]["median_update_s"],
                "times_faster_by_run": [
                    round(theirs["median_update_s"] / ours["median_update_s"], 2)
                    for ours, theirs in zip(runs[name], runs[other], strict=False)
                ],
                "share_of_memory": rows[name]["peak_gb"] / rows[other]["peak_gb"],
            }
            for other in right
            if other in rows
        }
        for name in left
        if name in rows
    }
    result = {
        "what": f"one PPO update: {arguments.batch} prompts x 48 tokens, 4 epochs, SmolLM2-135M",
        "repeats": arguments.repeats,
        "updates_a_run": arguments.updates,
        "medians": rows,
        "ratios": ratios,
        "runs": runs,
        "peer_versions": versions,
        **about("ppo_update.py"),
    }
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
