"""The requests that a vLLM server understands, and what is done when one fails."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from redline.console import warn
from redline.errors import UserError
from redline.sampling.settings import Sampling, VllmServer
from redline.types import JsonObject
from redline.urls import without_login

FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0  # seconds before a request is made again, doubling from one to the other
UNLOADING = 10.0  # seconds that a server may take to forget an adapter
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """A response: its token ids, with the stop token where one was drawn, and a log-probability for each."""

    ids: list[int]
    logprobs: list[float]


class UnknownAdapter(Exception):
    """The server does not know the adapter (any more): it was restarted, say."""


class Fault(Exception):
    """A server did not answer, or answered that it cannot now. Asked again, it may."""

    def __init__(self, url: str, reason: str):
        super().__init__(reason)
        self.url = url


class Refused(Exception):
    """A server understood a request and does not do it."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


def patiently(patience: float, attempt: Callable[[], T]) -> T:
    """What ``attempt`` returns. It is made again after each Fault, until ``patience`` seconds have passed
    since the first; then there is one UserError."""
    wait, end = FIRST_WAIT, None
    while True:
        try:
            return attempt()
        except Fault as fault:
            now = time.monotonic()
            if end is None:
                end = now + patience
            if now + wait > end:
                raise UserError(
                    f"policy.sampler: {fault.url} did not answer for {patience:g} s ({fault}). Start the "
                    "server, or raise policy.sampler.patience. The same command continues from the last "
                    "checkpoint."
                ) from fault
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)


