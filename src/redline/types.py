"""Names for what has no type of its own before it is looked at."""

from typing import Any, TypeAlias

Json: TypeAlias = Any  # what json.loads gives, or a cell of a file: text, number, list, object, nothing
JsonObject: TypeAlias = dict[str, Any]  # an object of JSON or YAML: plain data by name
Config: TypeAlias = Any  # a Transformers configuration: its attributes differ by family
AutoClass: TypeAlias = Any  # one of Transformers' auto classes, or a model class
Network: TypeAlias = Any  # a model or module whose attributes differ by family (PEFT's wrappers too)
