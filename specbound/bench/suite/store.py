"""What a run has measured so far, on disk: one folder for each cell, one file for each block of prompts.

A file appears whole or not at all, so that what is there counts. Knows no model.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from specbound.decoding.stats import DecodeStats
from specbound.evaluation.differences import Difference
from specbound.evaluation.timing import TimedPrompt, Timing
from specbound.results.files import make_folder, write_file
from specbound.results.plan import keep_plan, read_kept
from specbound_controller.errors import InputError

SETUP_FILE = "setup.json"


@dataclass(slots=True)
class MeasuredPrompt:
    """Everything that is known of one prompt in one cell."""

    prompt_id: str
    task: str
    num_tokens: int
    """New tokens of all methods alike"""
    is_loop_cut: bool
    timings: dict[str, Timing] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    """Of the methods that promise plain decoding's output"""
    oracle_s: float = 0.0
    """Of the steps, by replay, at the cost table's prices"""
    plain_s: float = 0.0
    """Plain decoding's steps at the same prices"""
    probe_s: list[float] = field(default_factory=list)
    """The same matrix product again and again while this prompt's block was measured"""

    def timed(self, sampling: Mapping[str, Any]) -> TimedPrompt:
        """For rows; what was asked is not kept."""
        return TimedPrompt(self.prompt_id, self.task, torch.zeros(1, 0, dtype=torch.int64), self.num_tokens, sampling)


class Store:
    """A run's folder."""

    def __init__(self, out: str, plan: Mapping[str, Any]) -> None:
        """Raises InputError where the folder holds a run of other settings: the first that differs is named."""
        self.root = make_folder(out, has_plots=False)
        keep_plan(self.root, plan)

    def setup(self, cell: str) -> dict[str, Any] | None:
        """What was chosen for a cell; None where nothing was yet."""
        path = self.root / cell / SETUP_FILE
        return read_kept(path) if path.exists() else None

    def keep_setup(self, cell: str, values: Mapping[str, Any]) -> None:
        (self.root / cell).mkdir(exist_ok=True)
        write_file(self.root / cell / SETUP_FILE, json.dumps(values, indent=1).encode())

    def has_block(self, cell: str, block: int) -> bool:
        return self._block(cell, block).exists()

    def keep_block(self, cell: str, block: int, prompts: list[MeasuredPrompt]) -> None:
        write_file(self._block(cell, block), json.dumps([asdict(prompt) for prompt in prompts]).encode())

    def block(self, cell: str, block: int) -> list[MeasuredPrompt]:
        """Raises InputError where the file is damaged."""
        path = self._block(cell, block)
        try:
            return [_measured(values) for values in read_kept(path)]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path} is damaged: {error}; delete it, and the same command measures it again"
            ) from error

    def _block(self, cell: str, block: int) -> Path:
        return self.root / cell / f"block-{block:04d}.json"


def _measured(values: dict[str, Any]) -> MeasuredPrompt:
    timings = {name: _timing(each) for name, each in values.pop("timings").items()}
    differences = [Difference(**each) for each in values.pop("differences")]
    return MeasuredPrompt(**values, timings=timings, differences=differences)


def _timing(values: dict[str, Any]) -> Timing:
    stats = values.pop("stats")
    if stats is not None:
        histogram = {int(accepted): count for accepted, count in stats.pop("accepted_histogram").items()}
        stats = DecodeStats(**{**stats, "accepted_histogram": histogram, "steps": []})
    return Timing(**values, stats=stats)
