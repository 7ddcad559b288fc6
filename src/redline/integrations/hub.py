"""``redline push``: a run's policy and reward model to the Hugging Face Hub."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from redline.console import print_json
from redline.errors import UserError
from redline.types import JsonObject

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PUBLIC = (
    "README.md",
    "metrics.json",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What goes to the Hub: the model, its tokenizer and its card. Checkpoints, logs, samples and scores stay:
they hold the training data's texts, or are of no use to others."""


@dataclass(frozen=True)
class Upload:
    """A folder that becomes a repository of the Hub: its name there, and the files."""

    folder: Path
    repository: str
    files: list[Path]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.stat().st_size for file in self.files)


def plan_uploads(run: Path, name: str, what: str = "both") -> list[Upload]:
    """What ``redline push`` would upload: of a run's folder the policy to ``name`` and the reward model to
    ``name-reward``, of a model's folder that model.

    ``what``: policy, reward or both. Raises UserError where there is nothing to upload, or a card is missing.
    """
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"--to {name}: a name on the Hub is OWNER/MODEL.")
    if (run / "config.json").exists():
        return [_upload(run, name)]
    places = {"policy": name, "reward": f"{name}-reward"}
    wanted = list(places) if what == "both" else [what]
    uploads = [_upload(run / part, places[part]) for part in wanted if (run / part / "config.json").exists()]
    if not uploads:
        raise UserError(
            f"{run}: there is no finished {' or '.join(wanted)} to upload. Give a run's folder, or a model's."
        )
    return uploads


def _upload(folder: Path, repository: str) -> Upload:
    if not (folder / "README.md").exists():
        raise UserError(f"{folder}: has no model card (README.md). Make it: redline report {folder.parent}")
    files: set[Path] = set()
    for pattern in PUBLIC:
        files.update(folder.glob(pattern))
        files.update(folder.glob(f"adapter/{pattern}"))
    return Upload(folder, repository, sorted(files))


def upload(uploads: list[Upload], private: bool) -> list[str]:
    """Upload them; returns their addresses. Raises UserError where the Hub refuses."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    addresses = []
    for part in uploads:
        try:
            addresses.append(_one(api, part, private))
        except HfHubHTTPError as error:
            status = error.response.status_code
            hint = (
                "Check HF_TOKEN: it needs the right to write." if status in (401, 403) else "Try again later."
            )
            raise UserError(f"{part.repository}: the Hub refused ({status}). {hint}") from error
        except OSError as error:
            raise UserError(f"{part.repository}: the Hub cannot be reached ({error}).") from error
    return addresses


def _one(api: "HfApi", part: Upload, private: bool) -> str:
    address = api.create_repo(part.repository, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=part.repository,
        folder_path=part.folder,
        allow_patterns=[str(file.relative_to(part.folder)) for file in part.files],
        commit_message="Upload by redline push",
    )
    return str(address)


def push_command(
    run: Path, name: str, what: str, upload_it: bool, public: bool, as_json: bool = False
) -> None:
    """Show what would be uploaded; upload it with ``upload_it``."""
    from rich.console import Console

    screen = Console(highlight=False, soft_wrap=True)
    uploads = plan_uploads(run, name, what)
    if as_json:
        addresses = upload(uploads, private=not public) if upload_it else [None] * len(uploads)
        print_json([_plain(part, address) for part, address in zip(uploads, addresses, strict=True)])
        return
    kind = "public" if public else "private"
    for part in uploads:
        screen.print(
            f"{part.folder} -> {part.repository} ({kind}), {len(part.files)} files, {part.size / 1e6:.1f} MB",
            markup=False,
            soft_wrap=True,
        )
        for file in part.files:
            screen.print(f"  {file.relative_to(part.folder)}", markup=False, soft_wrap=True)
    if not upload_it:
        screen.print("nothing was uploaded: this was a dry run. Add --upload to do it.")
        return
    for address in upload(uploads, private=not public):
        screen.print(f"uploaded: {address}", markup=False, soft_wrap=True)


def _plain(part: Upload, address: str | None) -> JsonObject:
    """An upload for ``--json``; its address is null in a dry run."""
    return {
        "folder": str(part.folder),
        "repository": part.repository,
        "files": [str(file.relative_to(part.folder)) for file in part.files],
        "bytes": part.size,
        "address": address,
    }
