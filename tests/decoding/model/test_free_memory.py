"""What the system says of its memory."""

from pathlib import Path

import pytest
import torch

from specbound.decoding.model import free_memory
from specbound.decoding.model.free_memory import free_bytes

CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 1000 KiB to give, and no container."""
    (tmp_path / "meminfo").write_text("MemTotal: 4000 kB\nMemAvailable:   1000 kB\n")
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "GROUP", tmp_path)
    return tmp_path


def test_a_machine_gives_what_is_available(system: Path) -> None:
    assert free_bytes(CPU) == 1000 * 1024


@pytest.mark.parametrize(("most", "expected"), [("max", 1024_000), ("900000", 350_000), ("9000000", 1024_000)])
def test_a_container_gives_what_is_left_of_its_bound(system: Path, most: str, expected: int) -> None:
    (system / "memory.max").write_text(most + "\n")
    (system / "memory.current").write_text("600000\n")
    (system / "memory.stat").write_text("anon 5\ninactive_file 50000\nactive_file 7\n")
    assert free_bytes(CPU) == expected


def test_a_system_that_says_nothing_is_not_guessed(system: Path) -> None:
    (system / "meminfo").unlink()
    assert free_bytes(CPU) is None
