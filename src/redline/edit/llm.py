"""An LLM makes the edits: asked concurrently, each answer through the gates, each finished record on disk
before the next."""

import asyncio
import contextlib
import hashlib
import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from redline.chat import Answer, Chat, Messages, NoAnswer, open_chat
from redline.console import Bar, console, progress_bar
from redline.data.alignment import edit_ratio
from redline.data.records import Edit, Record, ToEdit
from redline.data.units import units
from redline.edit.counts import Counts, Estimate
from redline.edit.gates import Refusal, check
from redline.edit.journal import Journal
from redline.edit.prompts import (
    GUIDELINE,
    VERIFY_FIELDS,
    NotParsed,
    Parsed,
    Template,
    conversation,
    load_template,
    parse_answer,
    read_guideline,
    response_text,
    with_text,
)
from redline.edit.settings import EditWith
from redline.edit.verify import Verdict, verify
from redline.errors import UserError
from redline.types import JsonObject
from redline.urls import without_login

AGAIN = "That answer cannot be used: {why}. Answer my first message again, in exactly the form it asks for."


def rejects_path(out: Path) -> Path:
    """Where refused answers go: EDITS.rejects.jsonl beside EDITS.jsonl."""
    return out.with_suffix(".rejects.jsonl")


def answers_path(out: Path) -> Path:
    """Where answers wait for the judge's: a hidden file beside EDITS.jsonl, gone when every pair is
    finished."""
    return out.with_name(f".{out.name}.answers")


def edit_pairs(pairs: Sequence[ToEdit | Record], out: Path | str, how: EditWith) -> Counts:
    """Edit ``pairs`` into the file ``out``, refused ones into ``rejects_path(out)``; both are gone on with
    where they stand.

    An id that either file has is finished. When all are, both files are put into the order of the pairs.
    Returns the counts, which are also printed. Raises UserError where the endpoint, the template or a file
    cannot be used, and, after all the others are done, where pairs are left without an answer: the same call
    tries those again.
    """
    out = Path(out)
    template, guideline = prepare(pairs, how)
    todo = [
        pair if isinstance(pair, ToEdit) else ToEdit.model_validate(pair.model_dump(exclude_unset=True))
        for pair in pairs
    ]
    with Journal(out) as edits, Journal(rejects_path(out), keep_empty=False) as rejects:
        counts = _finished(todo, edits, rejects)
        editor = _Editor(how, template, guideline, edits, rejects, counts)
        todo = [pair for pair in todo if pair.id not in edits.places and pair.id not in rejects.places]
        if todo:
            asyncio.run(editor.run(todo))
        if not counts.failed:
            edits.settle(pair.id for pair in pairs)
            rejects.settle(pair.id for pair in pairs)
            answers_path(out).unlink(missing_ok=True)
    for line in counts.lines(how):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if counts.failed:
        first, why = next(iter(counts.failed.items()))
        raise UserError(
            f"{out}: {len(counts.failed)} of {counts.pairs} pairs got no answer (the first, {first}: {why}). "
            "The same command tries them again."
        )
    return counts


def prepare(pairs: Sequence[Record], how: EditWith) -> tuple[Template, str]:
    """The template and the guideline, checked against each other and the pairs. Raises UserError."""
    template = load_template(how.template)
    guideline = read_guideline(how.guideline)
    if guideline and "guideline" not in template.fields:
        raise UserError(
            f"--template {how.template}: the field {{guideline}} is missing, but a guideline is given. Add "
            "it."
        )
    repeated, count = Counter(pair.id for pair in pairs).most_common(1)[0] if pairs else ("", 0)
    if count > 1:
        raise UserError(
            f"the id {repeated} occurs {count} times in the pairs. Give every pair an id of its own."
        )
    if "chosen" in template.fields:
        without = next((pair.id for pair in pairs if getattr(pair, "chosen", None) is None), None)
        if without is not None:
            raise UserError(
                f"--template {how.template} shows the chosen response, and the pair {without} has none. "
                "Use --template plain, or give `chosen`."
            )
    return template, guideline or GUIDELINE


def question(pair: ToEdit, template: Template, guideline: str) -> str:
    """The filled template for one pair. Raises ValueError where a response is a conversation without an
    assistant's text."""
    chosen = "" if pair.chosen is None else response_text(pair.chosen)
    rejected = response_text(pair.rejected)
    return template.fill(
        prompt=conversation(pair.prompt), rejected=rejected, chosen=chosen, guideline=guideline
    )


