"""What work costs is measured once for a model and a machine, whichever command asks first."""

import json
from pathlib import Path
from typing import Any

import pytest

from specbound.cli.main import main
from specbound_profiling.costs.measure import measure_costs
from specbound_profiling.log.manifest import read_costs


def test_a_log_takes_the_table_that_was_measured_here_before(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_costs_are_left_alone: object
) -> None:
    measured: list[int] = []

    def measure(loaded: Any, prompts: Any, num_steps: int, *rest: Any, **named: Any) -> Any:
        measured.append(num_steps)
        return measure_costs(loaded, prompts, 30, *rest, max_seconds=1.0, **named)

    monkeypatch.setattr("specbound.pricing.local.measured_once", kept_costs_are_left_alone)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("specbound_profiling.recording.profile.measure_costs", measure)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "the cat sat", "task": "a"}) + "\n")

    def costs(name: str, *options: str) -> Any:
        argv = ("profile", "--model", str(tiny_model_dir), "--prompts", str(prompts), "--out", str(tmp_path / name))
        assert main((*argv, "--max-new-tokens", "4", *options)) == 0
        return read_costs(tmp_path / name)["none"]

    costs("few", "--num-cost-steps", "30")
    assert not list((tmp_path / "home").rglob("costs.json"))  # too few for the other commands
    first = costs("first")
    assert measured == [30, 300]
    assert costs("second") == first == costs("fewer", "--num-cost-steps", "30") and len(measured) == 2
    costs("more", "--num-cost-steps", "400")
    assert measured == [30, 300, 400]
