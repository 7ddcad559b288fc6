"""A server that speaks vLLM's part of the protocol and computes with a real tiny model, one response at a
time.

It has what a test needs to go wrong: it can forget its adapters, answer 503, run another model, and give
log-probabilities before the temperature.
"""

import threading
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
        self.busy = 0  # so many requests are answered with 503 first
        self.before_temperature = False
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

    def unload(self, name: str) -> None:
        with self.lock:
            self.unloads.append(name)
            self.adapters.discard(name)

    @torch.no_grad()
    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.completions.append(body)
            ids, logprobs = self._draw(body)
            body["drawn"] = ids
        choice = {"text": "", "token_ids": ids, "logprobs": {"token_logprobs": logprobs}}
        return {"choices": [choice]}

    def _draw(self, body: dict[str, Any]) -> tuple[list[int], list[float]]:
        generator = torch.Generator().manual_seed(body["seed"])
        ids, logprobs = list(body["prompt"]), []
        for _ in range(body["max_tokens"]):
            logits = self._logits(body["model"], ids)
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
            return JSONResponse({"data": [{"id": "base", "parent": None, "max_model_len": 2048}]})

        async def load(request: Request) -> Response:
            body = await request.json()
            await run_in_threadpool(self.load, body["lora_name"], body["lora_path"])
            return PlainTextResponse("Success")

        async def unload(request: Request) -> Response:
            self.unload((await request.json())["lora_name"])
            return PlainTextResponse("Success")

        async def complete(request: Request) -> Response:
            body = await request.json()
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