def dry_run(pairs: Sequence[ToEdit], how: EditWith, shown: int = 3) -> Estimate:
    """The first filled prompts and an estimate of what all would take, four characters a token, without
    asking anybody."""
    template, guideline = prepare(pairs, how)
    asked = answered = 0
    prompts: dict[str, str] = {}
    for pair in pairs:
        with contextlib.suppress(ValueError):  # counted as refused by "input" when it is the real thing
            text = question(pair, template, guideline)
            asked += len(text) // 4
            answered += len(response_text(pair.rejected)) // 4 + (100 if template.delimited else 0)
            if len(prompts) < shown:
                prompts[pair.id] = text
    cost = Counts(len(pairs), tokens_in=asked, tokens_out=answered).cost(how)
    return Estimate(len(pairs), asked, answered, cost if how.price_in or how.price_out else None, prompts)


def _finished(pairs: Sequence[ToEdit], edits: Journal, rejects: Journal) -> Counts:
    """The counts so far, from the files."""
    for journal in (edits, rejects):
        if journal.torn:
            console.print(
                f"{journal.path}: its last line was cut off and is dropped", highlight=False, markup=False
            )
    ids = {pair.id for pair in pairs}
    both = edits.ids & rejects.ids
    if both:
        raise UserError(f"{rejects.path}: {min(both)} is also in {edits.path}. Delete one of the two lines.")
    counts = Counts(len(pairs))
    for record in edits.records(ids):
        counts.accepted += 1
        counts.no_change += bool((record.model_extra or {}).get("editing", {}).get("no_change"))
    counts.refused.update(str((record.model_extra or {}).get("gate")) for record in rejects.records(ids))
    counts.before = counts.accepted + counts.refused.total()
    return counts


@dataclass
class _Attempt:
    """What is known of an answer after the gates."""

    parsed: Parsed | None
    refusal: Refusal | None
    verdict: Verdict | None = None


