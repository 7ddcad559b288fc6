"""The recipe's section `label`."""

from typing import Literal

from redline.section import Section


class Label(Section):
    """From an edit to token labels."""

    unit: Literal["token", "word"] = "token"
    """Align the tokenizer's own tokens, or words whose labels are carried to tokens by character offsets."""
