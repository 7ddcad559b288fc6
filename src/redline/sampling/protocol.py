"""The seam between what needs responses and what draws them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from redline.engine.trunk import LowerStates, Trunk
from redline.sampling.settings import Sampling

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class CurrentPolicy:
    """The weights that responses are drawn from: the policy as it is now, or the reference it began from.

    ``lm`` is the Transformers model; it computes with these weights. ``adapter`` is the LoRA adapter in it
    that is at work: PEFT's model, whose ``save_pretrained(folder)`` writes the adapter, or the folder of an
    adapter that is merged into ``lm``. Without an adapter it is None: then ``lm`` is the base model itself,
    or has weights of its own (full fine-tuning). ``trunk`` names the layers whose incoming states are wanted;
    the sampler in this process keeps them, others need not look at it.
    """

    lm: "PreTrainedModel"
    adapter: "PeftModel | Path | None" = None
    trunk: Trunk = field(default_factory=Trunk)


@dataclass(frozen=True)
class Request:
    """How responses are drawn.

    ``sampling``: temperature, top-p, top-k, shortest and longest response. ``stop``: the token ids that end
    a response; the one that was sampled is its last token. ``seed`` and ``places``: the response at index
    ``i`` draws from random numbers that depend on ``seed`` and ``places[i]`` alone, so that a run which is
    continued draws what it would have drawn, and processes that share a batch draw what one process draws.
    Without ``places`` it is ``i`` itself. ``done`` is told how many responses more are there (a progress
    bar).
    """

    sampling: Sampling
    stop: Sequence[int]
    seed: int
    places: Sequence[int] | None = None
    done: Callable[[int], None] | None = None

    def places_of(self, count: int) -> list[int]:
        """The places of ``count`` responses."""
        return list(range(count)) if self.places is None else list(self.places)


@dataclass(frozen=True)
class Drawn:
    """What a sampler returns; a plain pair ``(ids, logprobs)`` will do.

    ``ids``: the token ids of each response, ``n`` responses to the first prompt, then to the second, and so
    on. ``logprobs``: of each response one log-probability a token, under the temperature and over the whole
    vocabulary (before top-p, top-k and the shortest length take their part); None from a sampler that does
    not know them. ``states`` are the in-process sampler's: what entered the layers of
    ``CurrentPolicy.trunk``.
    """

    ids: Sequence[Sequence[int]]
    logprobs: Sequence[Sequence[float]] | None = None
    states: LowerStates | None = None


class Sampler(Protocol):
    """Draws responses from the policy as it was when ``sync`` was last called.

    A sampler that can draw while the policy learns (``policy.ahead``) also has ``later(prompts, n,
    request)``, which returns a function without parameters: it draws from the weights of the time of the
    call, in another thread.
    """

    def sync(self, policy: CurrentPolicy) -> None:
        """Draw from these weights from now on."""

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, request: Request
    ) -> Drawn | tuple[Sequence[Sequence[int]], Sequence[Sequence[float]] | None]:
        """Draw ``n`` responses to each prompt (token ids, none empty)."""
