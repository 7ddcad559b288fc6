"""The sampler that a recipe names in ``policy.sampler``."""

import inspect
from collections.abc import Callable
from typing import Any

from redline.errors import UserError
from redline.functions import load_function
from redline.sampling.protocol import Sampler
from redline.sampling.settings import VllmServer


def open_sampler(named: str | VllmServer | None) -> Sampler:
    """The sampler in this process for None, a server's for a section, else the one that ``module:name`` or
    ``file.py:name`` makes: a class, or a function, called without arguments. Raises UserError for what is no
    sampler."""
    if named is None:
        from redline.sampling.local import InProcess

        return InProcess()
    if isinstance(named, VllmServer):
        from redline.sampling.vllm import Vllm

        return Vllm(named)
    return _users_own(named)


def _users_own(name: str) -> Sampler:
    make = load_function(name)
    if needed := _required_parameters(make):
        raise UserError(
            f"policy.sampler: `{name}` takes {', '.join(needed)}; it must take nothing and return an object "
            "with sync(policy) and sample(prompts, n, request). A function that samples, as older recipes "
            "name, becomes the method `sample` of a class (docs/policy.md)."
        )
    sampler = make()
    for method in ("sync", "sample"):
        if not callable(getattr(sampler, method, None)):
            raise UserError(
                f"policy.sampler: what `{name}` returns has no method {method}(); a sampler has "
                "sync(policy) and sample(prompts, n, request) (docs/policy.md)."
            )
    made: Sampler = sampler
    return made


def _required_parameters(make: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError:  # some callables written in C do not tell
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is inspect.Parameter.empty and parameter.kind not in variable
    ]
