"""An LLM as the judge, through any OpenAI-compatible endpoint."""

import asyncio
import hashlib
import json
import math
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from redline.chat import Answer, Endpoint, NoAnswer
from redline.data.records import Text, as_text
from redline.errors import UserError
from redline.judge.length import ANCHOR
from redline.urls import without_login

BUILT_IN = Path(__file__).parent / "templates"
PLACES = re.compile(r"\{(prompt|a|b)\}")
VERDICTS = {"a": 1.0, "b": 0.0, "tie": 0.5}


class LlmJudge:
    """A pinned model at temperature 0, asked with a template for a verdict in one of two forms.

    ``json``: an object whose ``verdict`` is "A", "B" or "tie"; room for a reason before it. ``token``: one
    letter, whose log-probabilities give a graded preference P(A) / (P(A) + P(B)) where the endpoint returns
    them, else the letter itself. Requests are repeated as ``redline.chat.Endpoint`` says; one that stays
    without an answer, or an answer without a verdict, is a failure, counted. Raises UserError where nothing
    can be asked at all: no connection, no access, or an endpoint that stays down.
    """

    both_orders = True
    batch_size = 1
    length_prior: tuple[float, float] | None = ANCHOR

    def __init__(
        self,
        model: str,
        base_url: str,
        template: str | None = None,
        verdict: str = "json",
        concurrency: int = 8,
        retries: int = 6,
        api_key_env: str | None = None,
    ):
        if verdict not in ("json", "token"):
            raise UserError(f"`{verdict}`: an LLM's verdict is read as json or token.")
        if concurrency < 1:
            raise UserError(f"concurrency is {concurrency}: at least one request must be under way.")
        self.verdict, self.concurrency, self.name = verdict, concurrency, model
        self._system, self._question = read_template(template or str(BUILT_IN / f"{verdict}.txt"))
        self.settings: dict[str, object] = {
            "judge": "llm",
            "model": model,
            "base_url": without_login(base_url),
            "temperature": 0,
            "verdict": verdict,
            "template_sha256": hashlib.sha256(f"{self._system}\n---\n{self._question}".encode()).hexdigest()[
                :16
            ],
        }
        self.failures: dict[str, int] = {}
        self._lock, self._unanswered = (
            threading.Lock(),
            0,
        )  # requests in a row, each made again as often as it may be
        self._endpoint = Endpoint(
            model,
            base_url,
            retries=retries,
            temperature=0,
            top_logprobs=20 if verdict == "token" else None,
            api_key_env=api_key_env,
        )
        self._loop = (
            asyncio.new_event_loop()
        )  # one for all calls, from whichever thread: connections stay open between them
        threading.Thread(target=self._loop.run_forever, name=f"judge {model}", daemon=True).start()
        self._places = asyncio.Semaphore(concurrency)

    def prefer(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[float | None]:
        asked = [
            asyncio.run_coroutine_threadsafe(self._one(*pair), self._loop)
            for pair in zip(prompts, a, b, strict=True)
        ]
        try:
            return [verdict.result() for verdict in asked]
        finally:
            for verdict in asked:
                verdict.cancel()

    async def _one(self, prompt: Text, a: Text, b: Text) -> float | None:
        values = {"prompt": as_transcript(prompt), "a": as_transcript(a), "b": as_transcript(b)}

        def fill(text: str) -> str:  # in one pass, so that a response which contains "{b}" stays as it is
            return PLACES.sub(lambda place: values[place[1]], text)

        messages = [{"role": "user", "content": fill(self._question)}]
        if self._system:
            messages.insert(0, {"role": "system", "content": fill(self._system)})
        try:
            async with self._places:
                answer = await self._endpoint.ask(messages, max_tokens=1 if self.verdict == "token" else None)
        except NoAnswer as error:
            self._count(str(error))
            self._unanswered += not error.final
            limit = max(
                5, self.concurrency
            )  # named as it is: of the requests under way with the last, any may be seen first
            if self._unanswered >= limit:
                raise UserError(
                    f"{self.settings['base_url']}: {limit} requests in a row got no answer (the last: "
                    f"{error}). Mend that; the same command goes on where this one stopped."
                ) from error
            return None
        self._unanswered = 0
        if (
            self.verdict == "json" and not answer.whole
        ):  # it may have said the form of a verdict, but not yet its own
            self._count("an answer cut at the endpoint's length limit")
            return None
        found = read_token(answer) if self.verdict == "token" else read_json_verdict(answer.text)
        if found is None:
            self._count("no verdict in the answer")
        return found

    def _count(self, reason: str) -> None:
        with self._lock:
            self.failures[reason] = self.failures.get(reason, 0) + 1


def read_template(path: str) -> tuple[str, str]:
    """A template's system message (may be empty) and question: two parts of a text file, separated by a line
    ``---``.

    ``{prompt}``, ``{a}`` and ``{b}`` stand for the request and the two responses; other braces are text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the template cannot be read ({error}).") from error
    system, line, question = text.partition("\n---\n")
    if not line:
        system, question = "", text
    missing = [place for place in ("prompt", "a", "b") if f"{{{place}}}" not in question]
    if missing:
        raise UserError(
            f"{path}: the template's question lacks {{{missing[0]}}}. It needs {{prompt}}, {{a}} and {{b}}."
        )
    return system.strip(), question.strip()


def read_json_verdict(answer: str) -> float | None:
    """The preference for A: 1, 0, or 0.5 for a tie, from the last JSON object in the text that has a verdict;
    None without one.

    The last, because models may think aloud first; what lies inside an object with a verdict is none.
    """
    decoder, found, end = json.JSONDecoder(), None, 0
    for brace in re.finditer(r"\{", answer):
        if brace.start() < end:
            continue
        try:
            value, after = decoder.raw_decode(answer, brace.start())
        except (ValueError, RecursionError):  # the latter where a model repeats its brackets without end
            continue
        if "verdict" in value:
            found, end = VERDICTS.get(str(value["verdict"]).strip().lower(), found), after
    return found


def read_token(answer: Answer) -> float | None:
    """P(A) / (P(A) + P(B)) of the first token; without log-probabilities 1 or 0 by the letter that the text
    starts with.

    None where neither letter is among the likeliest tokens, or where the text starts with something else.
    """
    if answer.first_token:
        mass = {"A": 0.0, "B": 0.0}
        for token, logprob in answer.first_token.items():
            if token.strip() in mass:
                mass[token.strip()] += math.exp(logprob)
        total = mass["A"] + mass["B"]
        return mass["A"] / total if total > 0 else None
    letter = re.match(r"\W*([AB])\b", answer.text)
    return VERDICTS[letter[1].lower()] if letter else None


def as_transcript(text: Text) -> str:
    """Plain text as it is; a conversation with its speakers named, unless one message is all there is."""
    if isinstance(text, str) or len(text) == 1:
        return as_text(text)
    return "\n\n".join(
        f"[{message.get('role', 'unknown')}]\n{message.get('content', '')}" for message in text
    )
