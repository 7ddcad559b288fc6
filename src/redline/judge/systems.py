"""The systems that are compared: files of responses, or models that are sampled here."""

from pathlib import Path

from redline.data.check import Rejects
from redline.data.files import read_jsonl, write_jsonl
from redline.data.read import read
from redline.data.records import Prompt, Response
from redline.data.settings import Source
from redline.engine.settings import Model
from redline.errors import UserError
from redline.sampling.settings import Sampling


def is_file_of_responses(system: str) -> bool:
    """A name that is, or by its ending should be, a file; everything else is a model's folder or name."""
    return Path(system).is_file() or system.endswith((".jsonl", ".json"))


def read_responses(path: str | Path) -> list[Response]:
    """The responses in a JSONL file, strictly. Raises UserError with file, line and field, or when there are
    none."""
    responses = list(read_jsonl(path, Response))
    if not responses:
        raise UserError(
            f"{path}: holds no responses. Expected one JSON object a line with id, prompt and response."
        )
    return responses


def responses_of(
    system: str, prompts: str | Path | None, sampling: Sampling, seed: int, limit: int | None, keep: Path
) -> list[Response]:
    """The responses of a system: read from its file, or sampled from the model and kept in the file ``keep``.

    ``limit``: a model answers only so many of the prompts.
    """
    if is_file_of_responses(system):
        return read_responses(system)
    if prompts is None:
        raise UserError(f"{system}: is a model, so --prompts is needed: a file of prompts.")
    with Rejects(keep.with_suffix(".rejects.jsonl")) as rejects:
        asked = list(read(Source(path=str(prompts), limit=limit), Prompt, rejects))
    if rejects.total:
        rejects.report(str(prompts))
    if not asked:
        raise UserError(f"{prompts}: holds no prompts. Expected records with id and prompt.")
    from redline.sampling.rollouts import sample_responses

    responses = sample_responses(Model(name=system), asked, sampling, seed)
    write_jsonl(keep, responses)
    return responses
