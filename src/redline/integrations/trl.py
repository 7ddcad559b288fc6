"""Token rewards in TRL's GRPO: as one of its reward functions, and with credit for each token.

``TokenRewardFunction`` is an entry of ``reward_funcs``: a completion gets the sum of its tokens' rewards.
``TokenCreditTrainer`` is TRL's ``GRPOTrainer``, in which the tokens of a completion have advantages of their
own. Written against TRL 1.16: the trainer overrides ``_calculate_rewards`` and
``_generate_and_score_completions``, and relies on the loss taking advantages of shape (batch, tokens).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather
from torch import Tensor
from trl import GRPOTrainer

from redline.data.records import Text
from redline.data.tokenization import encode_prompt
from redline.engine.batching import pad
from redline.engine.rollout import Rollout
from redline.errors import UserError
from redline.policy.baselines import EPSILON, Groups, group_deviation, less_group_mean
from redline.reward.functions import OfResponse, function_reward
from redline.reward.rewards import checked, model_reward
from redline.reward.token_reward import TokenReward

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenRewardFunction:
    """A token reward as an entry of TRL's ``reward_funcs``.

    ``reward`` is a ``TokenReward``, the folder of a reward model, or a function ``(prompts, responses) -> one
    float for each response token`` (see ``redline.reward.functions.RewardFunction``). ``tokenizer`` is the
    policy's; the reward model's may be another. ``name`` is what TRL's logs call it. ``latest`` holds the
    rewards of each token ``[R_i]`` of the completions that were scored last.
    """

    def __init__(
        self,
        reward: TokenReward | str | Path | Callable[..., Sequence[OfResponse]],
        tokenizer: "PreTrainedTokenizerBase",
        name: str = "token_reward",
    ):
        if isinstance(reward, str | Path):
            reward = TokenReward.from_pretrained(reward)
        if isinstance(reward, TokenReward):
            score = model_reward(reward.model, tokenizer)
        else:
            score = function_reward(reward, tokenizer)
        self._score = checked(score)
        self.tokenizer, self.latest = tokenizer, list[Tensor]()
        self.__name__ = name

    def __call__(
        self, prompts: list[Text], completion_ids: list[list[int]], **columns: object
    ) -> list[float]:
        """The sum of each completion's token rewards, as TRL asks for it."""
        self.latest = self.token_rewards(prompts, completion_ids)
        return [float(row.sum()) for row in self.latest]

    def token_rewards(self, prompts: list[Text], completion_ids: list[list[int]]) -> list[Tensor]:
        """The reward of each token ``[R_i]`` of each completion."""
        special = set(self.tokenizer.all_special_ids)
        return self._score(
            Rollout(
                prompts=list(prompts),
                prompt_ids=[torch.tensor(encode_prompt(self.tokenizer, prompt)) for prompt in prompts],
                response_ids=[torch.tensor(ids, dtype=torch.long) for ids in completion_ids],
                logprobs=[],
                ended=[bool(ids) and ids[-1] in special for ids in completion_ids],
            )
        )


class TokenCreditTrainer(GRPOTrainer):
    """TRL's ``GRPOTrainer``, in which each token has an advantage of its own.

    Takes the arguments of ``GRPOTrainer``. The entries of ``reward_funcs`` that are a ``TokenRewardFunction``
    give credit token by token; others (a format, a length) count for whole completions, as ever. See
    ``token_advantages`` for the formula. Raises UserError where no entry is a token reward, or where rewards
    are normalised before they are summed.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._token_functions = [
            (place, function)
            for place, function in enumerate(self.reward_funcs)
            if isinstance(function, TokenRewardFunction)
        ]
        if not self._token_functions:
            raise UserError("TokenCreditTrainer: no entry of reward_funcs is a TokenRewardFunction.")
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise UserError(
                "TokenCreditTrainer: multi_objective_aggregation must be sum_then_normalize: the tokens' "
                "rewards are added up before anything is divided."
            )

    def _calculate_rewards(
        self,
        inputs: list[dict[str, object]],
        prompts: list[Text],
        completions: list[Text],
        completion_ids_list: list[list[int]],
    ) -> Tensor:
        """TRL's, kept for the advantages: rewards ``[N, functions]`` of all processes' completions."""
        self._rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, object]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = super()._generate_and_score_completions(inputs)
        training = self.model is not None and self.model.training
        group = self.num_generations if training else self.num_generations_eval
        weights = self.reward_weights.to(self._rewards.device)
        width, start = batch["completion_ids"].shape[1], self.accelerator.process_index * len(inputs)
        others = torch.ones_like(weights)
        others[[place for place, _ in self._token_functions]] = 0
        advantages = token_advantages(
            self._gathered_token_rewards(width, weights),
            (self._rewards * weights * others).nansum(dim=1),
            gather(self.accelerator.pad_across_processes(batch["completion_mask"], dim=1)).bool(),
            group or 1,
            self.scale_rewards,
        )
        batch["advantages"] = advantages[start : start + len(inputs), :width]
        return batch

    def _gathered_token_rewards(self, width: int, weights: Tensor) -> Tensor:
        """The weighted sum of the token rewards ``[N, T]`` of all processes' completions, zeros behind their
        ends."""
        rows = len(self._token_functions[0][1].latest)
        total = torch.zeros(rows, width)
        for place, function in self._token_functions:
            total += weights[place].item() * pad([*function.latest, torch.zeros(width)])[:rows]
        return gather(self.accelerator.pad_across_processes(total.to(self.accelerator.device), dim=1))


def token_advantages(rewards: Tensor, whole: Tensor, mask: Tensor, group: int, scale: str) -> Tensor:
    """Advantages ``[N, T]`` of the tokens of completions, ``group`` in a row of the same prompt.

    ``rewards`` ``[N, T]`` are the tokens', with zeros behind a completion's end; ``whole`` ``[N]`` is what
    other reward functions give whole completions; ``mask`` ``[N, T]`` is True at a completion's tokens. With
    ``G[i, t]`` the rewards from token ``t`` on, and a bar for the mean over the group,

        C[i, t] = (G[i, t] - G_bar[t]) + (whole[i] - whole_bar)
        A[i, t] = C[i, t] / (s + 1e-4)

    The first token has what TRL divides, its completion's rewards less the group's mean. Each later one has
    it less what the completion has already earned beside its group: what is past is no longer this token's
    merit. A completion that has ended has nothing to come.

    ``scale`` is TRL's ``scale_rewards``. ``group``: ``s`` is the deviation over the group's tokens
    (``redline.policy.baselines.group_deviation``), as in ``policy.baseline: group``; TRL's own deviation, of
    whole returns, is 0 where completions earn the same at different places. ``batch``: the same over the
    tokens of all ``N`` completions, less the mean of them all. ``none``: ``A`` is ``C``. Where the whole
    reward lies on the last token and all completions are equally long, every token has TRL's advantage.
    """
    count = len(rewards)
    to_go = rewards.flip(1).cumsum(1).flip(1) + whole[:, None]
    of_prompt = Groups(torch.arange(count, device=rewards.device) // group, count // group, group)
    centred = less_group_mean(to_go, of_prompt)
    if scale == "none":
        return centred
    if scale == "group":
        return centred / (group_deviation(centred, mask, of_prompt) + EPSILON)
    everything = Groups(torch.zeros_like(of_prompt.of_rows), 1, count)
    deviation = group_deviation(less_group_mean(to_go, everything), mask, everything)
    return centred / (deviation + EPSILON)
