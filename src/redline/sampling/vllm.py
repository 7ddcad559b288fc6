"""A running vLLM server draws the responses. vLLM is never imported: the server is spoken to over HTTP.

The server has the base model and was started with ``--enable-lora`` and VLLM_ALLOW_RUNTIME_LORA_UPDATING. At
each ``sync`` the adapter is written to a folder that both see, under a name made of its contents, and loaded;
the server's base model is the reference. Prompts go as token ids, responses come back as token ids with
log-probabilities. Each response is one request with a seed of its own, so a server that batches as it likes
still draws the same for the same request. docs/scale.md has the commands.
"""

import hashlib
import itertools
import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

from redline.console import say
from redline.engine.logits import logits_of
from redline.engine.processes import this_process
from redline.errors import UserError
from redline.sampling.protocol import CurrentPolicy, Drawn, Request
from redline.sampling.settings import Sampling, VllmServer
from redline.sampling.vllm_client import Answer, Fault, Server, UnknownAdapter, patiently

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

KEPT = 2  # adapters that stay loaded: this update's, and the one before, which is still drawn from
PROBE_TOKENS = 8
PROBE_BOUND = 0.2  # nats a token that the server's log-probabilities may be off on average
SEEDS = 2**62
P = ParamSpec("P")
T = TypeVar("T")


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
        self.run = _name_of_run()
        weakref.finalize(self, _forget, self.servers, self.loaded)

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
        longest = max((len(prompt) for prompt in prompts), default=0)
        self._check(self.policy.lm, longest, request)
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
        """One response, from the server whose turn it is, or from the next one that answers."""
        servers = self.servers[turn:] + self.servers[:turn]

        def attempt() -> Answer:
            faults = []
            for server in servers:
                try:
                    return self._ask_one(server, adapter, prompt, seed, request)
                except Fault as fault:
                    faults.append(fault)
            raise faults[0]

        return self._patiently(attempt)

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
            say(f"policy.sampler: {line}")

    def _load(self, adapter: "PeftModel | Path") -> _Loaded:
        """Put an adapter where the servers find it, and load it. One that is loaded already is not written
        again. Each process does this, and what another one has done already is left as it is."""
        digest = _digest_of_folder(adapter) if isinstance(adapter, Path) else _digest(adapter)
        name = f"redline-{self.run}-{digest}"
        loaded = _Loaded(name, Path(self.settings.adapter_dir).resolve() / name)
        if loaded not in self.loaded:
            self.loaded.append(loaded)  # first: what cannot be loaded is not left behind either
            _write(adapter, loaded.folder)
            self._load_everywhere(loaded)
            if len(self.loaded) > KEPT:
                _forget(self.servers, [self.loaded.pop(0)])
        return loaded

    def _load_everywhere(self, adapter: _Loaded) -> None:
        """Load an adapter on every server that answers; one must. The others are given it when they are asked
        again."""

        def attempt() -> None:
            faults = []
            for server in self.servers:
                try:
                    server.load(adapter.name, adapter.folder)
                except Fault as fault:
                    faults.append(fault)
            if len(faults) == len(self.servers):
                raise faults[0]

        self._patiently(attempt)

    def _patiently(self, attempt: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a call returns, made again while a server does not answer."""
        return patiently(self.settings.patience, lambda: attempt(*args, **kwargs))

    def _check(self, lm: "PreTrainedModel", longest: int, request: Request) -> None:
        """Are the servers' sequences long enough for the longest prompt? And before the first response of the
        base model, and of an adapter: do they compute what this process computes?"""
        for server in self.servers:
            self._patiently(server.check_length, longest, request.sampling.max_new_tokens)
        kind = "base" if self.adapter is None else "adapter"
        if kind in self.checked:
            return
        temperature = request.sampling.temperature
        trial = Request(Sampling(max_new_tokens=PROBE_TOKENS, temperature=temperature), stop=[], seed=0)
        for server in self.servers:
            answer = self._patiently(self._ask_one, server, self.adapter, _probe_ids(lm), trial.seed, trial)
            _check_probe(server.url, lm, answer, temperature)
        self.checked.add(kind)


def _name_of_run() -> str:
    """What sets this run's adapters apart from those of others on the same server. The processes of a run
    meet at one address, and have one name."""
    if this_process().num_processes == 1:
        return uuid.uuid4().hex[:8]
    meeting = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return hashlib.sha256(meeting.encode()).hexdigest()[:8]


def _forget(servers: Sequence[Server], adapters: Sequence[_Loaded]) -> None:
    """Leave no trace of some adapters on the servers and in the shared folder."""
    for adapter in adapters:
        for server in servers:
            server.unload(adapter.name)
        shutil.rmtree(adapter.folder, ignore_errors=True)


def _trains_its_weights(lm: "PreTrainedModel") -> bool:
    named = lm.named_parameters()
    return any(parameter.requires_grad and "lora_" not in name for name, parameter in named)


def _write(adapter: "PeftModel | Path", folder: Path) -> None:
    """PEFT's files of an adapter, whole or not at all."""
    if folder.exists():
        return
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(adapter, Path):
            shutil.copytree(adapter, aside)
        else:
            adapter.save_pretrained(str(aside))
        aside.replace(folder)
    except OSError as error:
        if folder.exists():  # another process was quicker
            shutil.rmtree(aside, ignore_errors=True)
            return
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