class Server:
    """One server. Each method makes its request once, and raises Fault where it may be made again."""

    def __init__(self, url: str, settings: VllmServer):
        self.url = without_login(url).rstrip("/")
        headers = {}
        if settings.api_key_env is not None:
            headers["Authorization"] = f"Bearer {_key(settings.api_key_env)}"
        self.http = httpx.Client(
            base_url=url.rstrip("/"),
            headers=headers,
            timeout=settings.timeout,
            limits=httpx.Limits(max_connections=settings.concurrency),
            trust_env=False,
        )
        self._base: str | None = None
        self._longest: int | None = None
        self._answers = True
        self._lock = threading.Lock()

    @property
    def base(self) -> str:
        """The name of the server's base model."""
        if self._base is None:
            try:
                cards = self._send("GET", "/v1/models", None).get("data", [])
            except Refused as refused:
                raise self._refusal(refused) from refused
            own = next((card for card in cards if card.get("parent") is None), None)
            if own is None:
                raise UserError(f"policy.sampler: {self.url} lists no base model. Is it a vLLM server?")
            self._base, self._longest = str(own["id"]), own.get("max_model_len")
        return self._base

    def check_length(self, prompt_tokens: int, new_tokens: int) -> None:
        """Raise UserError for sequences that are longer than the server's longest."""
        needed = prompt_tokens + new_tokens
        if self.base and self._longest is not None and needed > self._longest:
            raise UserError(
                f"policy.sampler: {self.url} takes sequences of {self._longest} tokens; a prompt of "
                f"{prompt_tokens} and policy.sampling.max_new_tokens make {needed}. Start it with a larger "
                "--max-model-len, or lower data.max_prompt_tokens."
            )

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter. Raises UserError where the server cannot."""
        body = {"lora_name": name, "lora_path": str(folder)}
        try:
            # vLLM answers 500 to an adapter that does not fit: nothing that time mends
            self._send("POST", "/v1/load_lora_adapter", body, again=AGAIN - {500})
        except Refused as refused:
            if "already" in refused.reason:
                return
            raise self._cannot_load(folder, refused) from refused

    def _cannot_load(self, folder: Path, refused: Refused) -> UserError:
        hint = "Check that it sees policy.sampler.adapter_dir under the same path."
        if "max_lora_rank" in refused.reason:
            hint = "Start it with --max-lora-rank of at least policy.adapt.lora_rank."
        elif refused.status == 404 and "adapter" not in refused.reason:  # it has no such endpoint
            hint = "Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
        elif refused.status in (401, 403):
            return self._refusal(refused)
        return UserError(
            f"policy.sampler: {self.url} cannot load the adapter {folder} ({refused.reason}). {hint}"
        )

    def unload(self, name: str) -> None:
        """Let the server forget an adapter. One that it does not know, or a server that does not answer, has
        forgotten it already."""
        with suppress(httpx.HTTPError):
            self.http.post("/v1/unload_lora_adapter", json={"lora_name": name}, timeout=UNLOADING)

    def complete(
        self, adapter: str | None, prompt: list[int], seed: int, sampling: Sampling, stop: Sequence[int]
    ) -> Answer:
        """One response to a prompt. Raises UnknownAdapter, or UserError for what the server refuses."""
        request: JsonObject = {
            "model": adapter or self.base,
            "prompt": prompt,
            "max_tokens": sampling.max_new_tokens,
            "min_tokens": sampling.min_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            # what is not said here the server takes from the model's generation_config.json
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": seed,
            "stop_token_ids": list(stop),
            "ignore_eos": True,  # only the ids above end a response
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        try:
            reply = self._send("POST", "/v1/completions", request)
        except Refused as refused:
            if refused.status == 404 and adapter is not None:
                raise UnknownAdapter(adapter) from refused
            raise self._refusal(refused) from refused
        return self._answer(reply, sampling.max_new_tokens, stop)

    def _answer(self, reply: JsonObject, longest: int, stop: Sequence[int]) -> Answer:
        """The response in a reply. Raises Fault for one that the server broke off, UserError for a reply of
        another form."""
        try:
            choice = reply["choices"][0]
            ids = [int(token) for token in choice["token_ids"]]
            logprobs = [float(nats) for nats in choice["logprobs"]["token_logprobs"]]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            if reply.get("choices") and reply["choices"][0].get("finish_reason") == "abort":
                raise Fault(self.url, "it broke a response off") from error
            raise UserError(
                f"policy.sampler: {self.url} answers without token ids and log-probabilities. Redline needs "
                "vLLM 0.10 or newer, with return_token_ids."
            ) from error
        if len(ids) == longest or (ids and ids[-1] in stop):
            return Answer(ids, logprobs)
        reason = choice.get("finish_reason")
        if reason in ("abort", "error"):
            raise Fault(self.url, "it broke a response off")
        raise UserError(
            f"policy.sampler: {self.url} ended a response after {len(ids)} tokens of {longest}, without an "
            f"end-of-text token ({reason}). Start it with --generation-config vllm."
        )

    def _refusal(self, refused: Refused) -> UserError:
        if refused.status in (401, 403):
            return UserError(
                f"policy.sampler: {self.url} asks for a key. Name the environment variable that holds it in "
                "policy.sampler.api_key_env."
            )
        return UserError(f"policy.sampler: {self.url} refuses a request ({refused.reason}).")

    def _send(self, method: str, path: str, body: JsonObject | None, again: set[int] = AGAIN) -> JsonObject:
        """The JSON of a reply, empty where there is none. Raises Fault for no reply and for a status in
        ``again``, Refused for another that is no success."""
        try:
            reply = self.http.request(method, path, json=body)
        except httpx.HTTPError as error:
            name = type(error).__name__
            raise self._fault(f"{name}: {error}" if str(error) else name) from error
        if reply.status_code in again:
            raise self._fault(f"status {reply.status_code}: {_reason(reply)}")
        if reply.status_code >= 400:
            raise Refused(reply.status_code, _reason(reply))
        self._say_whether_it_answers(True, "")
        return _json(reply)

    def _fault(self, reason: str) -> Fault:
        self._say_whether_it_answers(False, reason)
        return Fault(self.url, reason)

    def _say_whether_it_answers(self, answers: bool, reason: str) -> None:
        """A line for the user when a server falls silent, and when it is back."""
        with self._lock:
            changed, self._answers = answers != self._answers, answers
        if changed and answers:
            warn(f"policy.sampler: {self.url} answers again")
        elif changed:
            warn(f"policy.sampler: {self.url} does not answer ({reason}); it is asked again")


def _key(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"policy.sampler.api_key_env: the environment variable {variable} is not set.")
    return value


def _json(reply: httpx.Response) -> JsonObject:
    try:
        parsed = reply.json()
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _reason(reply: httpx.Response) -> str:
    """What a server says of a request that failed, in one line."""
    parsed = _json(reply)
    error = parsed.get("error", parsed)
    message = error.get("message", "") if isinstance(error, dict) else error
    return " ".join(str(message or reply.text).split())[:300]
