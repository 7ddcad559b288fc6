"""The base of a recipe's sections."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: a key that is not listed is an error."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
