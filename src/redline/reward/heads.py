"""Classes of models with a head for rewards: Transformers' own, or the same made here for a family that has
none.

Transformers has a token classification class for a third of its decoders. Where it has none, the class that
it would have (``GenericForTokenClassification`` over the family's base model) is made here. Its folder is a
plain one: the base model under its usual prefix and one linear layer, ``score``. Plain Transformers loads it
so::

    base = AutoModel.from_pretrained(folder)
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        weight, bias = file.get_tensor("score.weight"), file.get_tensor("score.bias")
    hidden = base(**tokenizer(text, return_tensors="pt")).last_hidden_state
    logits = hidden @ weight.T + bias
"""

import copy
from typing import TYPE_CHECKING, Any

from redline.errors import UserError
from redline.types import AutoClass, Network

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig
    from transformers.utils import ModelOutput


def model_class(kind: str, config: "PretrainedConfig", name: str) -> Any:
    """What has ``from_pretrained`` and ``from_config`` for a reward model of a kind ("token", "sequence") on
    the backbone that ``config`` describes. Raises UserError for a backbone without a base model (``name`` is
    what the message calls it)."""
    from transformers import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    if kind == "token":
        auto: AutoClass = AutoModelForTokenClassification
        classes = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
    else:
        auto = AutoModelForSequenceClassification
        classes = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    own_classes = getattr(config, "auto_map", None) or {}  # the checkpoint's own code
    if type(config) in classes or auto.__name__ in own_classes:
        return auto
    return _class_for(kind, config, name)


def is_made(model: Network) -> bool:
    """Whether a model's class was made here: plain Transformers loads its folder in other lines."""
    return type(model).__module__ == __name__


def _class_for(kind: str, config: "PretrainedConfig", name: str) -> Any:
    """The class that Transformers would have for a family: the generic head over the family's base model."""
    from transformers import MODEL_MAPPING, PreTrainedModel
    from transformers.modeling_layers import GenericForSequenceClassification, GenericForTokenClassification

    base: Network = MODEL_MAPPING.get(type(config), None)
    if isinstance(base, tuple | list):
        base = base[0]
    if base is None:
        raise UserError(
            f"{name}: {type(config).__name__} has no base model in Transformers to put a reward head on. "
            "Choose another backbone (reward.model)."
        )
    family = next(
        parent
        for parent in base.__mro__[1:]
        if issubclass(parent, PreTrainedModel) and parent.__name__.endswith("PreTrainedModel")
    )
    generic: Any = GenericForSequenceClassification
    if kind == "token":
        generic = GenericForTokenClassification
    title = base.__name__.removesuffix("Model") + generic.__name__.removeprefix("Generic")
    prefix = _prefix(config, base) or family.base_model_prefix or "model"
    members = {"__module__": __name__, "base_model_prefix": prefix, "config_class": type(config)}
    head_class: Any = type(title, (_Plain, generic, family), members)
    head_class.from_config = classmethod(lambda cls, config, **options: cls._from_config(config, **options))
    return head_class


class _Plain:
    """A forward pass that asks nothing of the backbone but its last hidden states."""

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: the weights have the family's names, so Transformers renames them as it does the family's
        own (it leaves those of classes from elsewhere as they are)."""
        return False

    def forward(self: Any, input_ids: "Tensor", attention_mask: "Tensor | None" = None) -> "ModelOutput":
        """Logits ``[B, T, C]`` of a token model; of a sequence model ``[B, C]``, at each row's last token."""
        import torch
        from transformers.modeling_outputs import TokenClassifierOutput

        inputs = {"input_ids": input_ids}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        logits = self.score(self.base_model(**inputs).last_hidden_state)
        if "Sequence" in type(self).__name__:
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            rows = torch.arange(len(logits), device=logits.device)
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            last = (attention_mask * places).argmax(1)
            logits = logits[rows, last]
        return TokenClassifierOutput(logits=logits)


def _prefix(config: "PretrainedConfig", base: type) -> str | None:
    """What the family's causal model calls its backbone: checkpoints name their weights by it."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if causal is None:
        return None
    with torch.device("meta"):
        skeleton = causal._from_config(copy.deepcopy(config))  # which Transformers writes into
    return next((name for name, child in skeleton.named_children() if type(child) is base), None)
