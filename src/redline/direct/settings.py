"""The recipe's sections `sft` and `direct`. `direct` is one of several sections: each method has its own
keys."""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from redline.sampling.settings import Sampling
from redline.section import Section

if TYPE_CHECKING:
    from redline.direct.method import Method


class Sft(Section):
    """Supervised fine-tuning before everything else, with TRL's trainer. Its result becomes the run's
    model."""

    responses: Literal["edited", "chosen"] = "edited"
    """Which to imitate."""
    epochs: float = Field(3, gt=0)
    """Passes over the data."""
    batch_size: int = Field(32, ge=1)
    """Responses a step."""
    lora_rank: int = Field(16, ge=0)
    """Rank of LoRA adapters, merged at the end; 0: full fine-tuning."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate."""
    gradient_checkpointing: bool = False
    """As `adapt.gradient_checkpointing`."""


class _Method(Section):
    """What every method says of itself, so that nothing else has to list the methods."""

    summary: ClassVar[str] = ""
    """What it does, in a few words, for the report; empty: its name."""
    samples_prompts: ClassVar[bool] = False
    """Whether it samples answers to the training prompts."""
    keeps_copies: ClassVar[bool] = False
    """Whether it keeps frozen copies of the policy, which are adapters."""

    @property
    def ranks_by_reward(self) -> bool:
        """Whether it asks the run's reward which response is better."""
        return False


class _Trained(_Method):
    """What every method has that trains."""

    made_by: ClassVar[str]
    """Its class, as ``module:Class``: imported when it is needed, since it needs PyTorch."""
    epochs: float = Field(1, gt=0)
    """Passes over the data (of a method with rounds: of each round's)."""
    batch_size: int = Field(16, ge=1)
    """Edits, pairs or single responses a step."""

    def make(self, hidden: int) -> "Method":
        """The method that this section configures. ``hidden`` is the width of the model's states."""
        method: Method = resolve_name(self.made_by)(self, hidden)
        return method


class _OneRate(_Trained):
    """What a method has without rounds."""

    lr: float = Field(1e-3, gt=0)
    """Peak learning rate; it falls along a cosine."""

    @property
    def rates(self) -> list[float]:
        """The peak learning rate of each round."""
        return [self.lr]


class _Pairs(Section):
    """What every method has that compares two responses to a prompt."""

    pairs: Literal["edited", "chosen"] = "edited"
    """Which response is liked over the rejected one: the edited one, or the `chosen` one of the pair that the
    edit came from (the control without edits)."""
    beta: float = Field(0.1, gt=0)
    """How dear the distance from the anchor is."""
    keep: float = Field(0, ge=0)
    """Weight of the liked response's own likelihood (mean over its tokens), added to the loss. With minimal
    edits the other part can lower both sides; 0.1 keeps the liked one up."""


class DirectSft(_OneRate):
    """Imitate the edited responses."""

    method: Literal["sft"]
    summary = "imitating the edits (SFT)"
    made_by = "redline.direct.methods:SftMethod"
    epochs: float = Field(3, gt=0)
    """Passes over the edits."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate; it falls along a cosine."""


class DirectFiga(_OneRate):
    """Imitate what edits put in, penalise what they removed (Guo et al. 2023)."""

    method: Literal["figa"]
    summary = "imitating what edits put in (FIGA)"
    made_by = "redline.direct.methods:FigaMethod"
    epochs: float = Field(3, gt=0)
    """Passes over the edits."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate; it falls along a cosine."""
    penalty: float = Field(0.5, ge=0)
    """Weight of the removed tokens against that of the inserted ones."""


class DirectDpo(_Pairs, _OneRate):
    """Prefer the edited responses over the rejected ones (Rafailov et al. 2023)."""

    method: Literal["dpo"]
    summary = "preferring the edits (DPO)"
    made_by = "redline.direct.methods:DpoMethod"


class DirectBco(_OneRate):
    """Binary classifier optimisation (Jung et al. 2024): learn from likes and dislikes that need not be
    pairs."""

    method: Literal["bco"]
    summary = "telling liked from disliked responses (BCO)"
    made_by = "redline.direct.methods:BcoMethod"
    beta: float = Field(0.1, gt=0)
    """How dear the distance from the original is."""
    shift: Literal["classes", "pooled", "none"] = "classes"
    """The threshold between liked and disliked rewards. classes: the mean of the two classes' running means.
    pooled: the running mean of all rewards, as in the authors' code. none: 0."""
    decay: float | None = Field(None, gt=0, le=1)
    """How much of the running sums is left after a step. None: 0.9, or 1 with `shift: pooled`."""
    use_chosen: bool = False
    """Also like the `chosen` responses of edits that have one."""
    match: bool = False
    """Weigh disliked responses so that their prompts are distributed as the liked ones' (underlying
    distribution matching). For feedback whose likes and dislikes come from different prompts."""


