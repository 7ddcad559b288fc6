"""Model cards in the Hub's format for what a run trained: data, settings, results, limits. Written from the
run's own files."""

from pathlib import Path

import yaml

from redline.data.files import whole_file
from redline.data.settings import Source
from redline.data.show import visible
from redline.embedded import EMBEDDED
from redline.recipe import Recipe
from redline.report.charts import number, percent
from redline.report.folder import RunFolder
from redline.report.section_run import method_of
from redline.run.files import SOURCES
from redline.types import JsonObject

MARK = "<!-- Written by `redline report`. Delete this line, and it leaves your changes alone. -->"
FROM_PEFT = "[More Information Needed]"  # the card that PEFT puts beside an adapter: nobody has filled it in
HERE = 'folder = "."  # where this card lies, or its name on the Hub'
HUB_NAMES = {EMBEDDED: "HuggingFaceTB/SmolLM2-135M-Instruct"}


def write_cards(run: Path) -> list[Path]:
    """Write README.md into the run's folders reward/ and policy/, as far as they are trained; returns what
    was written.

    A card that somebody has written or changed (it lacks our mark) stays as it is.
    """
    folder = RunFolder(run)
    written = []
    files = folder.files
    for path, done, card in (
        (files.reward.card, files.reward.config, reward_card),
        (files.policy.card, files.policy.log, policy_card),
    ):
        old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else MARK
        if done.exists() and (MARK in old or FROM_PEFT in old):
            with whole_file(path) as out:
                out.write(card(folder.path))
            written.append(path)
    return written


def reward_card(run: Path) -> str:
    """The card of the reward model, as Markdown with YAML in front. Raises UserError when ``run`` is no run's
    folder."""
    folder = RunFolder(run)
    recipe, metrics = folder.recipe.reward, folder.json(folder.files.reward.metrics) or {}
    where = "test" if metrics.get("test") else "validation"
    best = metrics.get(where) or {}
    token = recipe.kind == "token"
    backbone = (recipe.model or folder.recipe.model).name
    task = "token-classification" if token else "text-classification"
    figures = [
        (
            "token AUC",
            "auc",
            "inserted or substituted tokens of the edited side against those removed from the other",
        ),
        (
            "fault AUC",
            "fault_auc",
            "tokens of the rejected side that were kept against those removed from it",
        ),
        ("pairwise accuracy", "pairwise_accuracy", "the edited side's summed reward is the higher one"),
        ("expected calibration error", "ece", "of the probability that a changed token is the better one"),
    ]
    shown = [(name, best[key], what) for name, key, what in figures if isinstance(best.get(key), float)]
    what = (
        "a reward for every token of a response: above 0 where it reads like what editors put in, below 0 "
        "where like what they took out"
        if token
        else "one reward for a whole response (Bradley-Terry)"
    )
    use = (
        "`model(ids).logits.softmax(-1)` gives a probability to each class in `config.id2label`; the reward "
        "of a token is p(positive) - p(negative)."
        if token and recipe.loss != "pairwise"
        else "The model's only logit is the reward."
    )
    auto = "AutoModelForTokenClassification" if token else "AutoModelForSequenceClassification"
    return "\n".join(
        [
            _front(
                folder,
                backbone,
                "transformers",
                task,
                ["reward-model", *(["token-level-reward"] if token else [])],
                [(name, value) for name, value, _ in shown],
                task,
                f"held-out edits ({where})",
            ),
            MARK,
            f"# Reward model of the run {_plain(folder.name)}",
            "",
            f"Given a prompt and a response, {what}. Trained by Redline on both sides of minimal "
            "edits; labels come from the difference of the two.",
            "",
            "## Use",
            "",
            "```python",
            f"from transformers import AutoTokenizer, {auto}",
            "",
            HERE,
            f"model = {auto}.from_pretrained(folder)",
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            "```",
            "",
            use,
            "",
            "## Data",
            "",
            *_data(folder),
            f"- trained on {metrics.get('train', '?')} edits",
            "",
            "## Settings",
            "",
            *_settings(
                {
                    "backbone": backbone,
                    "kind": recipe.kind,
                    "loss": recipe.loss if token else "Bradley-Terry",
                    "layers kept": recipe.depth or "all",
                    "layers trained": recipe.adapt.train_layers or "all",
                    "LoRA rank": recipe.adapt.lora_rank or "full fine-tuning",
                    "epochs": recipe.epochs,
                    "batch size": recipe.batch_size,
                    "learning rate": recipe.optimizer.lr,
                    "seed": folder.recipe.seed,
                }
            ),
            "## Results",
            "",
            f"On {metrics.get(f'{where}_edits', '?')} held-out edits ({where} set):",
            "",
            "| figure | value | |",
            "|---|---|---|",
            *(f"| {name} | {number(value)} | {what} |" for name, value, what in shown),
            "",
            "## Limits",
            "",
            "- It knows what its editors changed in its training data, and nothing else: a high reward is "
            "no sign of truth, safety or quality in general.",
            "- It was measured on edits of the same kind as those it learned from. Text by other models, on "
            "other topics or in other languages may be scored badly.",
            "- A policy that is trained against it finds its mistakes: hold the policy "
            "near its reference, and judge it by something else.",
            "",
        ]
    )


