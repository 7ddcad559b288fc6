"""Workers that ask an LLM for edits: asked concurrently, each answer through the gates, each finished record
on disk before the next."""

import asyncio
import contextlib
import hashlib
import json
from collections import deque
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from redline.chat import Answer, Chat, Messages, NoAnswer, open_chat
from redline.console import Bar, progress_bar
from redline.data.alignment import edit_ratio
from redline.data.records import Edit, ToEdit
from redline.data.units import units
from redline.edit.counts import Counts
from redline.edit.gates import Refusal, check
from redline.edit.journal import Journal
from redline.edit.prompts import (
    VERIFY_FIELDS,
    NotParsed,
    Parsed,
    Template,
    conversation,
    load_template,
    parse_answer,
    question,
    response_text,
    with_text,
)
from redline.edit.settings import EditWith
from redline.edit.verify import Verdict, verify
from redline.errors import UserError
from redline.types import JsonObject
from redline.urls import without_login

AGAIN = "That answer cannot be used: {why}. Answer my first message again, in exactly the form it asks for."
NOT_BETTER = (
    "asked which of the two is better, a judge did not prefer it to the original response in both orders"
)


def answers_path(out: Path) -> Path:
    """Where answers wait for the judge's: a hidden file beside EDITS.jsonl, gone when every pair is
    finished."""
    return out.with_name(f".{out.name}.answers")


@dataclass
class _Judged:
    """What is known of an answer after the gates: its edit, and why it is refused, if it is."""

    parsed: Parsed | None
    refusal: Refusal | None
    verdict: Verdict | None = None


def _refused(why: str) -> _Judged:
    """An answer that holds no edit."""
    return _Judged(None, Refusal("parsed", why))