class _SelfPlay(_Pairs, _Trained):
    """What methods have that sample from the policy, in rounds."""

    lr: float | list[float] = Field(1e-3)
    """Peak learning rate, or one for each round (the last one goes on)."""

    @property
    def rates(self) -> list[float]:
        """The peak learning rate of each round; the last one goes on."""
        return self.lr if isinstance(self.lr, list) else [self.lr]

    @model_validator(mode="after")
    def _rates_are_positive(self) -> "_SelfPlay":
        if not self.rates or min(self.rates) <= 0:
            raise ValueError("`lr` is a number above 0, or a list of such numbers, one for each round")
        return self


class DirectSpin(_SelfPlay):
    """Self-play fine-tuning (Chen et al. 2024): tell the edited responses from the policy's own, round after
    round. Start from an `sft` section."""

    method: Literal["spin"]
    summary = "preferring the edits to its own responses (SPIN)"
    made_by = "redline.direct.selfplay:SpinMethod"
    samples_prompts = True
    keeps_copies = True
    rounds: int = Field(2, ge=1)
    """Each samples anew and takes the policy as it then is for its anchor."""
    lr: float | list[float] = Field(default_factory=lambda: [5e-4, 3e-4])
    """Peak learning rate, or one for each round (the last one goes on)."""
    opening: int = Field(8, ge=1)
    """Words of the edited response that stand in for a prompt where an edit has none."""


class DirectSapo(_Pairs, _OneRate):
    """Self-augmented preference optimisation (2405.20830): at each step a slow average of the policy rewrites
    a segment of the edited responses. Start from an `sft` section."""

    method: Literal["sapo"]
    summary = "preferring the edits to rewritten ones (SAPO)"
    made_by = "redline.direct.selfplay:SapoMethod"
    samples_prompts = True
    keeps_copies = True
    epochs: float = Field(2, gt=0)
    """Passes over the edits."""
    lr: float = Field(5e-4, gt=0)
    """Peak learning rate; it falls along a cosine."""
    segment: int = Field(24, ge=1)
    """Most tokens that are rewritten. A response that is hardly longer is rewritten as a whole."""
    cut: Literal["anywhere", "change"] = "anywhere"
    """Where a segment begins: anywhere, or at one of the edit's changes (ours, not in the paper)."""
    average: float = Field(0.5, ge=0, le=1)
    """How much of the slow average stays at each step."""
    anchor_every: int | None = Field(None, ge=1)
    """Steps after which the slow average becomes the anchor. None: an epoch."""
    buffer: int = Field(256, ge=1)
    """Pairs that are kept to be drawn again."""
    sampling: Sampling = Field(default_factory=lambda: Sampling(temperature=0.7, top_k=50, top_p=0.95))
    """How segments are sampled; `max_new_tokens` is `segment`."""
    opening: int = Field(8, ge=1)
    """Words of the edited response that stand in for a prompt where an edit has none."""


class DirectSelm(_SelfPlay):
    """Self-exploring language models (Zhang et al. 2024): iterated DPO on pairs that a reward ranks, away
    from what the anchor would say anyway."""

    method: Literal["selm"]
    summary = "preferring what the reward ranks first (SELM)"
    made_by = "redline.direct.selfplay:SelmMethod"
    samples_prompts = True
    keeps_copies = True
    rounds: int = Field(2, ge=0)
    """Rounds after the first, which is plain DPO."""
    lr: float | list[float] = Field(default_factory=lambda: [1e-3, 5e-4])
    """Peak learning rate, or one for each round (the last one goes on)."""
    alpha: float = Field(1e-3, ge=0)
    """Weight of the bonus against what the anchor would say. 0 is the control that has to run beside it."""
    floor: float = Field(-20, lt=0)
    """A round ends when the anchor's answers have lost so many nats on average: the bonus has no floor of its
    own."""
    opening: int = Field(8, ge=1)
    """Most words of the common beginning of both sides that stand in for a prompt where an edit has none."""

    @property
    def ranks_by_reward(self) -> bool:
        return True


