"""Whether a model can take a record: its prompt fits, its template renders it, something is left to learn.

Asked before anything is paid for, sampled or trained, of the tokenizer that later stages use.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from redline.data.chat_template import CannotRender
from redline.data.check import MAY_BE_EMPTY, TEXTS
from redline.data.records import Record, Text
from redline.data.tokenization import encode_prompt, load_tokenizer, response_turn
from redline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def fits_model(
    model: str | None, max_prompt_tokens: int | None = None
) -> Callable[[Record], str | None] | None:
    """``fits`` for the tokenizer of a model, by its name or folder; None where no model is named."""
    if model is None:
        if max_prompt_tokens is not None:
            raise UserError("--max-prompt-tokens counts a model's tokens: name it with --for-model.")
        return None
    return fits(load_tokenizer(model), max_prompt_tokens)


def fits(
    tokenizer: "PreTrainedTokenizerBase", max_prompt_tokens: int | None = None
) -> Callable[[Record], str | None]:
    """A check of records: why one cannot be used with this tokenizer, or None.

    A longer prompt than ``max_prompt_tokens`` does not fit. Raises UserError where prompts are messages and
    the tokenizer has no chat template: that is the model's fault and no record's.
    """

    def reason(record: Record) -> str | None:
        prompt: Text = getattr(record, "prompt", "")
        try:
            size = len(encode_prompt(tokenizer, prompt))
            if max_prompt_tokens is not None and size > max_prompt_tokens:
                return f"prompt longer than {max_prompt_tokens} tokens"
            for name in TEXTS[type(record)]:
                if name == "prompt" or (type(record), name) in MAY_BE_EMPTY:
                    continue
                turn = response_turn(tokenizer, prompt, getattr(record, name))
                if not turn.text[turn.start : turn.end].strip():
                    return f"{name} is empty after the chat template"
        except CannotRender as error:
            return str(error)
        return None

    return reason
