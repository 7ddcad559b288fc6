"""Models that answer messages: an OpenAI-compatible endpoint, or a model in this process. What LLM editors
and judges ask."""

import asyncio
import contextlib
import email.utils
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import urlsplit

from redline.errors import UserError
from redline.types import JsonObject, Network
from redline.urls import without_login

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Messages = list[dict[str, str]]
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a request is made again, doubling from one to the other
# seconds: an endpoint that asks for a longer wait (a day's quota is spent, say) ends the run instead
PATIENCE = 600.0
DEFAULT_KEY, NO_KEY = "OPENAI_API_KEY", "none"  # the latter: the client insists on some key


@dataclass(frozen=True)
class Answer:
    """What a model answered. ``whole`` is False where it was cut at its length limit. Token counts are None
    if untold.

    ``first_token`` holds the log-probabilities of the likeliest first tokens, where they were asked for and
    given.
    """

    text: str
    whole: bool = True
    tokens_in: int | None = None
    tokens_out: int | None = None
    first_token: dict[str, float] | None = None


class NoAnswer(Exception):
    """One request that stays without an answer; others may still get theirs. ``final``: asking again would
    not help."""

    def __init__(self, why: str, final: bool = False):
        super().__init__(why)
        self.final = final


class Chat(Protocol):
    """A model to talk to: ``async with`` it, then ask."""

    model: str
    retries_made: int

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...

    async def ask(self, messages: Messages, max_tokens: int | None = None) -> Answer:
        """Raises NoAnswer for this request alone, UserError where no request can succeed."""
        ...


class Endpoint:
    """An OpenAI-compatible endpoint. ``base_url`` is what messages show of the URL, without its login.

    Its key comes from the environment variable ``api_key_env``, or from OPENAI_API_KEY; a plain ``http://``
    endpoint needs none, and on another machine gets only one that ``api_key_env`` names.
    ``chat_template_kwargs`` go into each request, for servers that render chat templates themselves.

    Faults are met by asking again, ``retries`` times, after the time that ``Retry-After`` names or a back-off
    that doubles from half a second to half a minute: status 408, 409, 429 and 5xx, dropped connections,
    silence longer than ``timeout`` seconds for a whole request, answers that are no JSON, answers without a
    choice. An endpoint that asks for more than ten minutes ends the run: UserError. ``rate`` is the most
    requests a minute. ``top_logprobs`` asks for so many first tokens' log-probabilities; endpoints that
    cannot give them leave them out.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        retries: int = 6,
        rate: float | None = None,
        timeout: float = 120.0,
        temperature: float | None = None,
        top_logprobs: int | None = None,
        api_key_env: str | None = None,
        chat_template_kwargs: JsonObject | None = None,
    ):
        from openai import AsyncOpenAI

        shown, key = without_login(base_url), key_for(base_url, api_key_env)
        self._key_env = api_key_env or DEFAULT_KEY
        self.model, self.base_url, self.retries, self.retries_made = model, shown, retries, 0
        self._timeout, self._pause, self._next, self._answered = (
            timeout,
            60 / rate if rate else 0.0,
            0.0,
            False,
        )
        self._options: JsonObject = {} if temperature is None else {"temperature": temperature}
        if top_logprobs:
            self._options |= {"logprobs": True, "top_logprobs": top_logprobs}
        if chat_template_kwargs:
            self._options |= {"extra_body": {"chat_template_kwargs": chat_template_kwargs}}
        self._limit = (
            "max_completion_tokens" if urlsplit(base_url).hostname == "api.openai.com" else "max_tokens"
        )
        self._client = AsyncOpenAI(api_key=key or NO_KEY, base_url=base_url, max_retries=0, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def ask(self, messages: Messages, max_tokens: int | None = None) -> Answer:
        for attempt in range(self.retries + 1):
            await self._turn()
            try:
                answer = await self._once(messages, max_tokens)
            except _Fault as fault:
                if fault.wait is not None and fault.wait > PATIENCE:
                    raise UserError(
                        f"{self.base_url}: asks to be left alone for {fault.wait:,.0f} s ({fault.why}). Run "
                        "the same command again then: what has been answered is kept."
                    ) from fault
                if attempt == self.retries:
                    raise NoAnswer(f"{fault.why}, {attempt + 1} times") from fault
                self.retries_made += 1
                backoff = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.75, 1)
                await asyncio.sleep(backoff if fault.wait is None else fault.wait)
            else:
                self._answered = True
                return answer
        raise AssertionError("unreachable")

    async def _turn(self) -> None:
        """Wait for this request's place under the rate limit."""
        now = time.monotonic()
        at, self._next = max(now, self._next), max(now, self._next) + self._pause
        await asyncio.sleep(at - now)

    async def _once(self, messages: Messages, max_tokens: int | None) -> Answer:
        limit = {} if max_tokens is None else {self._limit: max_tokens}
        create: Any = self._client.chat.completions.create
        with self._faults():
            async with asyncio.timeout(self._timeout):
                got = await create(model=self.model, messages=messages, **limit, **self._options)
        choices: Any = getattr(
            got, "choices", None
        )  # the client checks no shape, and what is no JSON comes back as a string
        message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
        if message is None:
            raise _Fault("an answer without a choice")
        text = getattr(message, "content", None) or getattr(message, "refusal", None) or ""
        tokens_in, tokens_out = (_tokens(got, name) for name in ("prompt_tokens", "completion_tokens"))
        whole = getattr(choices[0], "finish_reason", None) != "length"
        return Answer(str(text), whole, tokens_in, tokens_out, _first_token(choices[0]))

    def _about_key(self) -> str:
        if self._client.api_key == NO_KEY and os.environ.get(self._key_env):
            return (
                f"{self._key_env} was not sent, since the connection is not encrypted (http). To send it all "
                "the same, name it with api_key_env."
            )
        return f"Check {self._key_env}."

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """What can go wrong with a request, told apart: a fault to be retried, this request's end, or the
        run's."""
        import openai

        try:
            yield
        except (TimeoutError, openai.APITimeoutError) as error:
            raise _Fault(f"no answer within {self._timeout:g} s") from error
        except openai.APIConnectionError as error:
            if not self._answered and type(error.__cause__).__name__ == "ConnectError":
                raise UserError(
                    f"{self.base_url}: cannot be reached ({_reason(error)}). Start the server, or correct "
                    "--base-url."
                ) from error
            raise _Fault(f"the connection broke ({_reason(error)})") from error
        except openai.APIStatusError as error:
            said = " ".join(str(error.message).split()).replace(self._client.api_key, "***")[:300]
            if error.status_code in (401, 403):
                raise UserError(
                    f"{self.base_url}: the key was refused ({said}). {self._about_key()}"
                ) from error
            if error.status_code == 404:
                raise UserError(
                    f"{self.base_url}: model or path not found ({said}). Check --model and --base-url."
                ) from error
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                raise _Fault(f"status {error.status_code}", _retry_after(error.response.headers)) from error
            raise NoAnswer(said, final=True) from error
        except (openai.APIError, ValueError) as error:  # JSON that is cut short, or of another shape
            raise _Fault(f"an answer that cannot be read ({type(error).__name__})") from error


