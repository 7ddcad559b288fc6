"""The processes that ``accelerate launch`` starts: which one this is, and how the others wait while the main
one works alone."""

import functools
import itertools
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from redline.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState
    from transformers import TrainingArguments

Part = TypeVar("Part")

NO_WANDB_KEY = (
    "trackers: wandb has no key. Run `wandb login`, set WANDB_API_KEY, or keep the run on this machine with "
    "WANDB_MODE=offline."
)


def this_process() -> "PartialState":
    """This process's index, the number of processes and its device, as Accelerate sees them.

    Without an accelerator the processes are CPU processes; left to itself, Accelerate would take each of them
    for a run of its own.
    """
    import os

    import torch
    from accelerate import PartialState

    on_cpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in (
        "1",
        "true",
        "yes",
    )
    return PartialState(cpu=on_cpu)


def check_launch() -> None:
    """Raise UserError where ``accelerate launch`` was asked for several processes and started one: on CPUs it
    does so without a word, unless a configuration says how they talk to each other."""
    import os

    import psutil

    if "WORLD_SIZE" in os.environ:
        return
    words = [*_command(psutil.Process().parent()), ""]
    if not any(Path(word).name in ("accelerate", "accelerate-launch") for word in words):
        return
    for word, following in itertools.pairwise(words):
        name, equals, value = word.partition("=")
        asked = value if equals else following
        if name in ("--num_processes", "--num-processes") and asked.isdigit() and int(asked) > 1:
            raise UserError(
                f"accelerate launch was asked for {asked} processes and started one. On CPUs give it "
                "--config_file recipes/accelerate/2-cpu-processes.yaml (docs/scale.md), on GPUs --multi_gpu."
            )


def _command(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline()) if process is not None else []
    except psutil.Error:  # another user's
        return []


def sharded_launch() -> bool:
    """Whether ``accelerate launch`` was told to shard the weights, by FSDP or DeepSpeed."""
    import os

    return any(os.environ.get(f"ACCELERATE_USE_{way}", "").lower() == "true" for way in ("FSDP", "DEEPSPEED"))


def installed(trackers: Sequence[str]) -> list[str]:
    """The trackers, if all are there. Raises UserError for one that is not installed: Accelerate would leave
    it out in silence."""
    if trackers:
        from accelerate.tracking import get_available_trackers

        there = {str(tracker) for tracker in get_available_trackers()}
        for tracker in trackers:
            if tracker not in there:
                raise UserError(
                    f"trackers: {tracker} is not installed. Run `pip install {tracker}`, or take it out of "
                    "the recipe."
                )
        if "wandb" in trackers and not wandb_can_log_in():
            raise UserError(NO_WANDB_KEY)
    return list(trackers)


def wandb_can_log_in() -> bool:
    """Whether Weights & Biases has a key, or needs none: it would ask for one in the middle of a run."""
    import netrc
    import os
    from urllib.parse import urlsplit

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE", "online") not in ("online", "shared"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return known.authenticators(host) is not None


def new_accelerator(trackers: Sequence[str], folder: Path) -> "Accelerator":
    """What a training runs with; its metrics also go to ``trackers``, in ``folder``."""
    from accelerate import Accelerator

    this_process()
    return Accelerator(log_with=installed(trackers) or None, project_dir=str(folder))


def on_one_device(settings: "TrainingArguments") -> "TrainingArguments":
    """The settings of a Transformers trainer, for one device a process: left to itself, one process takes all
    GPUs that it sees, by ``nn.DataParallel``, which TRL refuses."""
    settings._n_gpu = min(settings.n_gpu, 1)
    return settings


def finish_tracking(accelerator: "Accelerator") -> None:
    """Close the trackers (``accelerator.end_training`` would also part the processes, which have more stages
    before them)."""
    for tracker in accelerator.trackers:
        tracker.finish()


def lost_another(error: RuntimeError) -> bool:
    """Whether an error says that another process of this run is gone."""
    import torch.distributed

    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def memory_is_full(error: RuntimeError) -> str | None:
    """What to change where an accelerator (or the machine) has no memory left; None for any other error."""
    if type(error).__name__ != "OutOfMemoryError" and "DefaultCPUAllocator: can't allocate" not in str(error):
        return None
    said = " ".join(str(error).split())[:160]
    return (
        f"there is not enough memory ({said}). Lower policy.microbatch_tokens, data.max_prompt_tokens or "
        "policy.sampling.max_new_tokens, set gradient_checkpointing: true under adapt, or hold the model in "
        "4 bits (model.load_in_4bit: true). `redline plan RECIPE` says what fits. Then the same command "
        "continues from the last checkpoint."
    )


def own_share(count: int) -> range:
    """The places of this process's share of ``count`` things: every n-th of them, for n processes."""
    process = this_process()
    return range(process.process_index, count, process.num_processes)


def all_shares(mine: Sequence[Part], count: int) -> list[Part]:
    """What the processes made of ``count`` things, in the order of the things. ``mine`` is what this process
    made of those at ``own_share(count)``. All processes call this together."""
    processes = this_process().num_processes
    if processes == 1:
        return list(mine)
    import torch.distributed

    parts: list[Any] = [None] * processes
    torch.distributed.all_gather_object(parts, list(mine), group=_patient())
    return [parts[place % processes][place // processes] for place in range(count)]


def wait_for_everyone() -> None:
    """Return when every process has come here, however long one of them works alone (a collective's own
    patience is minutes)."""
    if this_process().num_processes > 1:
        import torch.distributed

        torch.distributed.barrier(group=_patient())


@functools.cache
def _patient() -> Any:
    import torch.distributed

    return torch.distributed.new_group(backend="gloo", timeout=timedelta(days=30))
