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

from typing import TYPE_CHECKING, Any, Literal

from redline.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Kind = Literal["token", "sequence"]


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
        auto: Any = AutoModelForTokenClassification
        known = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
    else:
        auto = AutoModelForSequenceClassification
        known = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    brought = getattr(config, "auto_map", None) or {}
    if type(config) in known or auto.__name__ in brought:
        return auto
    return _made(kind, config, name)


def is_made(model: Any) -> bool:
    """Whether a model's class was made here: plain Transformers loads its folder in other lines."""
    return type(model).__module__ == __name__


def _made(kind: str, config: "PretrainedConfig", name: str) -> Any:
    """The class that Transformers would have for a family: the generic head over the family's base model."""
    from transformers import MODEL_MAPPING, PreTrainedModel
    from transformers.modeling_layers import GenericForSequenceClassification, GenericForTokenClassification

    base: Any = MODEL_MAPPING.get(type(config), None)
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
    generic: Any = GenericForTokenClassification if kind == "token" else GenericForSequenceClassification
    title = base.__name__.removesuffix("Model") + generic.__name__.removeprefix("Generic")
    prefix = getattr(family, "base_model_prefix", "") or "model"
    made: Any = type(
        title,
        (generic, family),
        {"__module__": __name__, "base_model_prefix": prefix, "config_class": type(config)},
    )
    made.from_config = classmethod(lambda cls, config, **options: cls._from_config(config, **options))
    return made
