"""Redline makes a language model better from the corrections that people make to its answers.

The names below are the Python API; docs/python.md shows them at work. Each is loaded when it is first used,
so that ``import redline`` is quick and needs no torch.

    edits = redline.read_edits("edits.jsonl")
    labels = list(redline.label_edits(edits, "smollm2-135m"))
    reward = redline.TokenReward.from_pretrained("runs/demo/reward")
    reward.score(["It was"], [" a good film."])[0].rewards
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:  # for type checkers and editors: the same names as in _HOMES
    from redline.data.load import read_edits, read_records
    from redline.data.records import Edit, Labels, Pair, Prompt, Response
    from redline.engine.settings import Adapt, Model
    from redline.errors import UserError
    from redline.judge.compare import compare
    from redline.judge.judges import load_judge
    from redline.judge.protocol import Judge
    from redline.judge.winrate import WinRate
    from redline.label.stage import label_edits
    from redline.policy.settings import Policy
    from redline.policy.train import PolicySummary, train_policy
    from redline.recipe import Recipe
    from redline.reward.quality import RewardMetrics
    from redline.reward.settings import Reward
    from redline.reward.token_reward import ScoredResponse, TokenReward
    from redline.reward.train import train_reward
    from redline.run.python import FinishedRun, run_recipe
    from redline.sampling.rollouts import sample_responses
    from redline.sampling.settings import Sampling

_HOMES = {
    # records, and how they are read
    "Edit": "data.records",
    "Pair": "data.records",
    "Prompt": "data.records",
    "Response": "data.records",
    "Labels": "data.records",
    "read_edits": "data.load",
    "read_records": "data.load",
    # the stages
    "label_edits": "label.stage",
    "train_reward": "reward.train",
    "train_policy": "policy.train",
    "sample_responses": "sampling.rollouts",
    "compare": "judge.compare",
    "run_recipe": "run.python",
    # what they are told: sections of a recipe
    "Recipe": "recipe",
    "Model": "engine.settings",
    "Adapt": "engine.settings",
    "Reward": "reward.settings",
    "Policy": "policy.settings",
    "Sampling": "sampling.settings",
    # what they give
    "RewardMetrics": "reward.quality",
    "PolicySummary": "policy.train",
    "WinRate": "judge.winrate",
    "FinishedRun": "run.python",
    "TokenReward": "reward.token_reward",
    "ScoredResponse": "reward.token_reward",
    # judges, and mistakes
    "Judge": "judge.protocol",
    "load_judge": "judge.judges",
    "UserError": "errors",
}

__all__ = [
    "Adapt",
    "Edit",
    "FinishedRun",
    "Judge",
    "Labels",
    "Model",
    "Pair",
    "Policy",
    "PolicySummary",
    "Prompt",
    "Recipe",
    "Response",
    "Reward",
    "RewardMetrics",
    "Sampling",
    "ScoredResponse",
    "TokenReward",
    "UserError",
    "WinRate",
    "compare",
    "label_edits",
    "load_judge",
    "read_edits",
    "read_records",
    "run_recipe",
    "sample_responses",
    "train_policy",
    "train_reward",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'redline' has no attribute '{name}'")
    value = getattr(import_module(f"redline.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
