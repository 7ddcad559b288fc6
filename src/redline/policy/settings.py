"""The recipe's sections `policy` and `watch`."""

from typing import Literal

from pydantic import Field, model_validator

from redline.engine.settings import Adapt, Optimizer
from redline.reward.settings import RewardTerm
from redline.sampling.settings import Sampling, VllmServer
from redline.section import Section


class Kl(Section):
    """The penalty that holds the policy near its reference."""

    target: float | None = Field(6.0, gt=0)
    """KL(policy, reference) in nats a response that the controller aims at; None: a fixed coefficient."""
    coefficient: float = Field(0.25, ge=0)
    """At the target (or always, without one), on rewards scaled to a return of standard deviation 1; the
    controller corrects it."""
    horizon: int = Field(256, ge=1)
    """Responses in which the controller corrects an error of its whole size (Ziegler et al. 2019); smaller
    answers faster."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """Of each token's KL, as it is logged and steers the controller: the log ratio, half its square, or
    Schulman's k3. The penalty is always k1, the only one whose gradient as a reward is the KL's."""
    stop: float | None = Field(100.0, gt=0)
    """A policy further than this from its reference (nats a response) stops the run: its text is noise by
    then. None: never."""
    per_batch: float | None = Field(None, gt=0)
    """How far the policy may move on one batch (nats a token, from the policy that sampled it) before its
    remaining minibatches are left out. None: never."""


CRITICS = ("critic", "gae_lambda", "value_lambda", "value_clip", "value_coefficient")
"""Settings of `policy` that are the critic's."""