def policy_card(run: Path) -> str:
    """The card of the policy, as Markdown with YAML in front. Raises UserError when ``run`` is no run's
    folder."""
    folder = RunFolder(run)
    recipe, result = folder.recipe.policy, folder.json(folder.files.winrate)
    base, adapter = folder.recipe.model.name, recipe.adapt.lora_rank > 0
    log = folder.lines(folder.files.policy.log)
    start = "base model" if folder.recipe.sft is None else "SFT model"
    results = [(f"win rate over the {start}", result["win_rate"])] if result else []
    return "\n".join(
        [
            _front(
                folder,
                base,
                "transformers",
                "text-generation",
                [
                    *(["ppo", "rlhf"] if folder.recipe.direct is None else [folder.recipe.direct.method]),
                    *(["lora"] if adapter else []),
                ],
                results,
                "text-generation",
                "held-out prompts",
            ),
            MARK,
            f"# Policy of the run {_plain(folder.name)}",
            "",
            f"{_plain(base)}, aligned by Redline from minimal edits: {method_of(folder.recipe)}.",
            *(
                []
                if folder.recipe.sft is None
                else [
                    "",
                    f"It began from an SFT model, {_plain(base)} after supervised fine-tuning on the edited "
                    "responses (the run's folder `sft/`)"
                    + ("; the adapter belongs on that model." if adapter else "."),
                ]
            ),
            "",
            "## Use",
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            HERE,
            "model = AutoModelForCausalLM.from_pretrained(folder)",
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            "```",
            "",
            *(_about_adapter(folder) if adapter else []),
            "## Data",
            "",
            *_data(folder),
            "",
            "## Settings",
            "",
            *_settings(
                {
                    "base model": base,
                    **_method(folder.recipe),
                    "updates": log[-1]["update"] if log else 0,
                    "layers trained": recipe.adapt.train_layers or "all",
                    "LoRA rank": recipe.adapt.lora_rank or "full fine-tuning",
                    "seed": folder.recipe.seed,
                }
            ),
            "## Results",
            "",
            *(_results(result, start) if result else ["Not compared yet."]),
            "",
            "## Limits",
            "",
            "- It was aligned with what one set of edits prefers and judged by one judge; neither says "
            "anything about truth, safety, or other tasks.",
            "- It keeps the faults and the licence of its base model.",
            f"- Responses longer than {recipe.sampling.max_new_tokens} tokens were not measured.",
            "",
        ]
    )


def _about_adapter(folder: RunFolder) -> list[str]:
    """Where the adapter alone is, and on which model it belongs."""
    base = folder.recipe.model.name
    if folder.recipe.sft is not None:
        where = "the run's SFT model, its folder `sft/`, which has to be given along"
    elif base in HUB_NAMES:
        where = f"`{HUB_NAMES[base]}`, which Redline calls `{_plain(base)}`"
    else:
        where = f"`{_plain(base)}`"
    return [
        f"The weights are whole. The adapter alone is in `adapter/`; its base is {where}: "
        '`PeftModel.from_pretrained(base, "adapter")`.',
        "",
    ]


