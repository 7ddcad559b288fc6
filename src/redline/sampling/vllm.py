"""A running vLLM server draws the responses. vLLM is never imported: the server is spoken to over HTTP.

The server has the base model and was started with ``--enable-lora`` and VLLM_ALLOW_RUNTIME_LORA_UPDATING. At
each ``sync`` the adapter is written to a folder that both see, under a name made of its contents, and loaded;
the server's base model is the reference. Prompts go as token ids, responses come back as token ids with
log-probabilities. Each response is one request with a seed of its own, so a server that batches as it likes
still draws the same for the same request. docs/scale.md has the commands.
"""

import hashlib
import itertools
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from redline.console import console
from redline.engine.logits import logits_of
from redline.engine.processes import this_process, wait_for_everyone
from redline.errors import UserError
from redline.sampling.protocol import CurrentPolicy, Drawn, Request
from redline.sampling.settings import Sampling, VllmServer
from redline.sampling.vllm_client import Answer, Server, UnknownAdapter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

KEPT = (
    2  # adapters that stay loaded: this update's, and the one before, which requests under way may still name
)
PROBE_TOKENS = 8
PROBE_BOUND = (
    0.2  # nats a token that the server's log-probabilities may be off on average, as other samplers'
)
SEEDS = 2**62


@dataclass(frozen=True)
class _Loaded:
    """An adapter that the servers have: the name they know it by, and its folder."""

    name: str
    folder: Path


class Vllm:
    """Samples with one or more vLLM servers (see ``redline.sampling.protocol.Sampler``)."""

    def __init__(self, settings: VllmServer):
        self.settings = settings
        self.servers = [Server(url, settings) for url in settings.urls]
        self.policy: CurrentPolicy | None = None
        self.adapter: _Loaded | None = None
        self.loaded: list[_Loaded] = []
        self.checked: set[str] = set()
        self.told: set[str] = set()

    def sync(self, policy: CurrentPolicy) -> None:
        """Draw from these weights from now on. Raises UserError where the server cannot take them."""
        if policy.adapter is None and _trains_its_weights(policy.lm):
            raise UserError(
                "policy.sampler: a vLLM server takes adapters, and this policy trains the model's own "
                "weights. Set policy.adapt.lora_rank above 0, or leave policy.sampler out."
            )
        self.policy = policy
        self.adapter = None if policy.adapter is None else self._load(policy.adapter)

    def sample(self, prompts: Sequence[Sequence[int]], n: int, request: Request) -> Drawn:
        """``n`` responses to each prompt. Raises UserError when no server answers, or one runs another
        model."""
        return self.later(prompts, n, request)()

    def later(self, prompts: Sequence[Sequence[int]], n: int, request: Request) -> Callable[[], Drawn]:
        """What draws the responses of the weights as they are now, in another thread."""
        if self.policy is None:
            raise ValueError("sync() comes before sample()")
        self._check(self.policy.lm, request)
        repeated = [list(prompt) for prompt in prompts for _ in range(n)]
        places = request.places_of(len(repeated))
        seeds = [(request.seed * 1_000_003 + place) % SEEDS for place in places]
        comparable, adapter = self._comparable(request), self.adapter

        def draw() -> Drawn:
            answers = self._ask_all(adapter, repeated, seeds, request)
            logprobs = [answer.logprobs for answer in answers]
            return Drawn([answer.ids for answer in answers], logprobs if comparable else None)

        return draw

    def _ask_all(
        self, adapter: _Loaded | None, prompts: list[list[int]], seeds: list[int], request: Request
    ) -> list[Answer]:
        """One answer for each prompt, the servers in turn."""
        turns = itertools.cycle(range(len(self.servers)))
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            futures = [
                pool.submit(self._ask, turn, adapter, prompt, seed, request)
                for turn, prompt, seed in zip(turns, prompts, seeds, strict=False)
            ]
            answers = []
            try:
                for future in futures:
                    answers.append(future.result())
                    if request.done is not None:
                        request.done(1)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return answers

    def _ask(
        self, turn: int, adapter: _Loaded | None, prompt: list[int], seed: int, request: Request
    ) -> Answer:
        """One response, from the server whose turn it is, or from another one when that fails."""
        servers = self.servers[turn:] + self.servers[:turn]
        for number, server in enumerate(servers, 1):
            try:
                return self._ask_one(server, adapter, prompt, seed, request)
            except UserError:
                if number == len(servers):
                    raise
        raise ValueError("a sampler needs a server")

    def _ask_one(
        self, server: Server, adapter: _Loaded | None, prompt: list[int], seed: int, request: Request
    ) -> Answer:
        """One response from one server. A server that has been restarted is given its adapter again."""
        name = None if adapter is None else adapter.name
        try:
            return server.complete(name, prompt, seed, request.sampling, request.stop)
        except UnknownAdapter:
            if adapter is None:
                raise
            server.load(adapter.name, adapter.folder)
            return server.complete(name, prompt, seed, request.sampling, request.stop)

    def _comparable(self, request: Request) -> bool:
        """Whether the server's log-probabilities are of the distribution that training re-scores."""
        sampling = request.sampling
        cut = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_new_tokens > 0
        if cut:
            self._say_once(
                "with top_p, top_k or min_new_tokens the server's log-probabilities are of the tokens that "
                "are left: they are not used, and there is no sampler_drift"
            )
        return not cut

    def _say_once(self, line: str) -> None:
        if line not in self.told:
            self.told.add(line)
            console.print(f"policy.sampler: {line}", highlight=False, markup=False)

    def _load(self, adapter: "PeftModel | Path") -> _Loaded:
        """Write an adapter where the servers find it and load it under a name made of its contents. One that
        is loaded already is not written again."""
        if isinstance(adapter, Path):
            loaded = _Loaded(f"redline-{_digest_of_folder(adapter)}", adapter.resolve())
        else:
            name = f"redline-{_digest(adapter)}"
            loaded = _Loaded(name, Path(self.settings.adapter_dir).resolve() / name)
            if this_process().is_main_process:
                _write(adapter, loaded.folder)
        if loaded.name in {other.name for other in self.loaded}:
            return loaded
        if this_process().is_main_process:
            for server in self.servers:
                server.load(loaded.name, loaded.folder)
        wait_for_everyone()
        self.loaded.append(loaded)
        self._unload_old()
        return loaded

    def _unload_old(self) -> None:
        while len(self.loaded) > KEPT:
            old = self.loaded.pop(0)
            if not this_process().is_main_process:
                continue
            for server in self.servers:
                server.unload(old.name)
            if old.folder.parent == Path(self.settings.adapter_dir).resolve():
                shutil.rmtree(old.folder, ignore_errors=True)

    def _check(self, lm: "PreTrainedModel", request: Request) -> None:
        """Before the first response of the base model, and of an adapter: do the servers compute what this
        process computes?"""
        kind = "base" if self.adapter is None else "adapter"
        if kind in self.checked:
            return
        temperature = request.sampling.temperature
        trial = Request(Sampling(max_new_tokens=PROBE_TOKENS, temperature=temperature), stop=[], seed=0)
        for server in self.servers:
            server.check_length(request.sampling.max_new_tokens)
            answer = self._ask_one(server, self.adapter, _probe_ids(lm), trial.seed, trial)
            _check_probe(server.url, lm, answer, temperature)
        self.checked.add(kind)


