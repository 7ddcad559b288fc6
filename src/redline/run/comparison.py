"""The stage `compare`, and the judge that watches a policy while it learns."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from redline.console import say
from redline.data.files import read_json, read_jsonl, write_json, write_jsonl
from redline.data.records import Prompt, Response
from redline.data.settings import Source
from redline.direct.settings import DirectBestOfN
from redline.engine.processes import this_process
from redline.errors import UserError
from redline.judge.settings import JudgedBy
from redline.run.depends import Depends
from redline.run.files import SYSTEMS
from redline.run.folder import made_with
from redline.run.job import Job
from redline.sampling.settings import Sampling
from redline.types import JsonObject
from redline.urls import without_login

if TYPE_CHECKING:
    from redline.judge.protocol import Judge
    from redline.policy.watch import Gold


def compare(job: Job) -> None:
    """Responses of the policy and of the model it started from, judged. Responses that are there from the
    same policy, prompts and sampling are judged again, and not sampled again."""
    from redline.judge.compare import compare as judged
    from redline.judge.judges import judge_of

    judge = judge_of(job.recipe.compare)
    files = job.files
    if job.selects_best_of_n:
        policy, reference, measured = _best_of_n(job, judge)
        _write_responses(job, policy, reference)
    else:
        policy, reference, measured = _side_by_side(job)
    result = judged(policy, reference, judge, files.verdict_cache, job.recipe.seed, files.verdicts, SYSTEMS)
    write_json(files.winrate, result.as_json() | measured)


def _side_by_side(job: Job) -> tuple[list[Response], list[Response], JsonObject]:
    """The responses of both, and what is measured meanwhile: KL, perplexity."""
    from redline.engine.models import for_training
    from redline.policy.evaluate import side_by_side
    from redline.sampling.open import open_sampler

    files, recipe = job.files, job.recipe
    sampled = Depends(recipe, made_with).sampled()
    if files.sampled.exists():
        before = read_json(files.sampled)
        if before["settings"] == sampled:
            policy, reference = (list(read_jsonl(files.responses(name), Response)) for name in SYSTEMS)
            say("the responses are there already: they are only judged")
            return policy, reference, before["measured"]
    sampling = recipe.compare.sampling or recipe.policy.sampling
    # as they were trained, but for 4-bit weights: a policy is saved whole, and would be rounded
    start = for_training(job.model, recipe.policy.adapt.lora_rank)
    base = start.model_copy(update={"load_in_4bit": False})
    trained = base.model_copy(update={"name": str(files.policy.folder), "revision": None})
    sampler = open_sampler(recipe.policy.sampler)
    policy, reference, measured = side_by_side(
        trained, base, _compared(job), sampling, recipe.seed + 1, sampler
    )
    _write_responses(job, policy, reference)
    write_json(files.sampled, {"settings": sampled, "measured": measured})
    return policy, reference, measured


def _compared(job: Job) -> list[Prompt]:
    prompts = job.held_out_prompts()
    if not prompts:
        raise UserError("compare: no prompts that training has not seen. Give data.eval_prompts.")
    return prompts[: job.recipe.compare.limit]


def _write_responses(job: Job, policy: list[Response], reference: list[Response]) -> None:
    """The responses, and for the report what the reward model makes of them."""
    from redline.reward.score import score_file

    files = job.files
    for name, responses in zip(SYSTEMS, (policy, reference), strict=True):
        write_jsonl(files.responses(name), responses)
        if files.reward.folder.exists():
            written = Source(path=str(files.responses(name)))
            score_file(written, str(files.reward.folder), files.scores(name))


def _best_of_n(job: Job, judge: "Judge") -> tuple[list[Response], list[Response], JsonObject]:
    """The best of n and the reference, judged also for smaller n."""
    from redline.direct.best_of_n import best_of_n, kl_of
    from redline.judge.compare import compare as judged
    from redline.sampling.open import open_sampler

    recipe, files = job.recipe, job.files
    assert isinstance(recipe.direct, DirectBestOfN)  # asked before
    own = files.reward.folder
    sampling: Sampling = recipe.compare.sampling or recipe.policy.sampling
    best, reference, measured = best_of_n(
        job.model,
        recipe.policy.reward,
        own if own.exists() else None,
        _compared(job),
        sampling,
        recipe.direct.n,
        recipe.seed + 1,
        open_sampler(recipe.policy.sampler),
    )
    points = []
    for n, responses in best.items():
        result = judged(
            responses,
            reference,
            judge,
            files.verdict_cache,
            recipe.seed + 1,
            files.curve_verdicts(n),
            (f"best of {n}", "reference"),
        )
        points.append(
            {
                "n": n,
                "gold": result.win_rate,
                "gold_error": result.standard_error,
                "gold_kl": kl_of(n),
            }
        )
    write_jsonl(files.curve, points)
    return best[recipe.direct.n], reference, measured


def watching_judge(job: Job) -> "Gold | None":
    """The judge that watches the policy while it learns; None, and the console says why, where none can or
    may."""
    from redline.judge.cache import VerdictCache
    from redline.judge.judges import judge_of
    from redline.judge.protocol import Judge
    from redline.judge.verdicts import judge_pairs
    from redline.policy.watch import Gold

    watch, compare = job.recipe.watch, job.recipe.compare
    if not watch.every:
        return None
    prompts, name = job.held_out_prompts(), watch.judge or compare.judge
    why = _why_nobody_watches(job, prompts)
    if why:
        say(f"no judge watches this training: {why}")
        return None
    asked = compare if name == compare.judge else JudgedBy(judge=name)
    own = {"base_url": watch.base_url, "api_key_env": watch.api_key_env}
    asked = asked.model_copy(update={key: value for key, value in own.items() if value})
    judge: Judge | None = judge_of(asked) if this_process().is_main_process else None

    def prefer(policy: Sequence[Response], reference: Sequence[Response]) -> list[float | None]:
        assert judge is not None  # only the main process judges
        pairs = [(a.prompt, a.response, b.response) for a, b in zip(policy, reference, strict=True)]
        with VerdictCache(job.files.policy.watch.verdict_cache) as cache:
            return [verdict.preference for verdict in judge_pairs(judge, pairs, cache, show=False)]

    return Gold(name, prefer, prompts[: watch.prompts], watch.every)


def _why_nobody_watches(job: Job, prompts: Sequence[Prompt]) -> str:
    watch, compare = job.recipe.watch, job.recipe.compare
    name = watch.judge or compare.judge
    if len(prompts) < 2:
        return "there are not two prompts that training has not seen"
    if name.startswith("human"):
        return "people cannot be asked while it learns"
    if watch.judge is None and compare.base_url:
        where = without_login(compare.base_url)
        return f"{name} at {where} may cost money; name it in watch.judge if it shall"
    if watch.judge is None and name == "vader" and not find_spec("vaderSentiment"):
        return "vaderSentiment is not installed"
    return ""