def _method(recipe: Recipe) -> JsonObject:
    """The settings of what trained the policy: PPO's, or those of a method without RL."""
    ppo, direct = recipe.policy, recipe.direct
    if direct is not None:
        plain = direct.model_dump(exclude={"method", "sampling"})
        names = {"batch_size": "edits a step", "lr": "learning rate", "penalty": "penalty of removed tokens"}
        return {
            names.get(key, key.replace("_", " ")): value
            for key, value in plain.items()
            if value is not None and value is not False
        }
    return {
        "responses an update": ppo.batch_size,
        "epochs an update": ppo.epochs,
        "learning rate": ppo.optimizer.lr,
        "KL target, nats a response": ppo.kl.target
        if ppo.kl.target is not None
        else f"none, coefficient {ppo.kl.coefficient}",
        "sampling": f"at most {ppo.sampling.max_new_tokens} tokens, temperature {ppo.sampling.temperature:g}",
    }


def _front(
    folder: RunFolder,
    base: str,
    library: str,
    task: str,
    tags: list[str],
    figures: list[tuple[str, float]],
    result_task: str,
    measured_on: str,
) -> str:
    """The YAML front matter: only what is known, and a base model or data set only by a name that the Hub
    has."""
    front: JsonObject = {"library_name": library, "pipeline_tag": task, "tags": ["redline", *tags]}
    name = HUB_NAMES.get(base, base)
    if name.count("/") == 1 and not Path(base).exists():
        front["base_model"] = name
    sets = [
        path
        for source in _sources(folder).values()
        for path in source.paths
        if path.count("/") == 1 and "." not in path
    ]
    if sets:
        front["datasets"] = list(dict.fromkeys(sets))
    if figures:
        front["model-index"] = [
            {
                "name": folder.name,
                "results": [
                    {
                        "task": {"type": result_task},
                        "dataset": {"name": measured_on, "type": "edits"},
                        "metrics": [
                            {"type": name.replace(" ", "_"), "name": name, "value": round(value, 4)}
                            for name, value in figures
                        ],
                    }
                ],
            }
        ]
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---"


def _sources(folder: RunFolder) -> dict[str, Source]:
    data = folder.recipe.data
    found = {name: getattr(data, name) for name in SOURCES}
    return {name: source for name, source in found.items() if source is not None}


def _data(folder: RunFolder) -> list[str]:
    return [
        f"- {name.replace('_', ' ')}: `{_plain(source.name).replace('`', '')}`, "
        f"{folder.count(folder.files.data(name)):,} records"
        for name, source in _sources(folder).items()
    ]


def _settings(values: JsonObject) -> list[str]:
    return [
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {_plain(str(value))} |" for name, value in values.items()),
        "",
        "The run's `recipe.yaml` has all of them.",
        "",
    ]


def _results(found: JsonObject, start: str) -> list[str]:
    low, high = found["ci95"]
    rows = [
        (
            f"win rate over the {start}",
            f"{percent(found['win_rate'])} (95 % interval {percent(low)} to {percent(high)})",
        ),
        ("held-out prompts", number(found["n"])),
        ("judge", _plain(str(found["judge"]))),
    ]
    if found.get("kl") is not None:
        rows.append((f"KL from the {start}, nats a response", number(found["kl"])))
    if found.get("perplexity_a") is not None:
        rows.append(
            (
                f"perplexity under the {start}, before and after",
                f"{number(found['perplexity_b'])}, {number(found['perplexity_a'])}",
            )
        )
    if found.get("text"):
        rows.append(
            (
                "distinct bigrams, before and after",
                ", ".join(percent(found["text"][side]["distinct_bigrams"]) for side in "ba"),
            )
        )
    return ["| figure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _plain(text: str) -> str:
    """Text in a table or heading of Markdown: nothing in it is HTML, a new line, or a cell's end."""
    return visible(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
