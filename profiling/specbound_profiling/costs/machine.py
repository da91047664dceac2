"""The name of this machine, as far as it decides what work costs. Cost tables carry it."""

import platform
from pathlib import Path

import torch


def machine_fingerprint(device: torch.device | str) -> str:
    """Processor or GPU, thread count and torch version, in one readable line."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}; torch {torch.__version__}"
    threads = torch.get_num_threads()
    return f"{_processor()}; {device.type}; {threads} thread{'s' if threads > 1 else ''}; torch {torch.__version__}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
