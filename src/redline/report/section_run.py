"""The page's section on the run itself: the recipe in a few lines, and what each stage took."""

from typing import TypedDict

from redline.direct.settings import DirectBestOfN, DirectExpo
from redline.recipe import Recipe
from redline.report.folder import RunFolder
from redline.urls import without_logins

Fact = tuple[str, str]


class Setup(TypedDict):
    """What the template shows of a run."""

    facts: list[Fact]
    method: str
    stages: list[Fact]
    total: str
    recipe: str


def setup(run: RunFolder) -> Setup:
    """The recipe in a few lines, what each stage took, and the recipe itself."""
    recipe = run.recipe
    facts = [("Model", recipe.model.name)]
    if run.files.reward.folder.exists() or recipe.trains_reward:
        facts.append(("Reward model", _reward_of(recipe)))
    facts.append(("Policy", _policy_of(recipe)))
    if recipe.direct is None:
        facts.append(("KL", _kl_of(recipe)))
    sampling = recipe.policy.sampling
    facts += [
        ("Sampling", f"at most {sampling.max_new_tokens} tokens, temperature {sampling.temperature:g}"),
        ("Judge", recipe.compare.judge),
        ("Seed", str(recipe.seed)),
    ]
    seconds = _seconds_by_stage(run)
    return {
        "facts": facts,
        "method": method_of(recipe),
        "stages": [(name, duration(took)) for name, took in seconds.items() if took >= 0.5],
        "total": duration(sum(seconds.values())),
        "recipe": without_logins(run.files.recipe.read_text(encoding="utf-8", errors="replace")),
    }


def _seconds_by_stage(run: RunFolder) -> dict[str, float]:
    seconds = {}
    for name, entry in (run.json(run.files.state) or {}).items():
        took = entry.get("seconds") if isinstance(entry, dict) else None
        if isinstance(took, int | float):
            seconds[name] = float(took)
    return seconds


def _reward_of(recipe: Recipe) -> str:
    reward = recipe.reward
    backbone = (reward.model or recipe.model).name
    depth = f", its first {reward.depth} layers" if reward.depth else ""
    trained = _trained_layers(reward.adapt.lora_rank, reward.adapt.train_layers)
    loss = f"{reward.kind} rewards, {reward.loss} loss"
    return f"{loss}, on {backbone}{depth}; {trained}; {reward.epochs:g} epochs"


def _policy_of(recipe: Recipe) -> str:
    if isinstance(recipe.direct, DirectBestOfN):
        return method_of(recipe)
    adapt = recipe.policy.adapt
    return f"{method_of(recipe)}; {_trained_layers(adapt.lora_rank, adapt.train_layers)}"


def _kl_of(recipe: Recipe) -> str:
    kl = recipe.policy.kl
    if kl.target is None:
        return f"fixed coefficient {kl.coefficient:g}"
    return f"aimed at {kl.target:g} nats a response"


def _trained_layers(rank: int, layers: int | None) -> str:
    which = f"the upper {layers} layers" if layers else "all layers"
    return f"LoRA of rank {rank} on {which}" if rank else f"full fine-tuning of {which}"


def method_of(recipe: Recipe) -> str:
    """How a run's policy is made, in a few words."""
    direct = recipe.direct
    if direct is None:
        policy = recipe.policy
        return f"{_ppo_reward_of(recipe)}, {policy.updates} updates of {policy.batch_size} responses"
    name = direct.summary or direct.method
    if isinstance(direct, DirectBestOfN):
        return f"{name}, n = {direct.n}"
    if isinstance(direct, DirectExpo):
        return f"{name}: {direct.policy}"
    rounds = getattr(direct, "rounds", None)
    rounds_text = f", {rounds} rounds" if rounds else ""
    return f"{name}{rounds_text}, {direct.epochs:g} epochs in steps of {direct.batch_size}"


def _ppo_reward_of(recipe: Recipe) -> str:
    """PPO, and whether its reward is for every token or for the response, where that is known."""
    terms = recipe.policy.reward
    spreads = [term.spread for term in terms if term.own]
    if recipe.reward.kind == "token" and set(spreads) - {"last"}:
        return "PPO with a reward for every token"
    if len(spreads) == len(terms):
        return "PPO with a reward for every response"
    return "PPO"  # of functions and other models nobody knows


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
