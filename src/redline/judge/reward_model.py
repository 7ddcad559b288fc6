"""A reward model as the judge: one score for a response, from a sequence model, or the sum over the tokens of
a token model."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from redline.data.records import Text, as_text
from redline.engine.settings import Model
from redline.errors import UserError
from redline.judge.protocol import ScoreJudge

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Scorer = Callable[[Sequence[Text], Sequence[Text]], list[float]]


def reward_model_judge(name: str) -> ScoreJudge:
    """A judge that scores with the reward model in a folder or on the Hub.

    Redline's own models and any token-classification model score a response by the sum of its tokens'
    rewards; any other sequence-classification model with one label by its logit. Raises UserError for what is
    neither.
    """
    from transformers import AutoConfig

    from redline.embedded import resolve

    folder = resolve(name)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"judge {name}: neither a built-in judge (vader, length, human:FILE, module:function, an LLM "
            f"with --base-url) nor a reward model that can be loaded ({' '.join(str(error).split())[:200]})."
        ) from error
    kinds = " ".join(config.architectures or [])
    ours = "TokenClassification" in kinds or getattr(config, "redline", None) is not None
    if not ours and not ("SequenceClassification" in kinds and config.num_labels == 1):
        raise UserError(
            f"judge {name}: not a reward model ({kinds or 'no architecture named'}, {config.num_labels} "
            "labels). It takes sequence classification with one label, or token classification."
        )
    version: object = getattr(config, "_commit_hash", None)
    if Path(folder).is_dir():  # a model that was trained again into the same folder is another judge
        weights = sorted(Path(folder).glob("*.safetensors"))
        version = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in weights]
    score = _by_length(_own_scores(name) if ours else _sequence_scores(name))
    return ScoreJudge(name, score, {"kind": kinds, "version": version}, batch_size=64)


def _by_length(score: "Scorer", batch_size: int = 16) -> "Scorer":
    """The same scores, computed in batches of texts of about one length."""

    def scores(prompts: Sequence[Text], responses: Sequence[Text]) -> list[float]:
        order = sorted(
            range(len(responses)), key=lambda row: len(as_text(prompts[row])) + len(as_text(responses[row]))
        )
        found = [0.0] * len(responses)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            values = score([prompts[row] for row in rows], [responses[row] for row in rows])
            for row, value in zip(rows, values, strict=True):
                found[row] = value
        return found

    return scores


def _own_scores(name: str) -> "Scorer":
    from redline.reward.model import load_reward_model

    reward = load_reward_model(name)
    return lambda prompts, responses: [
        float(rewards.sum()) for _, _, rewards in reward.score(list(prompts), list(responses))
    ]


def _sequence_scores(name: str) -> "Scorer":
    import torch
    from transformers import AutoModelForSequenceClassification

    from redline.data.tokenization import load_tokenizer
    from redline.engine.batching import pad
    from redline.engine.models import load_model

    tokenizer: PreTrainedTokenizerBase = load_tokenizer(name)
    model: PreTrainedModel = load_model(AutoModelForSequenceClassification, Model(name=name))
    config = model.config.get_text_config()
    if config.pad_token_id is None:  # the model finds a row's last token by it
        config.pad_token_id = (
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        )
    limit = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or 1_000_000)
    two_texts = (
        "token_type_ids" in inspect.signature(model.forward).parameters
    )  # BERT's kind: tells a pair's texts apart

    def score(prompts: Sequence[Text], responses: Sequence[Text]) -> list[float]:
        encoded = [encode_pair(tokenizer, *pair, limit) for pair in zip(prompts, responses, strict=True)]
        rows = [torch.tensor(ids) for ids, _ in encoded]
        ids = pad(rows, config.pad_token_id)
        told = (
            {"token_type_ids": pad([torch.tensor(types) for _, types in encoded], 0).to(model.device)}
            if two_texts
            else {}
        )
        mask = (torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])).long()
        with torch.inference_mode():
            logits = model(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **told
            ).logits
        return [float(value) for value in logits[:, 0].float().cpu()]

    return score


def encode_pair(
    tokenizer: "PreTrainedTokenizerBase", prompt: Text, response: Text, limit: int = 1_000_000
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and its response for a sequence reward model, at most ``limit``, and which text
    each belongs to.

    Conversations go through the chat template; plain texts are a text pair for tokenizers with a separator
    (BERT's kind), and joined as they are for the others. A pair that is too long loses the end of its longer
    text, but no separator; anything else its beginning.
    """
    if not isinstance(prompt, str) and tokenizer.chat_template:
        turn = [{"role": "assistant", "content": response}] if isinstance(response, str) else response
        ids = list(tokenizer.apply_chat_template([*prompt, *turn], tokenize=True, return_dict=False))
    elif tokenizer.sep_token_id is not None:
        pair = tokenizer(as_text(prompt), as_text(response), truncation=True, max_length=limit)
        return list(pair["input_ids"]), list(pair.get("token_type_ids") or [0] * len(pair["input_ids"]))
    else:
        ids = list(tokenizer(as_text(prompt) + as_text(response))["input_ids"])
    return ids[-limit:], [0] * len(ids[-limit:])
