"""Frozen models beside the policy: copies and averages of its adapter on the same backbone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from redline.engine.trunk import Trunk
from redline.engine.views import Split
from redline.errors import UserError
from redline.policy.actor import ActorCritic
from redline.policy.start import POLICY
from redline.sampling.protocol import CurrentPolicy


class Anchors:
    """Frozen adapters beside the policy's, by name: "anchor" and "average", whichever a method asks for.

    Each begins as a copy of the policy's adapter. "original" is the model without any adapter; it never
    changes, and nothing can be copied into it. ``versions`` counts how often an anchor has changed: what was
    computed with an older version is out of date."""

    def __init__(self, actor: ActorCritic, names: tuple[str, ...]):
        self.actor = actor
        self.names = tuple(name for name in names if name != "original")
        self.versions = dict.fromkeys(["original", *self.names], 0)
        if self.names and actor.peft is None:
            raise UserError(
                "direct: this method keeps frozen copies of the policy, which are adapters. Set "
                "policy.adapt.lora_rank above 0."
            )
        for name in self.names:
            actor.peft.add_adapter(name, actor.peft.peft_config[POLICY])
            actor.peft.set_adapter(POLICY)
            for parameter in self.weights(name).values():
                parameter.requires_grad_(False)
            self.copy("policy", name)

    def weights(self, name: str) -> dict[str, torch.nn.Parameter]:
        """The tensors of an adapter ("policy" or an anchor), by the names that the policy's have."""
        part = f".{POLICY if name == 'policy' else name}."
        return {
            key.replace(part, f".{POLICY}."): parameter
            for key, parameter in self.actor.named_parameters()
            if "lora_" in key and part in key
        }

    def copy(self, source: str, to: str) -> None:
        """Make an anchor equal to the policy or another anchor."""
        self.average(source, to, 0.0)

    @torch.no_grad()
    def average(self, source: str, to: str, stay: float) -> None:
        """Move an anchor towards ``source``: ``stay`` times itself and ``1 - stay`` times ``source``.

        A and B of each layer are averaged apart; the product differs from the average of the products by
        about one per cent of the change."""
        if to not in self.names:
            raise ValueError(f"{to} is no anchor that can be changed")
        from_here = self.weights(source)
        for name, parameter in self.weights(to).items():
            parameter.mul_(stay).add_((1 - stay) * from_here[name]) if stay else parameter.copy_(
                from_here[name]
            )
        self.versions[to] += 1

    @contextmanager
    def using(self, who: str) -> Iterator[Split]:
        """Inside, passes and samples are by ``who``: "policy", "original" or an anchor."""
        if who == "policy":
            yield self.actor.split
        elif who == "original":
            with self.actor.reference() as split:
                yield split
        else:
            self.actor.peft.set_adapter(who, inference_mode=True)
            try:
                yield self.actor.split
            finally:
                self.actor.peft.set_adapter(POLICY)

    @contextmanager
    def sampling_from(self, who: str) -> Iterator[CurrentPolicy]:
        """What a sampler is given for ``who``; it need keep no states."""
        if who == "original":
            with self.actor.current_reference() as current:
                yield replace(current, trunk=Trunk())
        else:
            with self.using(who):
                yield replace(self.actor.current(), trunk=Trunk())

    def state(self) -> dict[str, Tensor]:
        """All anchors' tensors, for a checkpoint."""
        return {
            f"{name}/{key}": parameter.detach().cpu()
            for name in self.names
            for key, parameter in self.weights(name).items()
        }

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        for name in self.names:
            for key, parameter in self.weights(name).items():
                parameter.copy_(tensors[f"{name}/{key}"])
            self.versions[name] += 1

    def delete(self) -> None:
        """Remove the helpers, so that the saved adapter is the policy's alone."""
        for name in self.names:
            self.actor.peft.delete_adapter(name)
        self.names = ()
