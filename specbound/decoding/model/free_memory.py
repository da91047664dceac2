"""How much memory a device has left."""

from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
"""Where Linux says what a container may have."""


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device; on a CPU no more than this container may take. None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = [size for size in (_of_machine(MEMINFO), _of_group(GROUP)) if size is not None]
    return min(known, default=None)


def _of_machine(meminfo: Path) -> int | None:
    if not meminfo.exists():
        return None
    lines = meminfo.read_text(encoding="ascii").splitlines()
    line = next((line for line in lines if line.startswith("MemAvailable")), "")
    return int(line.split()[1]) * 1024 if line else None


def _of_group(group: Path) -> int | None:
    """What is left of a container's bound; its file cache can be dropped."""
    try:
        most, used = ((group / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    if most == "max":
        return None
    cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return max(0, int(most) - int(used) + cached)
