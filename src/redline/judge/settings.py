"""The recipe's section `compare`: a judge, and the comparison."""

from typing import Literal

from pydantic import Field

from redline.sampling.settings import Sampling
from redline.section import Section


class JudgedBy(Section):
    """A judge, and how it is asked where it is an LLM."""

    judge: str
    """vader, `length`, a Hugging Face reward model's name or folder, `module:function` or `file.py:function`,
    `human:FILE` of exported comparisons, or an LLM's name with base_url."""
    base_url: str | None = None
    """OpenAI-compatible endpoint of an LLM judge."""
    api_key_env: str | None = None
    """The environment variable with the endpoint's key. None: OPENAI_API_KEY; over plain http to another
    machine no key is sent unless this names one."""
    template: str | None = None
    """What an LLM judge is asked: a file with {prompt}, {a} and {b}. None: Redline's own question."""
    verdict: Literal["json", "token"] = "json"
    """How it answers: json, an object with a reason and A, B or tie; token, one letter, read from
    log-probabilities where the endpoint gives them."""
    concurrency: int = Field(8, ge=1)
    """Requests to it under way at once."""


class Compare(JudgedBy):
    """The comparison of the policy with the model it started from."""

    judge: str = "vader"
    """vader, `length`, a Hugging Face reward model's name or folder, `module:function` or `file.py:function`,
    `human:FILE` of exported comparisons, or an LLM's name with base_url."""
    limit: int | None = Field(None, ge=1)
    """Use at most so many prompts."""
    sampling: Sampling | None = None
    """Without it, that of the policy."""
