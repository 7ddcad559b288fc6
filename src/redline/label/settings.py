"""The recipe's section `label`."""

from typing import Literal

from pydantic import Field

from redline.section import Section


class Label(Section):
    """From an edit to token labels."""

    unit: Literal["token", "word"] = "token"
    """Align the tokenizer's own tokens, or words whose labels are carried to tokens by character offsets."""
    whole: Literal["character", "word"] = "character"
    """What a label covers as a whole or not at all: characters and numbers, or words."""
    fill: int = Field(0, ge=0)
    """A kept stretch of at most so many words between two changes counts as changed too."""
    invisible: Literal["keep", "normalise"] = "keep"
    """Differences that nobody sees (line ends, no-break spaces, zero-width characters, accents composed or
    not): label them and warn, or take them out of both sides first."""
