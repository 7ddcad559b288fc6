"""Whether a name on the Hugging Face Hub leads somewhere, asked once and answered within seconds.

``from_pretrained`` and ``load_dataset`` try again for up to a minute where there is no network, and say of a
misspelt name that it may be private. So the question is put here first.
"""

import difflib
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from redline.console import warn
from redline.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["model", "dataset"]
WHAT = {"model": "model", "dataset": "data set"}
TIMEOUT = 4.0  # seconds for one request, the look-up of the host's name included
CLOSE = 0.75  # likeness from which a name is suggested
OFFLINE = "HF_HUB_OFFLINE"


_not_reached: list[str] = []  # why the Hub did not answer; nothing asks it a second time


class _NotReached(Exception):
    """The Hub did not answer in time, or not at all."""


@functools.lru_cache(256)
def check_on_hub(name: str, revision: str | None = None, kind: Kind = "model") -> None:
    """Check that a name can be loaded: it was downloaded before, or the Hub has it.

    Where the Hub cannot be reached, a model that was downloaded before is used as it is, and nothing else in
    this process waits for the Hub. Raises UserError for a name that cannot be had, with the nearest one.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        if not is_downloaded(name, revision, kind):
            raise UserError(f"{name}: is not on this machine, and {OFFLINE} is set. {_advice(name, kind)}")
        return
    try:
        status, names = _within_seconds(lambda: _ask(name, revision, kind))
    except _NotReached as error:
        if not is_downloaded(name, revision, kind):
            raise UserError(
                f"{name}: is not on this machine, and the Hugging Face Hub cannot be reached ({error}). "
                f"{_advice(name, kind)}"
            ) from error
        warn(f"{name}: the Hugging Face Hub cannot be reached; the copy on this machine is used")
        constants.HF_HUB_OFFLINE = True
        os.environ[OFFLINE] = "1"  # for processes that are started here, and for `datasets`
        return
    if status == "":
        return
    hint = _did_you_mean(name, [*names, *_downloaded_names(kind)])
    raise UserError(f"{name}: {status}. {hint or 'Check the name; a private one needs HF_TOKEN.'}")


def is_downloaded(name: str, revision: str | None = None, kind: Kind = "model") -> bool:
    """Whether the Hub's cache on this machine holds a model or data set."""
    return snapshot(name, revision, kind) is not None


def snapshot(name: str, revision: str | None = None, kind: Kind = "model") -> Path | None:
    """The folder of a model or data set that was downloaded before; None where it was not."""
    from huggingface_hub import try_to_load_from_cache

    if name.count("/") > 1:
        return None
    files = ("config.json", "adapter_config.json", "tokenizer.json") if kind == "model" else ("README.md",)
    try:
        for file in files:
            path = try_to_load_from_cache(name, file, revision=revision, repo_type=kind)
            if isinstance(path, str):
                return Path(path).parent
    except ValueError:  # no name that the Hub could have
        return None
    return None


def _ask(name: str, revision: str | None, kind: Kind) -> tuple[str, list[str]]:
    """Empty where the Hub has it; else what it says, and the names that its owner has there."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        if kind == "dataset":
            gated = api.dataset_info(name, revision=revision, timeout=TIMEOUT).gated
        else:
            gated = api.model_info(name, revision=revision, timeout=TIMEOUT).gated
    except HFValidationError:
        return "is no name that the Hugging Face Hub could have", []
    except RevisionNotFoundError:
        return f"the Hugging Face Hub has no revision {revision} of it", []
    except RepositoryNotFoundError:  # other refusals are those of a proxy, or of a Hub that is down
        return f"the Hugging Face Hub has no such {WHAT[kind]}", _names_of_owner(api, name, kind)
    if gated and get_token() is None:
        return f"its conditions have to be accepted on {api.endpoint}/{name}, and HF_TOKEN set", []
    return "", []


def _names_of_owner(api: "HfApi", name: str, kind: Kind) -> list[str]:
    """What the owner of a misspelt name has on the Hub; nothing where that cannot be had."""
    from huggingface_hub.errors import HfHubHTTPError

    owner, slash, _ = name.partition("/")
    if not slash:
        return []
    try:
        if kind == "dataset":
            return [each.id for each in api.list_datasets(author=owner, limit=200)]
        return [each.id for each in api.list_models(author=owner, sort="downloads", limit=200)]
    except HfHubHTTPError:
        return []


def _within_seconds(ask: Callable[[], tuple[str, list[str]]]) -> tuple[str, list[str]]:
    """The answer, or _NotReached when there is none in time: a look-up of a host's name knows no timeout."""
    if _not_reached:
        raise _NotReached(_not_reached[0])
    answers: list[tuple[str, list[str]]] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # whatever the Hub's client raises where there is no network
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if answers:
        return answers[0]
    reason = str(errors[0]).strip().split("\n")[0][:100] if errors else f"no answer in {TIMEOUT:.0f} s"
    _not_reached.append(reason)
    raise _NotReached(reason)


def _advice(name: str, kind: Kind) -> str:
    hint = _did_you_mean(name, _downloaded_names(kind))
    return hint or (
        f"Check the name, give a folder, or fetch it where there is a network: hf download {name}"
        f"{' --repo-type dataset' if kind == 'dataset' else ''}."
    )


def _did_you_mean(name: str, names: list[str]) -> str:
    """The nearest of some names as a question; empty where none is near."""
    by_lower = {other.lower(): other for other in names if other != name}
    close = difflib.get_close_matches(name.lower(), list(by_lower), 1, CLOSE)
    return f"Did you mean `{by_lower[close[0]]}`?" if close else ""


def _downloaded_names(kind: Kind) -> list[str]:
    """The names of everything in the Hub's cache on this machine."""
    from huggingface_hub import constants

    start = f"{kind}s--"
    folders = Path(constants.HF_HUB_CACHE).glob(f"{start}*")
    return [folder.name.removeprefix(start).replace("--", "/") for folder in folders]