class _Editor:
    """One call of ``edit_pairs``: workers that take pairs, ask, and write down what came of it."""

    def __init__(
        self,
        how: EditWith,
        template: Template,
        guideline: str,
        edits: Journal,
        rejects: Journal,
        counts: Counts,
    ):
        self._how, self._template, self._guideline = how, template, guideline
        self._edits, self._rejects, self._counts = edits, rejects, counts
        self._verify_template = load_template("verify", VERIFY_FIELDS)
        self._held: list[
            JsonObject
        ] = []  # refused by the endpoint before it answered anything: it may refuse all
        self._unanswered = 0  # pairs in a row
        self._answered_before = counts.before > counts.refused["input"]  # whether earlier calls had answers
        self._failure: UserError | None = None
        self._answers: Journal | None = None

    async def run(self, pairs: list[ToEdit]) -> None:
        how = self._how
        async with contextlib.AsyncExitStack() as stack:
            if how.verify or answers_path(self._edits.path).exists():
                self._answers = stack.enter_context(Journal(answers_path(self._edits.path), keep_empty=False))
            self._chat = await stack.enter_async_context(_open(how, how.model))
            self._judge = self._chat
            if how.verify and how.verify_model not in (None, how.model):
                self._judge = await stack.enter_async_context(_open(how, str(how.verify_model)))
            with progress_bar("edit", self._counts.pairs, self._counts.before) as bar:
                waiting = deque(pairs)
                workers = [
                    asyncio.create_task(self._work(waiting, bar))
                    for _ in range(min(how.concurrency, len(pairs)))
                ]
                try:
                    await asyncio.gather(*workers)
                finally:
                    for worker in workers:
                        worker.cancel()
                    await asyncio.gather(*workers, return_exceptions=True)
                    self._counts.retries = (
                        self._chat.retries_made + (self._judge is not self._chat) * self._judge.retries_made
                    )
        if self._failure:
            raise self._failure
        if self._held and not self._answered_before:
            raise UserError(
                f"{_where(how)}: every request was refused ({self._held[0]['why']}). Nothing was written."
            )
        for record in self._held:
            self._write(record)

    async def _work(self, waiting: deque[ToEdit], bar: Bar) -> None:
        while waiting:
            pair = waiting.popleft()
            try:
                record = await self._edit(pair)
            except (
                UserError
            ) as error:  # ask nothing more, but keep the answers that are under way: they are paid for
                waiting.clear()
                self._failure = self._failure or error
                return
            except NoAnswer as error:
                self._no_answer(pair, error)
            else:
                self._unanswered = 0
                self._write(record)
            bar.note(self._counts.note(self._how))
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
        if self._unanswered >= max(5, self._how.concurrency) and (self._held or not error.final):
            raise UserError(
                f"{_where(self._how)}: {self._unanswered} pairs in a row got no answer (the last: {error}). "
                "Mend that; the same command goes on where this one stopped."
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
        for attempt in range(1, self._how.attempts + 1):
            answer = self._count(await self._ask(self._chat, messages, self._limit(rejected)))
            got = await self._gates(pair, rejected, answer)
            if got.refusal is None:
                return self._record(pair, rejected, got, attempt)
            self._counts.answers_refused[got.refusal.gate] += 1
            last = _reject(pair, got.refusal, answer.text, attempt, got.verdict)
            messages = [
                *messages,
                {"role": "assistant", "content": _readable(answer.text) or "(empty)"},
                {"role": "user", "content": AGAIN.format(why=got.refusal.why)},
            ]
        return last

    async def _gates(self, pair: ToEdit, rejected: str, answer: Answer) -> _Attempt:
        if not answer.whole:
            return _Attempt(
                None, Refusal("parsed", "it is not complete: it was cut off at its length limit; be shorter")
            )
        if not answer.text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in answer.text):
            return _Attempt(None, Refusal("parsed", "it has broken characters (half a surrogate pair)"))
        try:
            parsed = parse_answer(answer.text, self._template.delimited)
        except NotParsed as error:
            return _Attempt(None, Refusal("parsed", str(error)))
        if parsed.no_change:
            return _Attempt(parsed, None)
        refusal = check(
            rejected,
            parsed.edited,
            after=parsed.after,
            max_ratio=self._how.max_ratio,
            skip=self._how.skip_gates,
        )
        if refusal or not self._how.verify:
            return _Attempt(parsed, refusal)
        try:
            verdict, answers = await verify(
                partial(self._ask, self._judge),
                self._verify_template,
                conversation(pair.prompt),
                rejected,
                parsed.edited,
                self._guideline,
                None if self._how.base_url else 4,
            )
        except NoAnswer as error:  # never final: the edit is paid for, and waits for a judge that answers
            raise NoAnswer(f"the judge {self._judge.model}: {error}") from error
        for told in answers:
            self._count(told, asked_to_edit=False)
        why = (
            "asked which of the two is better, a judge did not prefer it to the original response in "
            "both orders"
        )
        return _Attempt(parsed, None if verdict.better else Refusal("verify", why), verdict)

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

    def _record(self, pair: ToEdit, rejected: str, got: _Attempt, attempt: int) -> Edit:
        assert got.parsed is not None
        edited = rejected if got.parsed.no_change else _same_ends(rejected, got.parsed.edited)
        editing = {
            "template": self._template.name,
            "attempts": attempt,
            "ratio": round(edit_ratio(units(rejected), units(edited)), 4),
        }
        editing |= {"no_change": True} if got.parsed.no_change else {}
        editing |= {"reason": got.parsed.reason} if got.parsed.reason else {}
        if got.verdict:
            editing |= {"verify": {"model": self._how.verify_model or self._how.model, **asdict(got.verdict)}}
        plain = pair.model_dump(exclude_unset=True)
        return Edit.model_validate(
            plain
            | {"edited": with_text(pair.rejected, edited), "editor": self._how.model, "editing": editing}
        )

    def _limit(self, rejected: str) -> int | None:
        """The longest answer. Of a model in this process: what the response's length calls for, lest it goes
        on and on."""
        if self._how.max_tokens or self._how.base_url:
            return self._how.max_tokens
        return 48 + len(rejected) // 2 + (256 if self._template.delimited else 0)

    def _count(self, answer: Answer, asked_to_edit: bool = True) -> Answer:
        self._counts.answers += asked_to_edit
        self._counts.tokens_in += answer.tokens_in or 0
        self._counts.tokens_out += answer.tokens_out or 0
        self._counts.tokens_untold += answer.tokens_in is None
        self._release()
        return answer


def _open(how: EditWith, model: str) -> Chat:
    return open_chat(
        model,
        how.base_url,
        concurrency=how.concurrency,
        retries=how.retries,
        rate=how.rate,
        timeout=how.timeout,
        temperature=how.temperature,
        api_key_env=how.api_key_env,
        chat_template_kwargs=how.chat_template_kwargs,
    )


def _where(how: EditWith) -> str:
    """Who was asked, for messages."""
    return without_login(how.base_url) if how.base_url else how.model


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
    return line | ({"verify": asdict(verdict)} if verdict else {})


def _readable(answer: str) -> str:
    """An answer as it can be written and sent: half a surrogate pair, which UTF-8 does not know, as its
    code."""
    return answer.encode("utf-8", "backslashreplace").decode()
