"""A model cut at a layer: the frozen lower part is computed once, the upper part as often as training needs
it.

Both parts are *views* of the model: shallow copies whose list of layers is a slice of the model's own. They
run the model's own forward (masks, rotary embeddings, sliding windows, final norm), so nothing of an
architecture is implemented again here.
"""

import copy
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from redline.console import console
from redline.engine.limits import limits, past
from redline.engine.switch import plain
from redline.types import Config

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

# tokens of a branch in a trial, at most: more than the windows of models whose configuration does not name
# them
TRIED = 1024
FEWEST = 9  # tokens of a trial of the cut, where no window asks for more


class Split:
    """A decoder cut below layer ``cut``.

    ``lower(ids)`` gives the states that enter layer ``cut``; ``upper(states)`` gives the last hidden states.
    With ``cut`` 0, or for a model that does not fit (``fits`` is False: no plain list of layers, or a view
    whose output differs), ``lower`` gives the token ids themselves and ``upper`` runs the whole model. With
    ``recompute`` the upper layers keep only what enters them, and run again in the backward pass (gradient
    checkpointing); LookupError for a model without a plain list of layers.

    Sequences are padded on the right and no mask is passed: causal attention lets no valid token see the
    padding. Shapes: ids ``[B, T]``, states ``[B, T, H]`` (or ids), hidden ``[B, T, H]``.
    """

    def __init__(self, model: "PreTrainedModel", cut: int, recompute: bool = False):
        self.model, self.base = model, model.base_model
        self._whole: Any = self.base
        cut = 0 if plain() else cut
        self.fits = cut > 0 and _fits(self.base, cut)
        if cut > 0 and not self.fits:
            console.print(
                f"{type(model).__name__} cannot be cut at layer {cut}: whole passes are used, which takes "
                "longer."
            )
        self.cut = cut if self.fits else 0
        if self.cut:
            self._lower, self._upper = _lower(self.base, cut), _upper(self.base, cut, recompute)
        elif recompute:
            self._whole = view_of(self.base, [Recomputed(layer) for layer in layers_of(self.base)[1]])

    @torch.no_grad()
    def lower(self, ids: Tensor, forks: Tensor | None = None) -> Tensor:
        """The states entering layer ``cut``, without gradients. For ``forks`` see ``forked``."""
        return self._lower(ids, **self._how(ids, forks)) if self.cut else ids

    def upper(self, states: Tensor, forks: Tensor | None = None) -> Tensor:
        """The last hidden states, after the final norm, with gradients for whatever is trained above the
        cut."""
        if self.cut:
            return self._upper(states, **self._how(states, forks))
        return self._whole(input_ids=states, use_cache=False, **self._how(states, forks)).last_hidden_state

    def _how(self, states: Tensor, forks: Tensor | None) -> dict[str, Tensor]:
        return {} if forks is None else forked(forks, states.shape[1], self.model.dtype)

    @torch.no_grad()
    def can_fork(self, longest: int) -> bool:
        """Whether rows that fork, of branches of at most ``longest`` tokens, give what the branches give
        alone.

        Asked of random tokens: an architecture may not take such a mask, or mix tokens by other means than
        attention. Local attention would need masks of its own, so a window shorter than ``longest`` says no.
        """
        if plain():
            return False
        config: Config = self.model.config.get_text_config()
        windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        if any(window is not None and window < longest for window in windows):
            return False
        device, size = next(self.base.parameters()).device, min(longest, TRIED)
        fork = size // 2
        ids = torch.randint(0, config.vocab_size, (2, size), generator=torch.Generator().manual_seed(0)).to(
            device
        )
        ids[1, :fork] = ids[0, :fork]
        row, forks = torch.cat([ids[0], ids[1, fork:]])[None], torch.tensor([[fork, size]], device=device)
        alone = self.upper(self.lower(ids)).float()
        try:
            joint = self.upper(self.lower(row, forks), forks)[0].float()
        except (TypeError, AttributeError, IndexError, ValueError, RuntimeError):
            return False
        both = torch.stack([joint[:size], torch.cat([joint[:fork], joint[size:]])])
        tolerance = (
            5e-2 if torch.finfo(self.model.dtype).bits == 16 else 1e-3
        )  # the same sums in another order
        return bool((both - alone).norm() <= tolerance * alone.norm())