class Editor:
    """One call of ``edit_pairs``: workers that take pairs, ask, and write down what came of it."""

    def __init__(
        self,
        settings: EditWith,
        template: Template,
        guideline: str,
        edits: Journal,
        rejects: Journal,
        counts: Counts,
    ):
        self._settings, self._template, self._guideline = settings, template, guideline
        self._edits, self._rejects, self._counts = edits, rejects, counts
        self._verify_template = load_template("verify", VERIFY_FIELDS)
        # refused by the endpoint before it answered anything: it may refuse all
        self._held: list[JsonObject] = []
        self._unanswered = 0  # pairs in a row
        self._answered_before = counts.before > counts.refused["input"]  # whether earlier calls had answers
        self._failure: UserError | None = None
        self._answers: Journal | None = None

    async def run(self, pairs: list[ToEdit]) -> None:
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            if settings.verify or answers_path(self._edits.path).exists():
                self._answers = stack.enter_context(Journal(answers_path(self._edits.path), keep_empty=False))
            self._chat = await stack.enter_async_context(_open(settings, settings.model))
            self._judge = self._chat
            if settings.verify and settings.verify_model not in (None, settings.model):
                self._judge = await stack.enter_async_context(_open(settings, str(settings.verify_model)))
            with progress_bar("edit", self._counts.pairs, self._counts.before) as bar:
                waiting = deque(pairs)
                count = min(settings.concurrency, len(pairs))
                workers = [asyncio.create_task(self._work(waiting, bar)) for _ in range(count)]
                try:
                    await asyncio.gather(*workers)
                finally:
                    for worker in workers:
                        worker.cancel()
                    await asyncio.gather(*workers, return_exceptions=True)
                    self._counts.retries = self._chat.retries_made
                    if self._judge is not self._chat:
                        self._counts.retries += self._judge.retries_made
        if self._failure:
            raise self._failure
        if self._held and not self._answered_before:
            raise UserError(
                f"{_where(settings)}: every request was refused ({self._held[0]['why']}). Nothing was "
                "written."
            )
        for record in self._held:
            self._write(record)

    async def _work(self, waiting: deque[ToEdit], bar: Bar) -> None:
        while waiting:
            pair = waiting.popleft()
            try:
                record = await self._edit(pair)
            except UserError as error:
                # ask nothing more, but keep the answers that are under way: they are paid for
                waiting.clear()
                self._failure = self._failure or error
                return
            except NoAnswer as error:
                self._no_answer(pair, error)
            else:
                self._unanswered = 0
                self._write(record)
            bar.note(self._counts.note(self._settings))
            bar.advance()

    def _write(self, record: Edit | JsonObject) -> None:
        """On disk first, then counted."""
        if isinstance(record, Edit):
            self._edits.append(record)
            self._counts.accepted += 1
            self._counts.no_change += bool((record.model_extra or {})["editing"].get("no_change"))
        else:
            self._rejects.append(record)
            self._counts.refused[record["gate"]] += 1

    def _no_answer(self, pair: ToEdit, error: NoAnswer) -> None:
        """A pair whose request failed for good. Too many of them in a row, and the endpoint is given up."""
        if error.final:  # this request is at fault, if the endpoint answers others
            self._held.append(_reject(pair, Refusal("request", str(error)), "", 0))
            self._release()
        else:
            self._counts.failed[pair.id] = str(error)
        self._unanswered += 1
        if self._unanswered >= max(5, self._settings.concurrency) and (self._held or not error.final):
            raise UserError(
                f"{_where(self._settings)}: {self._unanswered} pairs in a row got no answer (the last: "
                f"{error}). Mend that; the same command goes on where this one stopped."
            )

    def _release(self) -> None:
        while self._held and self._counts.answers:
            self._write(self._held.pop())

    async def _edit(self, pair: ToEdit) -> Edit | JsonObject:
        """The edit of one pair, or its reject. Raises NoAnswer."""
        try:
            rejected = response_text(pair.rejected)
            asked = question(pair, self._template, self._guideline)
        except ValueError as error:
            return _reject(pair, Refusal("input", str(error)), "", 0)
        if not rejected.strip():
            return _reject(pair, Refusal("input", "the rejected response is empty"), "", 0)
        messages: Messages = [{"role": "user", "content": asked}]
        for attempt in range(1, self._settings.attempts + 1):
            answer = self._count(await self._ask(self._chat, messages, self._limit(rejected)))
            judged = await self._gates(pair, rejected, answer)
            if judged.refusal is None:
                return self._record(pair, rejected, judged, attempt)
            self._counts.answers_refused[judged.refusal.gate] += 1
            last = _reject(pair, judged.refusal, answer.text, attempt, judged.verdict)
            messages = [
                *messages,
                {"role": "assistant", "content": _readable(answer.text) or "(empty)"},
                {"role": "user", "content": AGAIN.format(why=judged.refusal.why)},
            ]
        return last

    async def _gates(self, pair: ToEdit, rejected: str, answer: Answer) -> _Judged:
        """An answer through all gates, the judge's last."""
        if not answer.whole:
            return _refused("it is not complete: it was cut off at its length limit; be shorter")
        if not answer.text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in answer.text):
            return _refused("it has broken characters (half a surrogate pair)")
        try:
            parsed = parse_answer(answer.text, self._template.delimited)
        except NotParsed as error:
            return _refused(str(error))
        if parsed.no_change:
            return _Judged(parsed, None)
        refusal = check(
            rejected,
            parsed.edited,
            after=parsed.after,
            max_ratio=self._settings.max_ratio,
            skip=self._settings.skip_gates,
        )
        if refusal is None and self._settings.verify:
            return await self._verify(pair, rejected, parsed)
        return _Judged(parsed, refusal)

    async def _verify(self, pair: ToEdit, rejected: str, parsed: Parsed) -> _Judged:
        """An edit before the judge. Raises NoAnswer."""
        try:
            verdict, answers = await verify(
                partial(self._ask, self._judge),
                self._verify_template,
                conversation(pair.prompt),
                rejected,
                parsed.edited,
                self._guideline,
                None if self._settings.base_url else 4,
            )
        except NoAnswer as error:  # never final: the edit is paid for, and waits for a judge that answers
            raise NoAnswer(f"the judge {self._judge.model}: {error}") from error
        for answer in answers:
            self._count(answer, asked_to_edit=False)
        refusal = None if verdict.better else Refusal("verify", NOT_BETTER)
        return _Judged(parsed, refusal, verdict)

    async def _ask(self, chat: Chat, messages: Messages, max_tokens: int | None) -> Answer:
        """The answer, on disk where a judge must answer too: should it not, this one need not be paid for
        again."""
        if self._answers is None:
            return await chat.ask(messages, max_tokens)
        key = hashlib.sha256(json.dumps([chat.model, messages]).encode()).hexdigest()
        if key in self._answers.places:
            kept = self._answers.record(key).model_extra or {}
            return Answer(kept["text"], kept["whole"], 0, 0)
        answer = await chat.ask(messages, max_tokens)
        if _readable(answer.text) == answer.text:
            self._answers.append({"id": key, "text": answer.text, "whole": answer.whole})
        return answer

    def _record(self, pair: ToEdit, rejected: str, judged: _Judged, attempt: int) -> Edit:
        """The edit of a pair, with how it was made."""
        parsed = judged.parsed
        assert parsed is not None
        edited = rejected if parsed.no_change else _same_ends(rejected, parsed.edited)
        editing: JsonObject = {
            "template": self._template.name,
            "attempts": attempt,
            "ratio": round(edit_ratio(units(rejected), units(edited)), 4),
        }
        if parsed.no_change:
            editing["no_change"] = True
        if parsed.reason:
            editing["reason"] = parsed.reason
        if judged.verdict:
            judge = self._settings.verify_model or self._settings.model
            editing["verify"] = {"model": judge, **asdict(judged.verdict)}
        made = {
            "edited": with_text(pair.rejected, edited),
            "editor": self._settings.model,
            "editing": editing,
        }
        return Edit.model_validate(pair.model_dump(exclude_unset=True) | made)

    def _limit(self, rejected: str) -> int | None:
        """The longest answer. Of a model in this process: what the response's length calls for, lest it goes
        on and on."""
        if self._settings.max_tokens or self._settings.base_url:
            return self._settings.max_tokens
        return 48 + len(rejected) // 2 + (256 if self._template.delimited else 0)

    def _count(self, answer: Answer, asked_to_edit: bool = True) -> Answer:
        self._counts.answers += asked_to_edit
        self._counts.tokens_in += answer.tokens_in or 0
        self._counts.tokens_out += answer.tokens_out or 0
        self._counts.tokens_untold += answer.tokens_in is None
        self._release()
        return answer


