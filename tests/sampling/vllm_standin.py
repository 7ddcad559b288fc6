"""A server that speaks vLLM's part of the protocol and computes with a real tiny model, one response at a
time.

It has what a test needs to go wrong: it can forget its adapters, answer 503, break responses off, be slow,
refuse adapters, ask for a key, run another model, and give log-probabilities before the temperature. Its
messages are those of vLLM 0.32.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import uvicorn
from peft import PeftModel
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from transformers import AutoModelForCausalLM


class StandIn:
    """The server's state, and what has been asked of it."""

    def __init__(self, folder: str):
        self.base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model: Any = self.base
        self.adapters: set[str] = set()
        self.lock = threading.Lock()
        self.loaded = threading.Condition()
        self.busy = 0  # so many requests are answered with 503 first
        self.broken_off = 0  # so many responses are cut short first, as by a server that is ended
        self.slow = 0.0  # seconds that the next response takes, then a 503
        self.key: str | None = None
        self.cannot_load: tuple[int, str] | None = None  # status and message
        self.before_temperature = False
        self.at_once: int | None = None  # so many requests are answered at once; see newer_adapter
        self.completions: list[dict[str, Any]] = []
        self.loads: list[str] = []
        self.unloads: list[str] = []

    def restart(self) -> None:
        """Forget all adapters, as a server that was started again."""
        with self.lock:
            if isinstance(self.model, PeftModel):
                self.base = self.model.unload()
                self.model = self.base
            self.adapters.clear()

    def load(self, name: str, path: str) -> None:
        with self.lock:
            self.loads.append(name)
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(path, adapter_name=name)
            else:
                self.model = PeftModel.from_pretrained(self.base, path, adapter_name=name).eval()
            self.adapters.add(name)
        with self.loaded:
            self.loaded.notify_all()

    def unload(self, name: str) -> None:
        with self.lock:
            self.unloads.append(name)
            self.adapters.discard(name)

    def newer_adapter(self, name: str) -> str:
        """The adapter that was loaded after another one, as soon as there is one: a server that is told to
        wait draws a batch that was asked for ahead only when the policy has learned from the one before."""
        place = self.loads.index(name)
        with self.loaded:
            self.loaded.wait_for(lambda: set(self.loads[place + 1 :]) & self.adapters, timeout=60)
        return self.loads[place + 1]

    @torch.no_grad()
    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            waits = self.at_once is not None and len(self.completions) >= self.at_once
            self.completions.append(body)
        name = self.newer_adapter(body["model"]) if waits else body["model"]
        with self.lock:
            ids, logprobs = self._draw(body, name)
            body["drawn"] = ids
            ended = "stop" if ids[-1] in body["stop_token_ids"] else "length"
            if self.broken_off:
                self.broken_off -= 1
                ids, logprobs, ended = ids[:1], logprobs[:1], "abort"
        choice = {"text": "", "token_ids": ids, "logprobs": {"token_logprobs": logprobs}}
        return {"choices": [choice | {"finish_reason": ended}]}

    def _draw(self, body: dict[str, Any], name: str) -> tuple[list[int], list[float]]:
        generator = torch.Generator().manual_seed(body["seed"])
        ids, logprobs = list(body["prompt"]), []
        for _ in range(body["max_tokens"]):
            logits = self._logits(name, ids)
            warm = (logits / body["temperature"]).log_softmax(-1)
            token = int(torch.multinomial(warm.exp(), 1, generator=generator))
            told = logits.log_softmax(-1) if self.before_temperature else warm
            ids.append(token)
            logprobs.append(float(told[token]))
            if token in body["stop_token_ids"]:
                break
        return ids[len(body["prompt"]) :], logprobs

    def _logits(self, name: str, ids: list[int]) -> torch.Tensor:
        rows = torch.tensor([ids])
        if name in self.adapters:
            self.model.set_adapter(name)
            return self.model(input_ids=rows).logits[0, -1]
        if isinstance(self.model, PeftModel):
            with self.model.disable_adapter():
                return self.model(input_ids=rows).logits[0, -1]
        return self.base(input_ids=rows).logits[0, -1]

    def app(self) -> Starlette:
        async def models(request: Request) -> Response:
            if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": "Unauthorized"}, 401)
            return JSONResponse({"data": [{"id": "base", "parent": None, "max_model_len": 2048}]})

        async def load(request: Request) -> Response:
            body = await request.json()
            if self.cannot_load is not None:
                status, message = self.cannot_load
                return JSONResponse({"error": {"message": message}}, status)
            await run_in_threadpool(self.load, body["lora_name"], body["lora_path"])
            return PlainTextResponse("Success")

        async def unload(request: Request) -> Response:
            self.unload((await request.json())["lora_name"])
            return PlainTextResponse("Success")

        async def complete(request: Request) -> Response:
            body = await request.json()
            if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": "Unauthorized"}, 401)
            if self.slow:
                await run_in_threadpool(time.sleep, self.slow)
                self.slow, self.busy = 0.0, 1
            if self.busy:
                self.busy -= 1
                return JSONResponse({"error": {"message": "the engine is starting"}}, 503)
            if body["model"] != "base" and body["model"] not in self.adapters:
                message = f"The model `{body['model']}` does not exist."
                return JSONResponse({"error": {"message": message}}, 404)
            return JSONResponse(await run_in_threadpool(self.complete, body))

        return Starlette(
            routes=[
                Route("/v1/models", models),
                Route("/v1/load_lora_adapter", load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", unload, methods=["POST"]),
                Route("/v1/completions", complete, methods=["POST"]),
            ]
        )


@contextmanager
def serving(stand_in: StandIn) -> Iterator[str]:
    """The server's address on loopback, while it runs in a thread."""
    server = uvicorn.Server(uvicorn.Config(stand_in.app(), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
