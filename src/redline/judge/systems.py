"""The systems that are compared: files of responses, or models that are sampled here."""

from pathlib import Path

from redline.data.check import Rejects
from redline.data.files import write_jsonl
from redline.data.formats import READERS
from redline.data.opening import plain_name
from redline.data.read import read
from redline.data.records import Prompt, Response
from redline.data.settings import Source
from redline.engine.settings import Model
from redline.errors import UserError
from redline.sampling.settings import Sampling


def is_file_of_responses(system: str) -> bool:
    """A name that is, or by its ending should be, a file; everything else is a model's folder or name."""
    path = Path(system).expanduser()
    return path.is_file() or Path(plain_name(path)).suffix.lower() in READERS


def read_responses(source: Source | str | Path) -> list[Response]:
    """The responses of a file, all of them: one that is left out would change what is compared.

    Raises UserError with file, line and reason, or when there are none.
    """
    if not isinstance(source, Source):
        source = Source(path=str(source))
    responses = list(read(source, Response, _Refused()))
    if not responses:
        raise UserError(f"{source.name}: holds no responses. Expected records with id, prompt and response.")
    return responses


class _Refused(Rejects):
    """No record may be left out."""

    def add(self, reason: str, file: str, line: int | None, record: object) -> None:
        raise UserError(f"{file}, line {line}: {reason}. Mend it, or delete the record from all files.")


def answers_of(
    model: str, prompts: Source | None, sampling: Sampling, seed: int, keep: Path
) -> list[Response]:
    """The responses of a model to the prompts, sampled here and written to the file ``keep``."""
    if prompts is None:
        raise UserError(f"{model}: is a model, so --prompts is needed: a file of prompts.")
    with Rejects(keep.with_suffix(".rejects.jsonl")) as rejects:
        asked = list(read(prompts, Prompt, rejects))
    if rejects.total or rejects.notes:
        rejects.report(prompts.name)
    if not asked:
        raise UserError(f"{prompts.name}: holds no prompts. Expected records with id and prompt.")
    from redline.sampling.rollouts import sample_responses

    responses = sample_responses(Model(name=model), asked, sampling, seed)
    write_jsonl(keep, responses)
    return responses