class Policy(Section):
    """Fine-grained PPO: R_t = reward(token t) - beta * KL_t."""

    reward: list[RewardTerm] = Field(default_factory=lambda: [RewardTerm()], min_length=1)
    """Terms, added up."""
    reward_scale: float | None = None
    """Rewards are multiplied by this; None: measured once on samples of the reference so that a response's
    return has standard deviation 1."""
    length_normalise: bool = False
    """Divide each response's rewards by its number of tokens, times the mean length under the reference."""
    eos_reward: float = 0.0
    """Added at the end-of-text token (in units of the scaled reward): nothing else rewards stopping."""
    no_eos_penalty: float = 1.0
    """Subtracted at the last token of a response cut at `max_new_tokens`, in the same units. Set it to 0
    where responses are cut on purpose, as continuations are: a policy would learn to end early."""
    adapt: Adapt = Field(default_factory=Adapt)
    """What is trained."""
    optimizer: Optimizer = Field(default_factory=Optimizer)
    """How; `head_lr` is the critic's."""
    kl: Kl = Field(default_factory=Kl)
    """The KL penalty."""
    start: str | None = None
    """Folder of a policy (in an experiment `@ARM`) whose weights training begins from. KL is measured from
    the recipe's model all the same. None: from the model itself."""
    sampling: Sampling = Field(default_factory=Sampling)
    """The rollout."""
    sampler: str | VllmServer | None = None
    """Who draws the responses. None: this process. `{kind: vllm, url: ..., adapter_dir: ...}`: a running vLLM
    server (docs/scale.md). `module:name` or `file.py:name`: a class (or a function that returns an object) of
    yours, with `sync(policy)` and `sample(prompts, n, request)`."""
    ahead: Literal[0, 1] = 0
    """1: the server draws the next batch while this one is learned from, so that its responses are one update
    old. Needs a sampler outside of this process, and should go with `importance_cap`."""
    importance_cap: float | None = Field(None, gt=0)
    """Weight each token's advantage by the trainer's probability over the sampler's, at most this: a
    correction for a sampler that rounds otherwise or is an update behind (truncated importance sampling). 2
    is usual. None: no weights."""
    max_drift: float | None = Field(0.3, gt=0)
    """The sampler's log-probabilities may be so far from the policy's (mean, in nats a token) before the run
    stops: beyond that it draws from another distribution. None: never stop."""
    updates: int = Field(40, ge=1)
    """PPO updates: each samples `batch_size` responses and learns from them `epochs` times."""
    batch_size: int = Field(32, ge=1)
    """Responses an update, over all processes."""
    samples: int = Field(1, ge=1)
    """Responses to each prompt of an update: a batch has `batch_size / samples` prompts."""
    minibatch_size: int = Field(16, ge=1)
    """Responses an optimizer step."""
    microbatch_tokens: int = Field(4096, ge=1)
    """Tokens (prompt and response) computed at once; gradients add up to the minibatch exactly."""
    epochs: int = Field(2, ge=1)
    """Passes over each batch."""
    clip: float = Field(0.2, gt=0)
    """Clip range of the probability ratio."""
    clip_high: float | None = Field(None, gt=0)
    """Clip range above 1, where it is another than below: larger lets unlikely tokens gain more (DAPO, Yu et
    al. 2025; 0.28 there). None: `clip`."""
    loss_mean: Literal["token", "sequence", "constant"] = "token"
    """The policy loss of a minibatch. token: the mean over its tokens. sequence: the mean over its responses,
    of the mean over each one's tokens (GRPO). constant: the sum over its tokens, divided by its responses
    times `sampling.max_new_tokens` (Dr. GRPO, Liu et al. 2025)."""
    value_clip: float = Field(0.2, gt=0)
    """Clip range of the value's change."""
    value_coefficient: float = Field(0.1, ge=0)
    """Weight of the value loss."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount."""
    baseline: Literal["critic", "group", "batch"] = "critic"
    """What a token's rewards to go are compared with. critic: values that are learned beside the policy.
    group: the other responses to its prompt (needs `samples`). batch: the other responses of the batch. The
    latter two train no critic."""
    credit: Literal["token", "response"] = "token"
    """Without a critic. token: a token has its rewards to go, less those of the others at its place.
    response: all tokens have the response's whole return, less the others' (RLOO)."""
    standardise: Literal["batch", "group", "none"] = "batch"
    """Of advantages. batch: to mean 0 and deviation 1 over the batch's tokens. group: divided by their
    deviation in each group (GRPO), with `baseline: group`. none: as they are."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """GAE's lambda."""
    value_lambda: float | None = Field(None, ge=0, le=1)
    """Lambda of the returns that the critic learns; None: `gae_lambda`. 1 gives it unbiased targets (VC-PPO,
    Yuan et al. 2025)."""
    critic: Literal["shared", "own"] = "shared"
    """shared: a head on the policy's last states, so that one pass gives both. own: the critic has adapters
    (or, with full fine-tuning, weights) of its own over the same frozen model: the value loss leaves the
    policy alone, at twice the passes."""
    checkpoint_every: int = Field(5, ge=1)
    """Updates between checkpoints."""
    sample_every: int = Field(10, ge=1)
    """Updates between sampled responses written to samples.jsonl."""
    show_samples: int = Field(0, ge=0)
    """So many of them are also shown on the console and sent to the `trackers`. 0: none."""

    @model_validator(mode="after")
    def _samples_fill_the_batch(self) -> "Policy":
        if self.batch_size % self.samples:
            raise ValueError(
                f"`policy.batch_size` ({self.batch_size} responses) does not divide by `policy.samples` "
                f"({self.samples} a prompt). Set it to a multiple"
            )
        return self

    @model_validator(mode="after")
    def _baseline_has_what_it_compares(self) -> "Policy":
        if self.baseline == "group" and self.samples < 2:
            raise ValueError(
                "`policy.baseline: group` compares the responses to a prompt: set `policy.samples` to 2 or "
                "more, or the baseline to batch"
            )
        if self.baseline == "batch" and self.batch_size < 2:
            raise ValueError(
                "`policy.baseline: batch` compares the responses of a batch: set `policy.batch_size` to 2 "
                "or more"
            )
        if self.baseline != "group" and self.standardise == "group":
            raise ValueError(
                f"`policy.standardise: group` needs `policy.baseline: group`, which is {self.baseline}"
            )
        return self

    @model_validator(mode="after")
    def _settings_are_the_baselines(self) -> "Policy":
        if self.baseline == "critic":
            if self.credit != "token":
                raise ValueError(
                    f"`policy.credit: {self.credit}` needs `policy.baseline: group` or `batch`: a critic "
                    "gives each token its own"
                )
            return self
        for name in CRITICS:
            if getattr(self, name) != Policy.model_fields[name].default:
                raise ValueError(
                    f"`policy.{name}` is the critic's, and `policy.baseline: {self.baseline}` trains none. "
                    "Leave it out"
                )
        return self


class Watch(Section):
    """Watching the policy while it learns: a judge's gold score on held-out prompts, beside the reward that
    PPO climbs."""

    judge: str | None = None
    """As `compare.judge`. None: compare's judge, unless an endpoint answers for it or people do: what costs
    is watched only when it is named here."""
    base_url: str | None = None
    """Endpoint of an LLM judge named here. None: `compare.base_url`, where compare has the same judge; its
    template and verdict are compare's too, then."""
    api_key_env: str | None = None
    """As `compare.api_key_env`, for that endpoint."""
    every: int = Field(10, ge=0)
    """Updates between two measurements; the last update is always measured. 0: never watch."""
    prompts: int = Field(64, ge=2)
    """At most so many of the comparison's prompts, the first ones."""
