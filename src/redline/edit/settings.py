"""The recipe's section `edit`: an LLM that makes the edits."""

from typing import Literal

from pydantic import Field, model_validator

from redline.embedded import EMBEDDED
from redline.section import Section
from redline.types import JsonObject


class EditWith(Section):
    """An LLM that makes the edits, when the run starts from pairs."""

    model: str
    """Its name at the endpoint, or a local model's name."""
    base_url: str | None = None
    """An OpenAI-compatible endpoint; without it, the model runs in this process."""
    api_key_env: str | None = None
    """The environment variable with the endpoint's key. None: OPENAI_API_KEY; over plain http to another
    machine no key is sent unless this names one."""
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    """Given to the editor's chat template, for example `{enable_thinking: false}`; endpoints that know it
    (vLLM, SGLang) get it in the request. A model in this process that is the recipe's own has `model`'s."""
    template: str = "reasoned"
    """plain, reasoned, short, or the path of a template file. Not given, the embedded model has short, the
    only one that it can follow."""
    guideline: str = ""
    """What "better" means for this data: a text, or @FILE."""
    max_ratio: float = Field(0.5, gt=0, le=1)
    """Largest share of words an edit may change."""
    skip_gates: list[Literal["empty", "unchanged", "after", "remark", "format", "ratio"]] = Field(
        default_factory=list
    )
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
    """Longest answer. None: the endpoint's own limit; for a model in this process, what the response's length
    calls for."""
    verify: bool = False
    """Ask in both orders whether the edit is better than the original; it must win both times."""
    verify_model: str | None = None
    """Who is asked, at the same endpoint; None: the editor itself."""
    price_in: float = Field(0, ge=0)
    """Price of a million tokens asked, to count the cost."""
    price_out: float = Field(0, ge=0)
    """Price of a million tokens answered."""

    @model_validator(mode="after")
    def _template_for_the_embedded_model(self) -> "EditWith":
        if self.model == EMBEDDED and "template" not in self.model_fields_set:
            self.template = "short"
        return self
