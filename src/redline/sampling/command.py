"""``redline sample``: answers of a model to a file of prompts, for people or an LLM to correct."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from redline.chat import Chat, NoAnswer, open_chat
from redline.console import Bar, print_json, progress_bar, say
from redline.data.check import Rejects
from redline.data.files import check_apart
from redline.data.fits import fits_model
from redline.data.read import read, read_files
from redline.data.records import Prompt, Response
from redline.data.settings import Source
from redline.edit.journal import Journal
from redline.engine.settings import Model
from redline.errors import UserError
from redline.sampling.settings import Sampling, VllmServer
from redline.types import JsonObject

BATCH = 32  # responses drawn at once, where no server says how many
Score = Callable[[Prompt, Sequence[str]], list[float]]


def sample_command(
    model: str,
    prompts: Source,
    out: Path,
    sampling: Sampling,
    *,
    n: int = 1,
    worst_by: str | None = None,
    seed: int = 0,
    base_url: str | None = None,
    concurrency: int = 8,
    sampler: str | VllmServer | None = None,
    as_json: bool = False,
) -> int:
    """Sample ``n`` responses to each prompt into ``out`` and return the number of records there.

    A record has the response twice: as ``response``, which comparisons read, and as ``rejected``, which
    ``edit`` and ``annotate`` ask to have corrected. With ``worst_by``, a reward model, a record holds the
    worst of the ``n`` responses, by mean reward a token (of a sequence model: by its reward). ``sampler``, as
    ``policy.sampler`` in a recipe, draws in place of this process. Empty responses are left out and counted;
    ``as_json`` prints the counts. Started again, the command goes on where it stopped. Raises UserError where
    ``out`` holds answers of another model, or where prompts stayed without an answer.
    """
    check_apart([out], read_files(prompts))
    if sampler is not None and base_url is not None:
        raise UserError("sample: --sampler and --base-url both say who draws. Give one of them.")
    if worst_by is not None and n < 2:
        raise UserError(f"--worst-by {worst_by}: the worst of one is that one. Give --n 2 or more.")
    with Rejects.beside(out) as rejects:
        refuse = None if base_url is not None else fits_model(model)
        asked = list(read(prompts, Prompt, rejects, refuse=refuse))
        if not asked:
            raise UserError(f"{prompts.name}: holds no prompts ({rejects.summary()}).")
        with Journal(out) as journal:
            answers = _Answers(journal, rejects, model, n, None if worst_by is None else scorer(worst_by))
            answers.check_same_model(asked)
            todo = [prompt for prompt in asked if not answers.has(prompt)]
            with progress_bar(f"sample {model}", len(asked), len(asked) - len(todo)) as bar:
                if base_url is None:
                    _draw(model, asked, todo, sampling, seed, answers, bar, sampler)
                else:
                    _ask(model, base_url, todo, sampling, concurrency, answers, bar)
            journal.settle([name for prompt in asked for name in answers.names(prompt)])
            rejects.kept = len(journal.ids)
        rejects.report(str(out))
    if answers.failed:
        first, why = next(iter(answers.failed.items()))
        raise UserError(
            f"prompts without an answer: {len(answers.failed)} (the first, {first}: {why}). The same command "
            "asks for them again."
        )
    if as_json:
        print_json({"out": str(out), "model": model} | rejects.as_json())
    return rejects.kept


def scorer(reward: str) -> Score:
    """What says how good responses to a prompt are: a reward model, by its folder or name."""
    from redline.reward.model import load_reward_model

    model = load_reward_model(reward)

    def score(prompt: Prompt, responses: Sequence[str]) -> list[float]:
        scored = model.score([prompt.prompt] * len(responses), list(responses))
        return [
            float(rewards.sum() if model.kind == "sequence" else rewards.mean()) if len(rewards) else 0.0
            for _, _, rewards in scored
        ]

    return score


class _Answers:
    """Writes the answers to a prompt, and knows which prompts have theirs."""

    def __init__(self, journal: Journal, rejects: Rejects, model: str, n: int, score: Score | None):
        self._journal, self._rejects, self._model, self._n, self._score = journal, rejects, model, n, score
        self.failed: dict[str, str] = {}

    @property
    def n(self) -> int:
        return self._n

    def names(self, prompt: Prompt) -> list[str]:
        """The ids of a prompt's records."""
        if self._n == 1 or self._score is not None:
            return [prompt.id]
        return [f"{prompt.id}.{place}" for place in range(1, self._n + 1)]

    def has(self, prompt: Prompt) -> bool:
        return all(name in self._journal.places for name in self.names(prompt))

    def check_same_model(self, prompts: Sequence[Prompt]) -> None:
        """Raises UserError where the file holds what these prompts, model and ``n`` do not make."""
        expected = {name for prompt in prompts for name in self.names(prompt)}
        for name in self._journal.places:
            made_by = (self._journal.record(name).model_extra or {}).get("model")
            if name not in expected or made_by != self._model:
                raise UserError(
                    f"{self._journal.path}: holds other answers (record {name}, by {made_by}). Choose "
                    "another --out, or give the prompts, model and --n that it was begun with."
                )

    def write(self, prompt: Prompt, texts: Sequence[str]) -> None:
        """On disk, at once."""
        names = self.names(prompt)
        usable = [text for text in texts if text.strip()]
        if self._score is not None and usable:
            rewards = self._score(prompt, usable)
            worst = min(range(len(usable)), key=rewards.__getitem__)
            self._append(prompt, names[0], usable[worst], {"reward": rewards[worst], "of": len(usable)})
            return
        if not usable:
            self._rejects.add("every response is empty", self._journal.path.name, None, prompt)
        for name, text in zip(names, texts, strict=False):
            if text.strip() and name not in self._journal.places:
                self._append(prompt, name, text, {})

    def _append(self, prompt: Prompt, name: str, text: str, more: JsonObject) -> None:
        carried = prompt.model_extra or {}
        record = {"prompt": prompt.prompt, "response": text, "rejected": text, "model": self._model}
        self._journal.append(Response.model_validate(carried | record | more | {"id": name}))


