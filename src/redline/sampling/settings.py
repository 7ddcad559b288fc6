"""How responses are sampled, and where."""

from typing import Literal

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


class VllmServer(Section):
    """A running vLLM server that draws the responses (docs/scale.md has its command)."""

    kind: Literal["vllm"]
    """The kind of server."""
    url: str | list[str]
    """Its address, such as http://host:8000; several servers share each batch."""
    adapter_dir: str
    """A folder that this process and the server both see under this path: adapters are handed over there."""
    concurrency: int = Field(64, ge=1)
    """Responses asked for at once; the server batches them."""
    timeout: float = Field(600, gt=0)
    """Seconds that one response may take."""
    patience: float = Field(300, ge=0)
    """Seconds in which a server that does not answer is asked again (a restart, say) before the run stops."""
    api_key_env: str | None = None
    """The environment variable that holds the server's key, where it was started with one."""

    @property
    def urls(self) -> list[str]:
        """All addresses."""
        return [self.url] if isinstance(self.url, str) else self.url
