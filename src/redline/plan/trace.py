"""Passes of the engine's own modules without weights or numbers: what PyTorch would allocate, counted byte by
byte.

Models are built on the meta device. A pass runs on fake tensors (shapes and types, no storage), so every
operation, whatever the architecture or the adapters do, says what it would allocate and when that is freed.
Two depths are traced, 1 and 2 layers; each further layer adds what the second added, so a model of 80 layers
costs no more to plan than one of 8.
"""

import copy
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache

from redline.engine.adapt import adapt
from redline.engine.attention import use_short_attention
from redline.engine.logprobs import CHUNK, token_logprobs
from redline.engine.settings import Adapt
from redline.engine.views import Recomputed, cache_argument, layers_of, view_of
from redline.types import AutoClass, Config, Network


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained. ``auto`` is the Transformers class that builds the model (a causal language model, or
    a classifier: then no vocabulary is predicted), ``config`` its configuration at full depth. Tasks of equal
    content are equal, so results are kept."""

    auto: AutoClass
    config: Config
    dtype: torch.dtype
    weights: Adapt
    # whether passes run under bfloat16 autocast, as `accelerate launch --mixed_precision bf16` has it
    mixed: bool = False
    on_cpu: bool = True  # where short sequences have an attention of their own

    def __hash__(self) -> int:
        return hash(self._content())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and self._content() == other._content()

    def _content(self) -> tuple[Any, ...]:
        return (
            self.auto,
            self.config.to_json_string(),
            self.dtype,
            self.weights.model_dump_json(),
            self.mixed,
            self.on_cpu,
        )

    @property
    def predicts(self) -> bool:
        """Whether it predicts tokens of the vocabulary."""
        return "CausalLM" in self.auto.__name__

    @property
    def depth(self) -> int:
        """Layers of the model."""
        return int(self.config.num_hidden_layers)

    @property
    def trained(self) -> int:
        """Layers that are trained, the uppermost ones."""
        return self.weights.train_layers or self.depth


@dataclass(frozen=True)
class Batch:
    """A micro-batch: ``rows`` sequences of ``length`` tokens, the last ``responses`` of which are predicted
    or labelled."""

    rows: int
    length: int
    responses: int


def build(task: Task) -> Any:
    """The model on the meta device as training holds it: frozen, adapters in place or the trained weights
    marked."""
    with torch.device("meta"):
        model = task.auto.from_config(task.config, dtype=task.dtype).requires_grad_(False).eval()
        adapt(model, task.weights, task.depth)
        if not task.predicts:
            model.score.float().requires_grad_(True)
    return model


@cache
def training_bytes(task: Task, batch: Batch, masked: bool = False) -> float:
    """Bytes at the height of one forward and backward pass over a micro-batch, beyond weights and gradients:
    saved activations, what is computed on the way, and for a language model the chunk of logits. ``masked``:
    with a padding mask, as TRL runs."""

    def run(model: Network, cut: int) -> None:
        _training(task, model, cut, batch, masked)

    # what a forward pass saves grows with every layer; in a shallow model the height may be elsewhere: in the
    # embeddings' gradient
    one, two = (
        _traced(task, depth, lambda model, cut: _upper(task, model, cut, batch, masked)) for depth in (1, 2)
    )
    depth, peak, grown = 1, _traced(task, 1, run), False
    while depth < task.trained and not grown:
        deeper = min(2 * depth, task.trained)
        higher = _traced(task, deeper, run)
        grown = higher - peak > 0.98 * (deeper - depth) * (two - one)
        depth, peak = deeper, higher
    return peak + (task.trained - depth) * (two - one)


@cache
def forward_bytes(task: Task, batch: Batch) -> float:
    """Bytes at the height of a pass without gradients over all layers (they are freed layer by layer: depth
    does not matter)."""
    whole = replace(task, weights=task.weights.model_copy(update={"train_layers": None}))
    return _traced(whole, 1, lambda model, cut: _forward(task, model, batch))


@cache
def logits_bytes(task: Task, batch: Batch) -> float:
    """Bytes that the logits of one chunk take at their height, forward and backward."""
    rows = min(CHUNK, batch.rows * batch.responses)
    return _traced(task, 1, lambda model, cut: _logits(task, model, rows))


def shallow(task: Task, layers: int) -> Task:
    """The same task with only ``layers`` trained layers above at most one frozen one."""
    cut = task.trained < task.depth
    config = copy.deepcopy(task.config)
    config.num_hidden_layers = layers + cut
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[-config.num_hidden_layers :]
    return replace(
        task, config=config, weights=task.weights.model_copy(update={"train_layers": layers if cut else None})
    )


def _traced(task: Task, layers: int, run: Any) -> float:
    """Bytes at the height of ``run``, given the task's model with so many trained layers, and its cut."""
    small = shallow(task, layers)
    model = build(small)
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16) if task.mixed else nullcontext():
        materialise(model)
        if task.on_cpu:
            use_short_attention(model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
        tally = Tally()
        with tally:
            run(model, small.depth - small.trained)
        return float(tally.peak)


def _training(task: Task, model: Network, cut: int, batch: Batch, masked: bool) -> None:
    hidden = _upper(task, model, cut, batch, masked)
    rows = torch.arange(batch.rows).repeat_interleave(batch.responses)
    columns = (
        (torch.arange(batch.responses) + batch.length - batch.responses - 1).clamp(min=0).repeat(batch.rows)
    )
    hidden = hidden[rows, columns]
    if task.predicts:
        logprobs, _ = token_logprobs(
            hidden, model.get_output_embeddings(), torch.zeros_like(rows), 1.0, _cap(task.config)
        )
        value = nn.Linear(hidden.shape[1], 1)(hidden.float())
        (logprobs.sum() + value.sum()).backward()
    else:
        model.score(hidden.to(model.score.weight.dtype)).float().log_softmax(1).sum().backward()


def _upper(task: Task, model: Network, cut: int, batch: Batch, masked: bool = False) -> Tensor:
    """Last hidden states of the layers above the cut, from token ids where there is no cut."""
    base = model.base_model
    inputs = {"input_ids": torch.zeros(batch.rows, batch.length, dtype=torch.long)}
    layers = list(layers_of(base)[1])[cut:]
    view = view_of(
        base,
        [Recomputed(layer) for layer in layers] if task.weights.gradient_checkpointing else layers,
        start=cut,
    )
    if cut:
        size = task.config.get_text_config().hidden_size
        inputs = {"inputs_embeds": torch.empty(batch.rows, batch.length, size, dtype=task.dtype)}
    if masked:
        inputs["attention_mask"] = torch.ones(batch.rows, batch.length, dtype=torch.long)
    hidden: Tensor = view(**inputs, use_cache=False, **cache_argument(base, _NoCache())).last_hidden_state
    return hidden


@torch.no_grad()
def _forward(task: Task, model: Network, batch: Batch) -> None:
    _upper(task, model, 0, batch)


def _logits(task: Task, model: Network, rows: int) -> None:
    dtype = torch.bfloat16 if task.mixed else task.dtype
    hidden = torch.empty(rows, task.config.get_text_config().hidden_size, dtype=dtype).requires_grad_(True)
    logprobs, _ = token_logprobs(
        hidden, model.get_output_embeddings(), torch.zeros(rows, dtype=torch.long), 1.0, _cap(task.config)
    )
    logprobs.sum().backward()


def _cap(config: Config) -> float | None:
    return getattr(config, "final_logit_softcapping", None)


class _NoCache(DynamicCache):
    """Keeps nothing. With a cache the models do not look into tensors for packed sequences, which fake ones
    cannot show."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return key_states, value_states


class Tally(TorchDispatchMode):
    """Counts the bytes of all storages that operations make while it is on: ``now``, and at most so far
    ``peak``.

    What an operation makes and frees inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            id(tensor.untyped_storage())
            for tensor in tree_leaves((args, kwargs))
            if isinstance(tensor, Tensor)
        }
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage(), given)
        return made

    def _add(self, storage: Any, given: set[int]) -> None:
        key = id(storage)
        if key in self._known or key in given:
            return
        size = storage.nbytes()
        self._known[key] = weakref.finalize(storage, self._drop, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.now -= size


def materialise(model: nn.Module) -> None:
    """Give a meta model tensors of the CPU (under ``FakeTensorMode`` fake ones) in place of its parameters
    and buffers, whatever lies in them; tied ones stay tied."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, tensor.requires_grad)
                    made[id(tensor)] = fake
                tensors[name] = made[id(tensor)]
