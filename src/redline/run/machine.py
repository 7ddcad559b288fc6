"""The machine that a run is done on, in words: no name of a host, of a person or of a folder."""

import os
import platform
import re
from functools import cache
from pathlib import Path

from redline.engine.processes import this_process

CPU_INFO = Path("/proc/cpuinfo")  # Linux


@cache
def machine() -> str:
    """The accelerators, or else the processor, and the operating system: ``2 × NVIDIA H200, Linux``."""
    return f"{_accelerators() or _processor()}, {platform.system()}"


def _accelerators() -> str:
    """The graphics processors that the processes of this run use; empty where it runs on the processor."""
    import torch

    process = this_process()
    if process.device.type == "cpu":
        return ""
    name = torch.cuda.get_device_name() if process.device.type == "cuda" else process.device.type.upper()
    return f"{process.num_processes} × {name}" if process.num_processes > 1 else name


def _processor() -> str:
    name = platform.processor() or platform.machine()
    if CPU_INFO.exists():
        model = re.search(r"^model name\s*:\s*(.+)$", CPU_INFO.read_text(encoding="utf-8"), re.MULTILINE)
        if model:
            name = " ".join(model[1].split())
    cores = os.cpu_count() or 1
    return f"{name}, {cores} core{'s' if cores > 1 else ''}"