def _trains_its_weights(lm: "PreTrainedModel") -> bool:
    named = lm.named_parameters()
    return any(parameter.requires_grad and "lora_" not in name for name, parameter in named)


def _write(adapter: "PeftModel", folder: Path) -> None:
    """PEFT's files of the adapter, whole or not at all."""
    if folder.exists():
        return
    aside = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        adapter.save_pretrained(str(aside))
        aside.replace(folder)
    except OSError as error:
        raise UserError(
            f"policy.sampler.adapter_dir: {folder.parent} cannot be written ({error.strerror or error}). "
            "Give a folder that this process and the server both see."
        ) from error


def _digest(adapter: "PeftModel") -> str:
    """A name for an adapter's weights: equal weights, equal name."""
    sha = hashlib.sha256()
    for name, parameter in sorted(adapter.named_parameters()):
        if "lora_" in name:
            sha.update(name.encode())
            sha.update(parameter.detach().float().cpu().numpy().tobytes())
    return sha.hexdigest()[:16]


def _digest_of_folder(folder: Path) -> str:
    sha = hashlib.sha256()
    for file in sorted(folder.glob("adapter_*")):
        sha.update(file.read_bytes())
    return sha.hexdigest()[:16]


def _probe_ids(lm: "PreTrainedModel") -> list[int]:
    """A few tokens of the vocabulary's whole range, the same for every run."""
    size = int(lm.config.get_text_config().vocab_size)
    return [3 + (size - 4) * place // PROBE_TOKENS for place in range(PROBE_TOKENS)]


@torch.no_grad()
def _check_probe(url: str, lm: "PreTrainedModel", answer: Answer, temperature: float) -> None:
    """Raise UserError where the server's log-probabilities of its own response are not this model's."""
    prompt = _probe_ids(lm)
    if not answer.ids or max(answer.ids) >= int(lm.config.get_text_config().vocab_size):
        raise UserError(f"policy.sampler: {url} has another vocabulary than the model that is trained here.")
    sequence = torch.tensor([[*prompt, *answer.ids]], device=lm.device)
    hidden = lm.base_model(input_ids=sequence).last_hidden_state[0, len(prompt) - 1 : -1]
    logits = logits_of(lm, hidden).float()
    drawn = torch.tensor(answer.ids, device=lm.device)[:, None]
    told = torch.tensor(answer.logprobs)
    at_temperature = (logits / temperature).log_softmax(-1).gather(1, drawn)[:, 0].cpu()
    plain = logits.log_softmax(-1).gather(1, drawn)[:, 0].cpu()
    if float((at_temperature - told).abs().mean()) <= PROBE_BOUND:
        return
    if float((plain - told).abs().mean()) <= PROBE_BOUND:
        raise UserError(
            f"policy.sampler: {url} gives log-probabilities before the temperature ({temperature:g}). Start "
            "the server with --logprobs-mode processed_logprobs."
        )
    off = float((at_temperature - told).abs().mean())
    raise UserError(
        f"policy.sampler: {url} runs another model or tokenizer than the one that is trained here: its "
        f"log-probabilities are {off:.2f} nats a token off. Start it with the recipe's model (after an "
        "`sft:` stage with that stage's folder)."
    )
