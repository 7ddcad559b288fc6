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
HUB_NAMES = {EMBEDDED: "HuggingFaceTB/SmolLM2-135M-Instruct"}


REWARD_FIGURES = [
    (
        "token AUC",
        "auc",
        "inserted or substituted tokens of the edited side against those removed from the other",
    ),
    ("fault AUC", "fault_auc", "tokens of the rejected side that were kept against those removed from it"),
    ("pairwise accuracy", "pairwise_accuracy", "the edited side's summed reward is the higher one"),
    ("expected calibration error", "ece", "of the probability that a changed token is the better one"),
]  # name, key in metrics.json, meaning
OF_TOKENS = (
    "a reward for every token of a response: above 0 where it reads like what editors put in, below 0 "
    "where like what they took out"
)
OF_RESPONSES = "one reward for a whole response (Bradley-Terry)"
OF_CLASSES = (
    "`model(ids).logits.softmax(-1)` gives a probability to each class in `config.id2label`; the reward "
    "of a token is p(positive) - p(negative)."
)
HERE = Path(__file__).parent


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
    recipe = folder.recipe.reward
    metrics = folder.json(folder.files.reward.metrics) or {}
    held_out = "test" if metrics.get("test") else "validation"
    figures = _reward_figures(metrics.get(held_out) or {})
    is_token = recipe.kind == "token"
    loss: str
    if is_token:
        task, auto = "token-classification", "AutoModelForTokenClassification"
        tags, what = ["reward-model", "token-level-reward"], OF_TOKENS
        loss = recipe.loss
    else:
        task, auto = "text-classification", "AutoModelForSequenceClassification"
        tags, what = ["reward-model"], OF_RESPONSES
        loss = "Bradley-Terry"
    backbone = (recipe.model or folder.recipe.model).name
    front = _front(
        folder,
        backbone,
        task,
        tags,
        [(name, value) for name, value, _ in figures],
        f"held-out edits ({held_out})",
    )
    if is_token and recipe.loss != "pairwise":
        use = OF_CLASSES
    else:
        use = "The model's only logit is the reward."
    settings = {
        "backbone": backbone,
        "kind": recipe.kind,
        "loss": loss,
        "layers kept": recipe.depth or "all",
        "layers trained": recipe.adapt.train_layers or "all",
        "LoRA rank": recipe.adapt.lora_rank or "full fine-tuning",
        "epochs": recipe.epochs,
        "batch size": recipe.batch_size,
        "learning rate": recipe.optimizer.lr,
        "seed": folder.recipe.seed,
    }
    template = (HERE / "reward_card.md").read_text(encoding="utf-8")
    return template.format(
        front=front,
        mark=MARK,
        name=_plain(folder.name),
        what=what,
        auto=auto,
        use=use,
        data=_data(folder),
        train=metrics.get("train", "?"),
        settings=_settings(settings),
        edits=metrics.get(f"{held_out}_edits", "?"),
        held_out=held_out,
        figures="".join(f"| {name} | {number(value)} | {meaning} |\n" for name, value, meaning in figures),
    )


def _reward_figures(measured: JsonObject) -> list[tuple[str, float, str]]:
    """``(name, value, meaning)`` of the figures that were measured."""
    figures = []
    for name, key, meaning in REWARD_FIGURES:
        value = measured.get(key)
        if isinstance(value, float):
            figures.append((name, value, meaning))
    return figures


def policy_card(run: Path) -> str:
    """The card of the policy, as Markdown with YAML in front. Raises UserError when ``run`` is no run's
    folder."""
    folder = RunFolder(run)
    recipe, direct = folder.recipe.policy, folder.recipe.direct
    base, has_adapter = folder.recipe.model.name, recipe.adapt.lora_rank > 0
    compared = folder.json(folder.files.winrate)
    start = "base model" if folder.recipe.sft is None else "SFT model"
    tags: list[str] = ["ppo", "rlhf"] if direct is None else [direct.method]
    if has_adapter:
        tags.append("lora")
    figures = []
    results = "Not compared yet.\n"
    if compared:
        figures.append((f"win rate over the {start}", compared["win_rate"]))
        results = _results(compared, start)
    log = folder.lines(folder.files.policy.log)
    settings = {
        "base model": base,
        **_method(folder.recipe),
        "updates": log[-1]["update"] if log else 0,
        "layers trained": recipe.adapt.train_layers or "all",
        "LoRA rank": recipe.adapt.lora_rank or "full fine-tuning",
        "seed": folder.recipe.seed,
    }
    template = (HERE / "policy_card.md").read_text(encoding="utf-8")
    return template.format(
        front=_front(folder, base, "text-generation", tags, figures, "held-out prompts"),
        mark=MARK,
        name=_plain(folder.name),
        base=_plain(base),
        method=method_of(folder.recipe),
        began=_about_sft(folder, has_adapter),
        adapter=_about_adapter(folder) if has_adapter else "",
        data=_data(folder),
        settings=_settings(settings),
        results=results,
        tokens=recipe.sampling.max_new_tokens,
    )


