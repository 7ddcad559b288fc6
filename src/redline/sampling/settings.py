"""How responses are sampled."""

from pydantic import Field

from redline.section import Section


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
