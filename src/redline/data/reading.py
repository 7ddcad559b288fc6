"""How a command line says where records come from: the options of every command that reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from redline.data.files import explain
from redline.data.settings import Source, assignments
from redline.errors import UserError
from redline.types import JsonObject


@dataclass(frozen=True)
class Reading:
    """The reading options as they were given; see ``redline.options`` for their help."""

    columns: Sequence[str] | None = None
    values: Sequence[str] | None = None
    sides: Sequence[str] | None = None
    replace: Sequence[str] | None = None
    format: str = "auto"
    split: str = "train"
    config: str | None = None
    first_words: int | None = None
    limit: int | None = None
    delimiter: str | None = None
    quoting: str = "auto"
    encoding: str | None = None

    def source(self, path: str) -> Source:
        """The source at ``path``, read so. Raises UserError that names the option."""
        plain: JsonObject = dict(vars(self)) | {"path": path}
        for name in ("columns", "values", "sides", "replace"):
            plain[name] = assignments(plain[name], f"--{name}")
        try:
            return Source.model_validate(plain)
        except ValidationError as error:
            option, _, what = explain(error).partition(": ")
            raise UserError(f"--{option.partition('.')[0].replace('_', '-')}: {what}.") from error