def forked(forks: Tensor, length: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The position ids ``[B, T]`` and the additive attention mask ``[B, 1, T, T]`` of rows that fork, T =
    ``length``.

    ``forks`` ``[B, 2]`` holds (fork, second): the tokens from place ``second`` on continue the first ``fork``
    tokens. They take positions from ``fork`` on, and do not see what lies between. Padding on the right is
    seen by no other token.
    """
    fork, second = forks[:, :1], forks[:, 1:]
    place = torch.arange(length, device=forks.device)
    positions = torch.where(place < second, place, place - second + fork)
    between, after = (place >= fork) & (place < second), place >= second
    hidden = (place > place[:, None]) | (after[:, :, None] & between[:, None, :])  # [B, query, key]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=forks.device).masked_fill_(
        hidden, torch.finfo(dtype).min
    )
    return {"position_ids": positions, "attention_mask": mask[:, None]}


class Tap:
    """A view of the whole model that keeps the states entering some layers while it runs: what sampling uses.

    ``run`` passes its arguments on to the model; ``states`` maps each layer to the latest ``[B, T, H]`` that
    entered it.
    """

    def __init__(self, model: "PreTrainedModel", cuts: set[int]):
        base = model.base_model
        if not cuts:
            self._taps: dict[int, _Keep] = {}
            self._view: nn.Module = base
            return
        _, layers = layers_of(base)
        self._taps = {cut: _Keep(layers[cut]) for cut in cuts}
        self._view = view_of(base, [self._taps.get(index, layer) for index, layer in enumerate(layers)])

    def run(self, **inputs: Any) -> Any:
        return self._view(**inputs)

    @property
    def states(self) -> dict[int, Tensor]:
        return {cut: tap.kept for cut, tap in self._taps.items()}


def cache_argument(base: nn.Module, cache: "Cache") -> dict[str, "Cache"]:
    """A cache under the name that a backbone's ``forward`` has for it: ``cache`` since Transformers 5.24,
    ``past_key_values`` before, and in models that bring code of their own."""
    return {"cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values": cache}


def layers_of(base: nn.Module) -> tuple[str, nn.ModuleList]:
    """The attribute and the plain list of decoder layers of a backbone; LookupError where there is none."""
    config: Config = base.config
    depth = config.num_hidden_layers
    found = [
        (name, child)
        for name, child in base.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    ]
    if len(found) != 1:
        raise LookupError(f"{type(base).__name__} has {len(found)} lists of {depth} layers")
    return found[0]


def view_of(base: nn.Module, layers: list[nn.Module], start: int = 0) -> Any:
    """A shallow copy of ``base`` that runs only ``layers`` (the first of them being its layer number
    ``start``)."""
    name, _ = layers_of(base)
    view = copy.copy(base)
    view._modules = dict(base._modules)
    view.config = copy.copy(base.config)
    kinds = getattr(base.config, "layer_types", None)
    if kinds is not None and len(layers) != len(kinds):
        view.config.__dict__["layer_types"] = list(kinds)[start : start + len(layers)]
    view.config.__dict__["num_hidden_layers"] = len(layers)
    setattr(view, name, nn.ModuleList(layers))
    return view


class _Wrapped(nn.Module):
    """A layer with something around it; whatever else the model asks of the layer, it gets from the layer
    itself."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class _Keep(_Wrapped):
    """Keeps the states that enter the layer."""

    kept: Tensor

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.kept = hidden
        return self.layer(hidden, *args, **kwargs)


class _Feed(_Wrapped):
    """Gives the layer stored states, whatever the embedding stage of the model (scaling, positions) made of
    its input."""

    fed: Tensor

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.layer(self.fed, *args, **kwargs)


class Recomputed(_Wrapped):
    """Keeps nothing of a pass with gradients but what entered the layer: gradient checkpointing."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.layer(*args, **kwargs)
        return checkpoint(self.layer, *args, use_reentrant=False, **kwargs)


class _End(nn.Module):
    """Stands after the last layer of the lower part: keeps the states, ignores everything else."""

    def __init__(self, like: nn.Module):
        super().__init__()
        self.attention_type = getattr(like, "attention_type", None)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.kept = hidden
        return hidden


def _lower(base: nn.Module, cut: int) -> Any:
    _, layers = layers_of(base)
    end = _End(layers[cut])
    view = view_of(base, [*list(layers)[:cut], end])

    def run(ids: Tensor, **how: Tensor) -> Tensor:
        view(input_ids=ids, use_cache=False, **how)
        return end.kept

    return run


def _upper(base: nn.Module, cut: int, recompute: bool = False) -> Any:
    _, layers = layers_of(base)
    first, *rest = [Recomputed(layer) if recompute else layer for layer in layers[cut:]]
    feed = _Feed(first)
    view = view_of(base, [feed, *rest], start=cut)

    def run(states: Tensor, **how: Tensor) -> Tensor:
        feed.fed = states
        try:
            return view(inputs_embeds=states, use_cache=False, **how).last_hidden_state
        finally:
            del feed.fed

    return run


@torch.no_grad()
def _fits(base: nn.Module, cut: int) -> bool:
    """Whether lower and upper view together give what the whole model gives, on random tokens: five rows,
    since a layer whose output is a pair (or a triple) would pass for two (or three), longer than the model's
    windows."""
    try:
        layers_of(base)
        config: Config = base.config
        device = next(base.parameters()).device
        generator = torch.Generator().manual_seed(0)
        shown = [past(limit) for limit in limits(config) if past(limit) <= TRIED]
        size = max([FEWEST, *shown])
        ids = torch.randint(0, config.vocab_size, (5, size), generator=generator).to(device)
        whole = base(input_ids=ids, use_cache=False).last_hidden_state
        parts = _upper(base, cut)(_lower(base, cut)(ids))
    except (LookupError, TypeError, AttributeError, IndexError, ValueError, RuntimeError):
        return False
    return whole.shape == parts.shape and torch.allclose(whole.float(), parts.float(), rtol=1e-3, atol=1e-3)