class DirectSpa(_SelfPlay):
    """Spread preference annotation (Kim et al. 2024): DPO on the edits, whose implicit reward then labels
    samples of many prompts."""

    method: Literal["spa"]
    summary = "preferring what its own preference ranks first (SPA)"
    made_by = "redline.direct.selfplay:SpaMethod"
    samples_prompts = True
    keeps_copies = True
    rounds: int = Field(2, ge=1)
    """Rounds after the first, which is plain DPO on the edits."""
    lr: float | list[float] = Field(default_factory=lambda: [7e-4, 1e-3])
    """Peak learning rate, or one for each round (the last one goes on)."""
    prompts: int = Field(160, ge=1)
    """Prompts a round, each with two samples."""
    seed: str | None = None
    """Folder of a policy (in an experiment `@ARM`) that takes the place of the first round."""
    seed_strength: float = Field(1.0, gt=0)
    """How far of the way from the original to that policy the training begins (ExPO's scale)."""
    alpha: float = Field(0.1, ge=0, lt=0.5)
    """How soft the labels are of the pairs that the policy is least sure of."""
    unsure: float = Field(0.1, ge=0, le=1)
    """Share of a round's pairs that count as those."""
    length: Literal["any", "within"] = "any"
    """within: only pairs whose lengths differ by at most a tenth."""


class DirectMrpo(_Pairs, _OneRate):
    """Multi-reference preference optimisation (Le et al. 2024): DPO against two references melted into
    one."""

    method: Literal["mrpo"]
    summary = "preferring the edits, with two references (MRPO)"
    made_by = "redline.direct.methods:MrpoMethod"
    extra: str
    """The second reference: a model's folder or name (in an experiment `@ARM`), with the same tokenizer."""
    clip: float = Field(0.1, ge=0)
    """How far its log-probabilities may lie from the original's, as a share."""
    adaptive: bool = True
    """Share `clip` out between the two sides by their log-probabilities, or give both the whole."""
    weights: Literal["stated", "released"] = "stated"
    """Which reference the weight favours: the one that holds the two sides further apart, as the method is
    described, or the other one, as in the released code."""


class DirectSpo(_Pairs, _OneRate):
    """Self-supervised preference optimisation (2409.17791), a reconstruction: beside DPO, tell how much of
    the edit has been undone."""

    method: Literal["spo"]
    summary = "preferring the edits, and telling how much is undone (SPO, reconstructed)"
    made_by = "redline.direct.methods:SpoMethod"
    degrees: Literal["hunks", "keywords"] = "hunks"
    """hunks: undo the edit's changes one after the other (ours). keywords: delete keywords of the edited
    response (the paper's; English)."""
    levels: int = Field(3, ge=1)
    """Steps from the whole response to the one without its key content."""
    weight: float = Field(0.1, ge=0)
    """Of that part of the loss."""
    head_lr: float = Field(10, gt=0)
    """Learning rate of the head that tells, in multiples of `lr`."""


class DirectExpo(_Method):
    """Model extrapolation (Zheng et al. 2024): no training, but further along the way that a finished policy
    went from its original."""

    method: Literal["expo"]
    summary = "going further the way that a policy went (ExPO)"
    samples_prompts = True
    policy: str
    """The finished policy's folder (in an experiment `@ARM`)."""
    strengths: list[float] = Field(
        default_factory=lambda: [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3], min_length=1
    )
    """0 is the original, 1 the policy, 1.5 half as far again. Several: the best one is searched."""
    prompts: int = Field(64, ge=2)
    """Prompts of the search."""
    kl_limit: float | None = Field(None, gt=0)
    """Most nats a response from the original. None: `policy.kl.target`."""

    @property
    def ranks_by_reward(self) -> bool:
        return len(self.strengths) > 1


class DirectBestOfN(_Method):
    """No training: of `n` samples of the model, the one that `policy.reward` likes best."""

    method: Literal["best_of_n"]
    summary = "the best of several responses, without training"
    n: int = Field(16, ge=2)
    """Responses sampled for each prompt."""

    @property
    def ranks_by_reward(self) -> bool:
        return True


Trained = (
    DirectSft
    | DirectFiga
    | DirectDpo
    | DirectBco
    | DirectSpin
    | DirectSapo
    | DirectSelm
    | DirectSpa
    | DirectMrpo
    | DirectSpo
)
"""The sections of methods that train. A new method's section is added here, and named nowhere else."""

Direct = Annotated[Trained | DirectExpo | DirectBestOfN, Field(discriminator="method")]
"""In place of PPO: a method without RL, or with only its reward. What a method trains, `policy.adapt`
says."""