def _draw(
    name: str,
    asked: Sequence[Prompt],
    todo: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    answers: _Answers,
    bar: Bar,
    drawn_by: str | VllmServer | None,
) -> None:
    """In this process, or by a sampler: a model's name, its folder, the embedded one. A response depends on
    its prompt's place in the file and the seed, so that a run that is gone on with draws what it would have
    drawn."""
    if not todo:
        return
    from redline.data.tokenization import decode_response, load_tokenizer
    from redline.engine.models import eos_ids, load_causal_lm
    from redline.engine.saving import ADAPTER
    from redline.sampling.check import check_sampling
    from redline.sampling.open import open_sampler
    from redline.sampling.protocol import CurrentPolicy, Request
    from redline.sampling.rollouts import prompt_tokens, sample_rollout

    model = Model(name=name)
    lm, tokenizer = load_causal_lm(model), load_tokenizer(name)
    adapter = Path(name) / ADAPTER
    sampler, policy = open_sampler(drawn_by), CurrentPolicy(lm, adapter if adapter.is_dir() else None)
    sampler.sync(policy)
    check_sampling(lm, list(map(len, prompt_tokens(tokenizer, todo))), sampling.max_new_tokens)
    stop = eos_ids(lm, tokenizer, [prompt.prompt for prompt in todo])
    places = {prompt.id: place * answers.n for place, prompt in enumerate(asked)}
    at_once = drawn_by.concurrency if isinstance(drawn_by, VllmServer) else BATCH
    size = max(1, at_once // answers.n)
    for first in range(0, len(todo), size):
        some = todo[first : first + size]
        drawn_at = [places[prompt.id] + turn for prompt in some for turn in range(answers.n)]
        request = Request(sampling, stop, seed, places=drawn_at)
        rollout = sample_rollout(sampler, policy, prompt_tokens(tokenizer, some), request, n=answers.n)
        rows = iter(rollout.response_ids)
        for prompt in some:
            responses = [next(rows) for _ in range(answers.n)]
            texts = [decode_response(tokenizer, ids.tolist(), prompt.prompt) for ids in responses]
            answers.write(prompt, texts)
            bar.advance()


def _ask(
    model: str,
    base_url: str,
    todo: Sequence[Prompt],
    sampling: Sampling,
    concurrency: int,
    answers: _Answers,
    bar: Bar,
) -> None:
    """At an OpenAI-compatible endpoint, several prompts at once."""
    if sampling.top_k or sampling.top_p < 1 or sampling.min_new_tokens:
        say("sample: an endpoint is given temperature and length alone")

    async def ask_one(chat: Chat, prompt: Prompt) -> None:
        messages = prompt.prompt
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        try:
            got = [await chat.ask(messages, sampling.max_new_tokens) for _ in range(answers.n)]
        except NoAnswer as error:
            answers.failed[prompt.id] = str(error)
        else:
            answers.write(prompt, [answer.text for answer in got])
        bar.advance()

    async def ask_all() -> None:
        waiting = iter(todo)

        async def work(chat: Chat) -> None:
            for prompt in waiting:
                await ask_one(chat, prompt)

        chat = open_chat(model, base_url, concurrency=concurrency, temperature=sampling.temperature)
        async with chat:
            await asyncio.gather(*(work(chat) for _ in range(min(concurrency, len(todo)))))

    asyncio.run(ask_all())
