"""What sampling makes, rewards score and PPO learns from."""

from dataclasses import dataclass, field

from torch import Tensor

from redline.data.records import Text
from redline.engine.trunk import LowerStates


@dataclass
class Rollout:
    """Sampled responses, one entry a row, nothing padded.

    ``prompts[i]`` is the prompt as given, ``prompt_ids[i]`` ``[P_i]`` and ``response_ids[i]`` ``[R_i]`` its
    token ids and the response's, the end-of-text token included where one was sampled (``ended[i]``).
    ``logprobs[i]`` ``[R_i]`` are the sampler's, under the temperature, before top-k and top-p (so they
    compare with re-scored ones); a sampler that does not know them gives none (the list is empty).
    ``states`` are what entered the layers that later passes start at, ``[P_i + R_i, H]``; the state of
    end-of-text may be zeros, since no later pass reads it.
    """

    prompts: list[Text]
    prompt_ids: list[Tensor]
    response_ids: list[Tensor]
    logprobs: list[Tensor]
    ended: list[bool]
    states: LowerStates = field(default_factory=LowerStates)

    def __len__(self) -> int:
        return len(self.response_ids)

    @property
    def sizes(self) -> list[int]:
        """Tokens of each response."""
        return [len(ids) for ids in self.response_ids]

    @property
    def sequences(self) -> list[Tensor]:
        """Token ids of prompt and response ``[P_i + R_i]``."""
        import torch

        return [
            torch.cat([prompt, ids]) for prompt, ids in zip(self.prompt_ids, self.response_ids, strict=True)
        ]

    def inputs(self, layer: int) -> list[Tensor]:
        """What a pass that starts at a layer reads of each row: states ``[P_i + R_i, H]``, or at layer 0 the
        token ids ``[P_i + R_i]``."""
        return self.states.at(layer) if layer else self.sequences