def _about_sft(folder: RunFolder, has_adapter: bool) -> str:
    """That the policy began from an SFT model, where it did."""
    if folder.recipe.sft is None:
        return ""
    ending = "; the adapter belongs on that model." if has_adapter else "."
    return (
        f"\nIt began from an SFT model, {_plain(folder.recipe.model.name)} after supervised fine-tuning on "
        f"the edited responses (the run's folder `sft/`){ending}\n"
    )


def _about_adapter(folder: RunFolder) -> str:
    """Where the adapter alone is, and on which model it belongs."""
    base = folder.recipe.model.name
    if folder.recipe.sft is not None:
        where = "the run's SFT model, its folder `sft/`, which has to be given along"
    elif base in HUB_NAMES:
        where = f"`{HUB_NAMES[base]}`, which Redline calls `{_plain(base)}`"
    else:
        where = f"`{_plain(base)}`"
    return (
        f"The weights are whole. The adapter alone is in `adapter/`; its base is {where}: "
        '`PeftModel.from_pretrained(base, "adapter")`.\n\n'
    )


def _method(recipe: Recipe) -> JsonObject:
    """The settings of what trained the policy: PPO's, or those of a method without RL."""
    ppo, direct = recipe.policy, recipe.direct
    if direct is not None:
        plain = direct.model_dump(exclude={"method", "sampling"})
        names = {"batch_size": "edits a step", "lr": "learning rate", "penalty": "penalty of removed tokens"}
        settings = {}
        for key, value in plain.items():
            if value is not None and value is not False:
                settings[names.get(key, key.replace("_", " "))] = value
        return settings
    kl: str | float
    if ppo.kl.target is None:
        kl = f"none, coefficient {ppo.kl.coefficient}"
    else:
        kl = ppo.kl.target
    return {
        "responses an update": ppo.batch_size,
        "epochs an update": ppo.epochs,
        "learning rate": ppo.optimizer.lr,
        "KL target, nats a response": kl,
        "sampling": f"at most {ppo.sampling.max_new_tokens} tokens, temperature {ppo.sampling.temperature:g}",
    }


def _front(
    folder: RunFolder,
    base: str,
    task: str,
    tags: list[str],
    figures: list[tuple[str, float]],
    measured_on: str,
) -> str:
    """The YAML front matter: only what is known, and a base model or data set only by a name that the Hub
    has."""
    front: JsonObject = {"library_name": "transformers", "pipeline_tag": task, "tags": ["redline", *tags]}
    name = HUB_NAMES.get(base, base)
    if name.count("/") == 1 and not Path(base).exists():
        front["base_model"] = name
    sets: list[str] = []
    for source in _sources(folder).values():
        sets += [path for path in source.paths if path.count("/") == 1 and "." not in path]
    if sets:
        front["datasets"] = list(dict.fromkeys(sets))
    if figures:
        results = {
            "task": {"type": task},
            "dataset": {"name": measured_on, "type": "edits"},
            "metrics": [_metric(name, value) for name, value in figures],
        }
        front["model-index"] = [{"name": folder.name, "results": [results]}]
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---"


def _metric(name: str, value: float) -> JsonObject:
    return {"type": name.replace(" ", "_"), "name": name, "value": round(value, 4)}


def _sources(folder: RunFolder) -> dict[str, Source]:
    """The data of a run, by name."""
    sources = {}
    for name in SOURCES:
        source = getattr(folder.recipe.data, name)
        if source is not None:
            sources[name] = source
    return sources


def _data(folder: RunFolder) -> str:
    """A line for each source of data."""
    lines = []
    for name, source in _sources(folder).items():
        path = _plain(source.name).replace("`", "")
        records = folder.count(folder.files.data(name))
        lines.append(f"- {name.replace('_', ' ')}: `{path}`, {records:,} records\n")
    return "".join(lines)


def _settings(values: JsonObject) -> str:
    """The table of settings."""
    return "".join(f"| {name} | {_plain(str(value))} |\n" for name, value in values.items())


def _results(compared: JsonObject, start: str) -> str:
    """The table of a comparison with what the policy began from."""
    low, high = compared["ci95"]
    win_rate = f"{percent(compared['win_rate'])} (95 % interval {percent(low)} to {percent(high)})"
    rows = [
        (f"win rate over the {start}", win_rate),
        ("held-out prompts", number(compared["n"])),
        ("judge", _plain(str(compared["judge"]))),
    ]
    if compared.get("kl") is not None:
        rows.append((f"KL from the {start}, nats a response", number(compared["kl"])))
    if compared.get("perplexity_a") is not None:
        before, after = number(compared["perplexity_b"]), number(compared["perplexity_a"])
        rows.append((f"perplexity under the {start}, before and after", f"{before}, {after}"))
    if text := compared.get("text"):
        before, after = (percent(text[side]["distinct_bigrams"]) for side in ("b", "a"))
        rows.append(("distinct bigrams, before and after", f"{before}, {after}"))
    return "| figure | value |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def _plain(text: str) -> str:
    """Text in a table or heading of Markdown: nothing in it is HTML, a new line, or a cell's end."""
    return visible(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