def _open(settings: EditWith, model: str) -> Chat:
    return open_chat(
        model,
        settings.base_url,
        concurrency=settings.concurrency,
        retries=settings.retries,
        rate=settings.rate,
        timeout=settings.timeout,
        temperature=settings.temperature,
        api_key_env=settings.api_key_env,
        chat_template_kwargs=settings.chat_template_kwargs,
    )


def _where(settings: EditWith) -> str:
    """Who was asked, for messages."""
    return without_login(settings.base_url) if settings.base_url else settings.model


def _same_ends(rejected: str, edited: str) -> str:
    """The edit with the white space that the original has at its ends, which no model keeps."""
    start = rejected[: len(rejected) - len(rejected.lstrip())]
    return start + edited.strip() + rejected[len(rejected.rstrip()) :]


def _reject(
    pair: ToEdit, refusal: Refusal, answer: str, attempts: int, verdict: Verdict | None = None
) -> JsonObject:
    """The line of a refused pair: which gate, why, and the raw last answer."""
    plain = pair.model_dump(mode="json", exclude_unset=True)
    line = plain | {
        "gate": refusal.gate,
        "why": refusal.why,
        "answer": _readable(answer),
        "attempts": attempts,
    }
    if verdict:
        line["verify"] = asdict(verdict)
    return line


def _readable(answer: str) -> str:
    """An answer as it can be written and sent: half a surrogate pair, which UTF-8 does not know, as its
    code."""
    return answer.encode("utf-8", "backslashreplace").decode()
