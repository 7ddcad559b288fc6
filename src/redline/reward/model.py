"""The reward model: a Transformers token- (or sequence-) classification model, trained above a cut, saved in
standard format."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from redline.data.files import read_json
from redline.data.records import Text
from redline.data.tokenization import load_tokenizer
from redline.embedded import quietly
from redline.engine.adapt import adapt, depth_of, train_layers
from redline.engine.batching import pack, pad
from redline.engine.models import (
    check_one_part,
    for_training,
    is_quantised,
    load_config,
    load_model,
    tokenizer_of,
)
from redline.engine.saving import save
from redline.engine.settings import ADAPTER, Model
from redline.engine.switch import plain
from redline.engine.trunk import Trunk
from redline.engine.views import Split, layers_of
from redline.errors import UserError
from redline.reward.heads import model_class
from redline.reward.losses import token_rewards
from redline.reward.settings import Reward
from redline.reward.trials import ignores_padding, is_causal, takes_padding, tried
from redline.types import AutoClass, Config, Network

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABELS = {
    "soft": ["negative", "positive"],
    "hard": ["negative", "neutral", "positive"],
    "pairwise": ["reward"],
}


class RewardModel(nn.Module):
    """Scores the tokens of responses, or whole responses.

    ``model`` is the Transformers model (possibly with PEFT adapters in it), ``kind`` "token" or "sequence". A
    causal backbone is cut at layer ``cut`` (see ``redline.engine.views``); a bidirectional one always runs
    whole, with an attention mask.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        kind: str,
        cut: int = 0,
        recompute: bool = False,
    ):
        super().__init__()
        self.model, self.tokenizer, self.kind = model, tokenizer, kind
        self.shares = False  # whether its lower states are another model's too (see load_reward_model)
        self.causal = tried(model, is_causal)
        keeps_rows_apart = takes_padding if self.causal else ignores_padding
        if not tried(model, keeps_rows_apart):
            raise UserError(
                f"{type(model).__name__} reads the tokens of a row otherwise where others or padding follow: "
                "choose another backbone for the reward model."
            )
        self.split = Split(model, cut if self.causal else 0, recompute and self.causal)
        heads = [child for child in model.children() if isinstance(child, nn.Linear)]
        if not heads:
            raise UserError(
                f"{type(model).__name__} has no plain linear head: choose another backbone for the reward "
                "model."
            )
        self.head = heads[-1]
        self.on_top = [
            child
            for child in model.children()
            if child is not model.base_model and next(child.parameters(), None) is not None
        ]
        for child in self.on_top:  # the head, and what a few families have before it; trained in float32
            child.register_forward_pre_hook(
                lambda layer, inputs: (inputs[0].to(next(layer.parameters()).dtype), *inputs[1:])
            )
        if self.causal and not tried(model, lambda _: self._is_linear()):
            raise UserError(
                f"{type(model).__name__} does more to its last states than a linear head: choose another "
                "backbone for the reward model."
            )

    @torch.no_grad()
    def _is_linear(self) -> bool:
        """Whether the head on the last hidden states gives the model's own logits."""
        ids = torch.tensor(
            [token for token in range(5, 12) if token != self.model.config.pad_token_id],
            device=next(self.model.parameters()).device,
        )[None]
        own = self.head(self.model.base_model(input_ids=ids).last_hidden_state[0]).float()
        logits = self.model(input_ids=ids).logits[0].float()
        return torch.allclose(
            own if self.kind == "token" else own[-1], logits, rtol=5e-2, atol=5e-2, equal_nan=True
        )

    @property
    def padding(self) -> int:
        """What token ids are padded with: a model that runs whole may look for it."""
        return int(self.model.config.pad_token_id or 0)

    def lower(self, ids: Tensor, forks: Tensor | None = None) -> Tensor:
        """Token ids ``[B, T]``, padded on the right -> the states that ``forward`` takes (computed without
        gradients)."""
        return self.split.lower(ids, forks)

    def forward(
        self, states: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor, forks: Tensor | None = None
    ) -> Tensor:
        """Logits ``[N, C]`` at the positions ``(rows[n], columns[n])`` of sequences of ``lengths`` ``[B]``
        tokens.

        A token's score is read at the token itself, so it has seen the prompt and the response up to and
        including it. For a sequence model the positions are the responses' last tokens. Rows of a causal
        model may fork (``redline.engine.views.forked``).
        """
        if self.causal:
            hidden = self.split.upper(states, forks)[rows, columns]
            return self.head(hidden).float()
        mask = (torch.arange(states.shape[1], device=states.device) < lengths[:, None]).long()
        logits = self.model(input_ids=states, attention_mask=mask).logits
        return (logits[rows, columns] if self.kind == "token" else logits[rows]).float()

    @torch.no_grad()
    def rewards(
        self,
        sequences: list[Tensor],
        prompt_sizes: list[int],
        states: list[Tensor] | None = None,
        budget: int = 8192,
    ) -> list[Tensor]:
        """The reward of every response token, ``[R_i]`` for each sequence ``[P_i + R_i]`` of token ids.

        For a sequence model, its score on the last token and zeros before; of an empty response ``[1]``, the
        score of its prompt, since scores have no meaning but against each other. From a token model an empty
        response has no rewards. ``states`` are the sequences' lower states, where they are known already.
        """
        device = next(self.model.parameters()).device
        sizes = [len(sequence) - prompt for sequence, prompt in zip(sequences, prompt_sizes, strict=True)]
        whole = self.kind == "sequence"
        found = [torch.zeros(max(size, 1) if whole else size) for size in sizes]
        filled = [index for index, size in enumerate(sizes) if size or whole]
        for group in pack([len(sequences[index]) for index in filled], budget):
            members = [filled[index] for index in group]
            inputs = (
                pad([states[index] for index in members])
                if states is not None
                else pad([sequences[index] for index in members], self.padding)
            ).to(device)
            inputs = inputs if states is not None else self.lower(inputs)
            rows, columns = positions(
                [prompt_sizes[index] for index in members], [sizes[index] for index in members], self.kind
            )
            lengths = torch.tensor([len(sequences[index]) for index in members])
            logits = self(inputs, lengths.to(device), rows.to(device), columns.to(device)).cpu()
            for place, index in enumerate(members):
                mine = logits[rows == place]
                found[index][-1 if whole else slice(None)] = mine[0, 0] if whole else token_rewards(mine)
        return found

    def score(
        self, prompts: list[Text], responses: list[Text]
    ) -> list[tuple[str, list[tuple[int, int]], Tensor]]:
        """The text of each response, its tokens' character offsets, and their rewards ``[R_i]``.

        A sequence model's score of an empty response is at ``(0, 0)``.
        """
        from redline.data.tokenization import encode_prompt, encode_response

        encoded = [
            encode_response(self.tokenizer, prompt, response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        heads = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        sequences = [torch.tensor(head + list(ids)) for head, (_, ids, _) in zip(heads, encoded, strict=True)]
        rewards = self.rewards(sequences, [len(head) for head in heads])
        return [
            (text, offsets or [(0, 0)] * len(reward), reward)
            for (text, _, offsets), reward in zip(encoded, rewards, strict=True)
        ]


def positions(prompt_sizes: list[int], sizes: list[int], kind: str = "token") -> tuple[Tensor, Tensor]:
    """Rows and columns ``[N]`` of all response tokens (or, for sequence models, of the last one of each) in a
    padded batch."""
    spans = [
        range(prompt + size - 1 if kind == "sequence" else prompt, prompt + size)
        for prompt, size in zip(prompt_sizes, sizes, strict=True)
    ]
    rows = torch.tensor([row for row, span in enumerate(spans) for _ in span], dtype=torch.long)
    return rows, torch.tensor([column for span in spans for column in span], dtype=torch.long)


def new_reward_model(recipe: Reward, backbone: Model) -> tuple[RewardModel, Any]:
    """An untrained reward model on ``backbone``, and the PEFT wrapper around its model (None for full
    fine-tuning).

    The head starts at zero: every reward is 0 before training. Raises UserError when ``depth`` exceeds the
    backbone.
    """
    tokenizer = tokenizer_of(backbone)
    auto, config = reward_config(recipe, backbone)
    config.pad_token_id = _padding(tokenizer, config)
    model = load_model(auto, for_training(backbone, recipe.adapt.lora_rank), config, new_head=True)
    fingerprint = fingerprint_of(model.base_model)
    depth = depth_of(model)
    trained = train_layers(recipe.adapt, depth)
    wrapped = adapt(model, recipe.adapt, depth)
    reward = RewardModel(model, tokenizer, recipe.kind, depth - trained, recipe.adapt.gradient_checkpointing)
    for child in reward.on_top:
        child.float().requires_grad_(True)
    nn.init.zeros_(reward.head.weight)
    if reward.head.bias is not None:
        nn.init.zeros_(reward.head.bias)
    model.config.redline = {"kind": recipe.kind, "cut": depth - trained, "backbone": fingerprint}
    return reward, wrapped if recipe.adapt.lora_rank else None


def _padding(tokenizer: "PreTrainedTokenizerBase", config: Config) -> int | None:
    """The id that rows are padded with: the tokenizer's, unless the embedding has no such row (a padding
    token was added to the tokenizer alone)."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None and token < config.vocab_size:
            return int(token)
    return None


def reward_config(recipe: Reward, backbone: Model) -> tuple[Any, Any]:
    """The class (or Auto class) and the configuration of a reward model on ``backbone``: its first ``depth``
    layers, and its classes.

    Raises UserError when ``depth`` exceeds the backbone.
    """
    config = load_config(backbone)
    check_one_part(backbone.name, config)
    if recipe.depth is not None and recipe.depth > config.num_hidden_layers:
        raise UserError(
            f"reward.depth is {recipe.depth}, but {backbone.name} has {config.num_hidden_layers} layers."
        )
    if recipe.depth is not None and recipe.depth < config.num_hidden_layers:
        _keep_layers(config, recipe.depth)
    names = LABELS[recipe.loss] if recipe.kind == "token" else ["reward"]
    config.id2label, config.label2id = (
        dict(enumerate(names)),
        {name: index for index, name in enumerate(names)},
    )
    return model_class(recipe.kind, config, backbone.name), config


def _keep_layers(config: Config, depth: int) -> None:
    """Cut a configuration to its first ``depth`` layers, with all that it says layer by layer."""
    before = config.num_hidden_layers
    by_layer = [
        name
        for name, value in config.to_dict().items()
        if isinstance(value, list) and len(value) == before and name in vars(config)
    ]
    config.num_hidden_layers = depth
    for name in by_layer:
        setattr(config, name, getattr(config, name)[:depth])


def save_reward_model(reward: RewardModel, wrapped: Network, folder: Path, base: str) -> None:
    """Write the standard folder (config, merged weights, tokenizer) and, with LoRA, the adapter beside it.

    Merges the adapters into the model: it cannot be trained further afterwards.
    """
    reward.head.to(reward.model.dtype)
    save(reward.model, wrapped, reward.tokenizer, folder, base)


def load_reward_model(
    name: str, share: "PreTrainedModel | None" = None, trunk: Trunk | None = None
) -> RewardModel:
    """A reward model from its folder or Hugging Face name.

    With ``share``, a causal model whose backbone is the one that the reward model was trained on with LoRA,
    the frozen weights are shared with it instead of being loaded again. The reward model then begins within
    that model's ``trunk``, which keeps the states for it, and ``shares`` is True.
    """
    tokenizer, config = load_tokenizer(name), load_config(Model(name=name))
    kind = "token" if "TokenClassification" in (config.architectures or [""])[0] else "sequence"
    names = [config.id2label[index] for index in range(config.num_labels)]
    if kind == "token" and names not in LABELS.values():
        raise UserError(
            f"{name}: its classes are {', '.join(names)}; a token reward model has negative, (neutral,) "
            "positive, or one class."
        )
    if kind == "sequence" and len(names) != 1:
        raise UserError(f"{name}: it has {len(names)} classes; a sequence reward model has one.")
    auto = model_class(kind, config, name)
    ours = getattr(config, "redline", None) or {}
    if share is not None and (plain() or is_quantised(share)):  # 4-bit layers hold no plain weights
        share = None
    if (
        share is not None
        and (Path(name) / ADAPTER).is_dir()
        and ours.get("backbone") == fingerprint_of(share.base_model, config)
    ):
        model = _onto(share, auto, config, Path(name))
        trunk = Trunk() if trunk is None else trunk
        reward = RewardModel(model, tokenizer, kind, min(ours["cut"], trunk.depth))
        reward.shares = True
        trunk.keep(reward.split.cut)
    else:
        saved = Model(name=name, dtype="float32" if config.dtype == torch.float32 else "auto")
        reward = RewardModel(load_model(auto, saved, config), tokenizer, kind, ours.get("cut", 0))
    return reward.requires_grad_(False).eval()


def _onto(share: "PreTrainedModel", auto: AutoClass, config: Config, folder: Path) -> "PreTrainedModel":
    """The reward model with the weights of ``share``: its frozen tensors themselves, copies of those that are
    being trained."""
    from peft import PeftConfig, PeftModel

    from redline.engine.adapters import fused, put_weights

    with torch.device("meta"):
        model = auto.from_config(config, dtype=share.dtype)
    own = frozen_weights(share.base_model)
    for path, _ in list(model.base_model.named_parameters(remove_duplicate=False)):
        tensor = own[path]
        shared = (
            nn.Parameter(tensor.detach().clone(), requires_grad=False) if tensor.requires_grad else tensor
        )
        _set(model.base_model, path, shared, "_parameters")
    for path, buffer in share.base_model.named_buffers():
        if path in dict(model.base_model.named_buffers()):
            _set(model.base_model, path, buffer, "_buffers")
    heads = [path for path, parameter in model.named_parameters() if parameter.is_meta]
    for path, head in read_tensors(folder, heads):
        _set(model, path, nn.Parameter(head.to(share.device), requires_grad=False), "_parameters")
    config = fused(PeftConfig.from_pretrained(str(folder / ADAPTER)))
    with quietly():
        # puts the adapters into the model
        PeftModel.from_pretrained(model, str(folder / ADAPTER), config=config, torch_device=str(share.device))
    put_weights(model, folder / ADAPTER)
    return model.eval()


def read_tensors(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Some weights of a saved model by name, which may lie in one file or in several."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    places = read_json(index)["weight_map"] if index.exists() else {}
    for name in names:
        with safe_open(str(folder / places.get(name, "model.safetensors")), "pt") as file:
            yield name, file.get_tensor(name)


def frozen_weights(base: nn.Module) -> dict[str, nn.Parameter]:
    """A backbone's own weights, without adapters, by the names that they had before PEFT wrapped modules."""
    return {
        path.replace("base_layer.", ""): tensor
        for path, tensor in base.named_parameters(remove_duplicate=False)  # layers may share weights
        if "lora_" not in path
    }


def _set(module: nn.Module, path: str, tensor: Tensor, kind: str) -> None:
    parent, _, leaf = path.rpartition(".")
    getattr(module.get_submodule(parent), kind)[leaf] = tensor


def fingerprint_of(base: nn.Module, config: Config = None) -> str:
    """A short hash of a backbone's weights (some values of each tensor), of only its first layers when
    ``config`` has fewer."""
    known: Any = config or base.config
    depth = known.num_hidden_layers
    try:
        name, layers = layers_of(base)
        beyond = tuple(f"{name}.{index}." for index in range(depth, len(layers)))
    except LookupError:
        beyond = ()
    digest = hashlib.sha256()
    for path, tensor in sorted(frozen_weights(base).items()):
        if not path.startswith(beyond or ("\0",)):
            flat = tensor.detach().flatten()
            digest.update(f"{path} {tuple(tensor.shape)} ".encode())
            digest.update(flat[:: max(flat.numel() // 64, 1)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
