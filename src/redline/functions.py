"""A user's own Python function, named in a recipe or on the command line."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redline.errors import UserError


def is_function_name(name: str) -> bool:
    """Whether ``name`` has the form ``module:function`` or ``file.py:function``."""
    place, colon, function = name.rpartition(":")
    return bool(colon and place and function.isidentifier() and "://" not in name)


def load_function(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` or ``file.py:function`` names; modules are also looked for in the
    working folder.

    Raises UserError when the file, the module or the function is not there, or the module fails while it is
    imported.
    """
    if not is_function_name(name):
        raise UserError(f"`{name}`: a function is named module:function or file.py:function.")
    place, _, function = name.rpartition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place)
    except UserError:
        raise
    except Exception as error:  # whatever the user's own module raises is the user's to mend
        raise UserError(f"`{name}`: {place} cannot be imported ({type(error).__name__}: {error}).") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise UserError(f"`{name}`: {place} has no function `{function}`.")
    return found


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file. Give file.py:function with the file's path.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_module(name: str) -> Any:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return importlib.import_module(name)
