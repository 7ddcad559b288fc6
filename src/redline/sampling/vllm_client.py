"""The requests that a vLLM server understands, and what is done when one fails."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from redline.errors import UserError
from redline.sampling.settings import Sampling, VllmServer
from redline.types import JsonObject
from redline.urls import without_login

FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0  # seconds before a request is made again, doubling from one to the other
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Answer:
    """A response: its token ids, with the stop token where one was drawn, and a log-probability for each."""

    ids: list[int]
    logprobs: list[float]


class UnknownAdapter(Exception):
    """The server does not know the adapter (any more): it was restarted, say."""


class Server:
    """One server. A request that fails is made again until ``settings.patience`` seconds have passed; then
    there is one UserError."""

    def __init__(self, url: str, settings: VllmServer):
        self.url = without_login(url).rstrip("/")
        self.patience = settings.patience
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

    @property
    def base(self) -> str:
        """The name of the server's base model."""
        if self._base is None:
            cards = self._send("GET", "/v1/models", None)["data"]
            own = next((card for card in cards if card.get("parent") is None), None)
            if own is None:
                raise UserError(f"policy.sampler: {self.url} lists no base model. Is it a vLLM server?")
            self._base, self._longest = str(own["id"]), own.get("max_model_len")
        return self._base

    def check_length(self, new_tokens: int) -> None:
        """Raise UserError for responses that are longer than the server's longest sequence."""
        if self.base and self._longest is not None and new_tokens >= self._longest:
            raise UserError(
                f"policy.sampler: {self.url} takes sequences of {self._longest} tokens, prompt included; "
                f"policy.sampling.max_new_tokens is {new_tokens}. Start it with a larger --max-model-len."
            )

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter. Raises UserError where the server cannot."""
        try:
            self._send("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except _Refused as refused:
            if "already" in refused.reason:
                return
            hint = (
                "Check that it sees policy.sampler.adapter_dir under the same path, and its --max-lora-rank."
            )
            if refused.status == 404 and "does not exist" not in refused.reason.lower():
                hint = "Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
            raise UserError(
                f"policy.sampler: {self.url} cannot load the adapter {folder} ({refused.reason}). {hint}"
            ) from refused

    def unload(self, name: str) -> None:
        """Let the server forget an adapter; one that it does not know is forgotten already."""
        try:
            self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        except _Refused:
            return

    def complete(
        self, adapter: str | None, prompt: list[int], seed: int, sampling: Sampling, stop: Sequence[int]
    ) -> Answer:
        """One response to a prompt. Raises UnknownAdapter, or UserError where the server does not answer."""
        request: JsonObject = {
            "model": adapter or self.base,
            "prompt": prompt,
            "max_tokens": sampling.max_new_tokens,
            "min_tokens": sampling.min_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "seed": seed,
            "stop_token_ids": list(stop),
            "ignore_eos": True,  # only the ids above end a response
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        return self._completion(request, adapter)

    def _completion(self, request: JsonObject, adapter: str | None) -> Answer:
        try:
            reply = self._send("POST", "/v1/completions", request)
        except _Refused as refused:
            if refused.status == 404 and adapter is not None:
                raise UnknownAdapter(adapter) from refused
            raise UserError(f"policy.sampler: {self.url} refuses a request ({refused.reason}).") from refused
        try:
            choice = reply["choices"][0]
            ids = [int(token) for token in choice["token_ids"]]
            logprobs = [float(nats) for nats in choice["logprobs"]["token_logprobs"]]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"policy.sampler: {self.url} answers without token ids and log-probabilities. Redline needs "
                "vLLM 0.10 or newer, with return_token_ids."
            ) from error
        return Answer(ids, logprobs)

    def _send(self, method: str, path: str, body: JsonObject | None) -> JsonObject:
        """The JSON of a reply, empty where there is none. Asks again after faults. Raises _Refused for a
        request that the server understood and refuses, UserError when patience ends."""
        end, wait, fault = time.monotonic() + self.patience, FIRST_WAIT, ""
        while True:
            try:
                reply = self.http.request(method, path, json=body)
                if reply.status_code < 400:
                    return _json(reply)
                if reply.status_code not in AGAIN:
                    raise _Refused(reply.status_code, _reason(reply))
                fault = f"status {reply.status_code}: {_reason(reply)}"
            except httpx.HTTPError as error:
                fault = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if time.monotonic() + wait > end:
                raise UserError(
                    f"policy.sampler: {self.url} did not answer for {self.patience:g} s ({fault}). Start "
                    "the server, "
                    "or raise policy.sampler.patience. The same command continues from the last checkpoint."
                )
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


class _Refused(Exception):
    """The server understood a request and does not do it."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


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
