"""``redline extrapolate``: a finished policy, further along its way from the original."""

import json
from collections.abc import Sequence
from pathlib import Path

from redline.console import print_json
from redline.data.check import Rejects
from redline.data.read import read
from redline.data.reading import Reading
from redline.data.records import Prompt
from redline.errors import UserError
from redline.functions import is_function_name


def extrapolate_command(
    policy: Path,
    out: Path,
    strengths: Sequence[float],
    original: str | None,
    reward: str | None,
    prompts: str | None,
    count: int,
    max_new_tokens: int,
    kl_limit: float,
    seed: int,
    as_json: bool = False,
) -> None:
    """Write ``policy`` at a strength to ``out``; of several strengths the one that a search on ``prompts`` by
    ``reward`` comes to. Prints the strength; ``as_json`` adds what the search measured. Raises UserError for
    what is missing, before anything is loaded."""
    if not strengths:
        raise UserError("--strength is missing: 1 is the policy itself, 1.5 half as far again.")
    if out.resolve() == policy.resolve():
        raise UserError(f"--out {out}: is the policy itself. Choose another folder.")
    if len(strengths) > 1 and (reward is None or prompts is None):
        raise UserError(
            "several strengths are a search, which needs --reward (a reward model's folder, or "
            "file.py:function) and --prompts. Or give one strength."
        )
    from redline.data.tokenization import load_tokenizer
    from redline.direct.extrapolate import Measured, Search, Way, as_plain, decide, write_search
    from redline.engine.saving import save
    from redline.engine.settings import ADAPTER, Adapt, Model
    from redline.policy.actor import ActorCritic
    from redline.reward.rewards import build_reward
    from redline.reward.settings import RewardTerm
    from redline.sampling.local import InProcess
    from redline.sampling.settings import Sampling

    if not policy.is_dir():
        raise UserError(f"{policy}: there is no such folder.")
    adapter = policy / ADAPTER / "adapter_config.json"
    if adapter.exists():
        config = json.loads(adapter.read_text(encoding="utf-8"))
        layers = config.get("layers_to_transform")
        adapt = Adapt(lora_rank=config["r"], train_layers=len(layers) if layers else None)
        original = original or config["base_model_name_or_path"]
    else:
        adapt = Adapt(lora_rank=0)
        if original is None:
            raise UserError(
                f"{policy}: has no adapter, so the model that it was trained from has to be named: "
                "--original NAME."
            )
    model = Model(name=str(original))
    tokenizer = load_tokenizer(model.name)
    actor = ActorCritic(model, adapt)
    way = Way(actor, policy)
    strength = strengths[0]
    measured: list[Measured] = []
    if len(strengths) > 1:
        assert reward is not None  # asked above
        assert prompts is not None
        term = RewardTerm(function=reward) if is_function_name(reward) else RewardTerm(model=reward)
        scored = build_reward([term], None, tokenizer, actor.lm, actor.trunk)
        with Rejects() as rejects:
            asked = list(read(Reading(limit=count).source(prompts), Prompt, rejects))
        if len(asked) < 2:
            raise UserError(f"--prompts {prompts}: a search needs at least two prompts.")
        sampling = Sampling(max_new_tokens=max_new_tokens)
        search = Search(actor, way, tokenizer, asked, scored, InProcess(), sampling, seed)
        measured = search.over(strengths)
        strength = decide(measured, kl_limit)
        write_search(out, measured, strength)
    way.go_to(strength)
    save(actor.lm, actor.peft, tokenizer, out, model.name)
    if as_json:
        print_json({"out": str(out), "strength": strength, "measured": list(map(as_plain, measured))})
    else:
        print(f"{out}: strength {strength:g}")