class _Fault(Exception):
    """A request that failed and may be made again, after ``wait`` seconds where the server says so."""

    def __init__(self, why: str, wait: float | None = None):
        super().__init__(why)
        self.why, self.wait = why, wait


def key_for(base_url: str, api_key_env: str | None = None) -> str | None:
    """The key that an endpoint is given; None where none is sent: over plain http to another machine, unless
    ``api_key_env`` names it. Raises UserError for what is no URL, and for a key that is needed and not
    there."""
    shown = without_login(base_url)
    if not _is_url(base_url):
        raise UserError(
            f"--base-url {shown}: not a URL. Give it as http://localhost:8000/v1 or "
            "https://api.openai.com/v1."
        )
    key = os.environ.get(api_key_env or DEFAULT_KEY)
    if api_key_env and not key:
        raise UserError(
            f"{shown}: the environment variable {api_key_env}, which api_key_env names, is not set."
        )
    url = urlsplit(base_url)
    if url.scheme == "https":
        if not key:
            raise UserError(
                f"{shown}: no key. Set {DEFAULT_KEY} (any value, where the endpoint needs none), or name "
                "another variable with api_key_env."
            )
        return key
    return key if api_key_env or _is_this_machine(str(url.hostname)) else None


def _is_this_machine(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number, half a bracket
        return False


def _tokens(answer: Any, name: str) -> int | None:
    count = getattr(getattr(answer, "usage", None), name, None)
    return count if isinstance(count, int) else None


def _first_token(choice: Any) -> dict[str, float] | None:
    given = getattr(getattr(choice, "logprobs", None), "content", None)
    return {option.token: option.logprob for option in given[0].top_logprobs or given[:1]} if given else None


def _retry_after(headers: Any) -> float | None:
    """Seconds to wait by the server's word: a number, or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        with contextlib.suppress(ValueError, OverflowError):  # neither
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        return None


def _reason(error: BaseException) -> str:
    return " ".join(str(error.__cause__ or error).split())[:200] or type(error.__cause__).__name__


class InProcess:
    """A causal language model in this process: the embedded one, a folder, or a Hugging Face name. No server,
    no key.

    Questions that wait at the same time are answered in one batch of at most ``batch``. Greedy unless
    ``temperature`` says otherwise. Without a limit of the caller's an answer ends after 512 tokens.
    """

    retries_made = 0

    def __init__(
        self,
        model: str,
        *,
        batch: int = 8,
        temperature: float | None = None,
        chat_template_kwargs: JsonObject | None = None,
    ):
        self.model, self._batch, self._temperature = model, batch, temperature
        self._template_kwargs = chat_template_kwargs
        self._waiting: asyncio.Queue[tuple[Messages, int, asyncio.Future[Answer]]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        import torch

        from redline.data.tokenization import load_tokenizer
        from redline.engine.models import load_causal_lm
        from redline.engine.settings import Model

        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(
            self.model, chat_template_kwargs=self._template_kwargs
        )
        if not self._tokenizer.chat_template:
            raise UserError(
                f"{self.model}: its tokenizer has no chat template. Choose a model that was trained to "
                "follow instructions."
            )
        lm: Network = load_causal_lm(Model(name=self.model))
        self._lm: PreTrainedModel = lm.to("cuda" if torch.cuda.is_available() else "cpu")
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._worker

    async def ask(self, messages: Messages, max_tokens: int | None = None) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((messages, max_tokens or 512, answer))
        return await answer

    async def _work(self) -> None:
        """Take what waits, in batches, until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(0.01)  # the others that are about to ask
            while len(batch) < self._batch and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            questions = [messages for messages, _, _ in batch]
            try:
                answers = await asyncio.to_thread(
                    self._generate, questions, max(limit for _, limit, _ in batch)
                )
            except Exception as error:  # whoever asked must hear of it
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, _, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)

    def _generate(self, questions: list[Messages], max_tokens: int) -> list[Answer]:
        import torch

        from redline.engine.models import eos_ids

        lm, eos = self._lm, eos_ids(self._lm, self._tokenizer, questions)
        prompts = [self._encode(messages) for messages in questions]
        room = int(getattr(lm.config, "max_position_embeddings", None) or 2**31) - max_tokens
        longest = max(map(len, prompts))
        if longest > room:  # one is too long for the model: it stays without an answer, the others do not
            return [
                Answer("", False, len(prompt), 0)
                if len(prompt) > room
                else self._generate([question], max_tokens)[0]
                for question, prompt in zip(questions, prompts, strict=True)
            ]
        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else eos[0]
        tokens = torch.tensor(
            [[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=lm.device
        )
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=lm.device
        )
        sampling = (
            {"do_sample": True, "temperature": self._temperature}
            if self._temperature
            else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        )
        generate: Any = lm.generate
        with torch.inference_mode():
            made = generate(
                tokens,
                attention_mask=mask,
                max_new_tokens=max_tokens,
                eos_token_id=eos,
                pad_token_id=pad,
                **sampling,
            )
        return [
            self._answer(row, len(prompt), eos)
            for row, prompt in zip(made[:, longest:].tolist(), prompts, strict=True)
        ]

    def _encode(self, messages: Messages) -> list[int]:
        from redline.data.chat_template import render

        text = render(self._tokenizer, [*messages], True)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _answer(self, row: list[int], tokens_in: int, eos: list[int]) -> Answer:
        end = next((place for place, token in enumerate(row) if token in eos), None)
        text = self._tokenizer.decode(row[:end], skip_special_tokens=True)
        return Answer(str(text), end is not None, tokens_in, len(row) if end is None else end + 1)


def open_chat(
    model: str,
    base_url: str | None,
    *,
    concurrency: int = 8,
    retries: int = 6,
    rate: float | None = None,
    timeout: float = 120.0,
    temperature: float | None = None,
    api_key_env: str | None = None,
    chat_template_kwargs: JsonObject | None = None,
) -> Chat:
    """The endpoint at ``base_url``, or without one the model in this process."""
    if base_url is None:
        return InProcess(
            model,
            batch=concurrency,
            temperature=temperature,
            chat_template_kwargs=chat_template_kwargs,
        )
    return Endpoint(
        model,
        base_url,
        retries=retries,
        rate=rate,
        timeout=timeout,
        temperature=temperature,
        api_key_env=api_key_env,
        chat_template_kwargs=chat_template_kwargs,
    )
