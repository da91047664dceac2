"""Live steps in a log: every field comes back, and half a file is never read."""

from collections.abc import Callable
from dataclasses import fields, replace
from math import inf, nan
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from specbound_controller.errors import InputError
from specbound_controller.records import StepRecord
from specbound_profiling.log import store as log_module
from specbound_profiling.log.live_steps import STEPS_SCHEMA, LiveSteps
from specbound_profiling.log.store import LogWriter, StepLog, open_log
from specbound_profiling.log.trace import PromptTrace
from tests.profiling.manifests import MANIFEST

DRAFTED = StepRecord(
    context_length=12,
    num_drafted=3,
    num_accepted=1,
    num_emitted=2,
    exit_layers=(1, 3, 3),
    scores=(0.1 + 0.2, nan, 1e-300),  # the first is no short decimal
    confidences=(0.75, nan, 0.5),
    entropies_nats=(1.5, nan, inf),
    stop_reason="width",
    layer_calls_by_rows={1: 7, 4: 5},
    head_reads_by_rows={1: 3, 4: 1},
    num_exit_tests=2,
    full_confidence=0.9,
    full_entropy_nats=0.4,
    full_margin=2.5,
    seconds=0.0125,
    num_learned_scores=2,
    sources=("context", "context", "bigrams"),
    parents=(0, 1, 0),
    path=(3,),
)
PLAIN = StepRecord(14, 0, 0, 1, (), (), (), (), "off", {1: 6}, {1: 1}, 0)


@pytest.fixture
def log(tmp_path: Path, random_trace_of: Callable[..., PromptTrace]) -> StepLog:
    writer, rng = LogWriter(tmp_path / "log", MANIFEST), np.random.default_rng(0)
    for shard in range(MANIFEST.num_shards):
        ids = range(2 * shard, min(2 * shard + 2, MANIFEST.num_prompts))
        writer.write_shard("none", shard, [random_trace_of(rng, (1, 3), f"p{i}") for i in ids])
    return open_log(tmp_path / "log")


def runs_of(policy: str, *prompt_ids: str) -> list[LiveSteps]:
    return [LiveSteps(prompt_id, "none", policy, (PLAIN, DRAFTED)[: 1 + i]) for i, prompt_id in enumerate(prompt_ids)]


def test_every_field_of_every_step_comes_back(log: StepLog) -> None:
    runs = runs_of("controller", "p0", "p3")
    log.write_live_steps("none", "controller", runs)
    found = open_log(log.root).live_steps("none")
    assert list(found) == ["controller"]
    assert repr(found["controller"]) == repr(runs)  # nan is not equal to itself
    assert STEPS_SCHEMA.names[4:] == [field.name for field in fields(StepRecord)]
    assert pq.read_table(log.root / "steps" / "none-controller.parquet")["step"].to_pylist() == [0, 0, 1]


def test_a_policy_is_replaced_and_others_and_levels_stand_apart(log: StepLog) -> None:
    assert log.live_steps("none") == {}
    log.write_live_steps("none", "static", runs_of("static", "p0"))
    log.write_live_steps("none", "controller", runs_of("controller", "p0"))
    log.write_live_steps("none", "static", runs_of("static", "p1", "p2"))
    found = log.live_steps("none")
    assert [run.prompt_id for run in found["static"]] == ["p1", "p2"]
    assert [run.prompt_id for run in found["controller"]] == ["p0"]
    assert log.live_steps("bf16") == {}


def test_write_that_is_stopped_leaves_what_was_there(log: StepLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_live_steps("none", "static", runs_of("static", "p0"))

    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(log_module.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        log.write_live_steps("none", "static", runs_of("static", "p1"))
    monkeypatch.undo()
    assert [path.name for path in (log.root / "steps").iterdir()] == ["none-static.parquet"]
    assert [run.prompt_id for run in log.live_steps("none")["static"]] == ["p0"]


def test_half_a_file_that_a_killed_run_left_is_never_read_and_is_written_over(log: StepLog) -> None:
    log.write_live_steps("none", "static", runs_of("static", "p0"))
    (log.root / "steps" / "none-controller.partial").write_bytes(b"PAR1 half")
    assert list(log.live_steps("none")) == ["static"]
    log.write_live_steps("none", "controller", runs_of("controller", "p0"))
    assert list(log.live_steps("none")) == ["controller", "static"]
    assert not list((log.root / "steps").glob("*.partial"))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_damaged_file_is_named_with_what_writes_it_again(log: StepLog, share: float) -> None:
    log.write_live_steps("none", "static", runs_of("static", "p0", "p1"))
    path = log.root / "steps" / "none-static.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"none-static\.parquet is damaged.*--save-steps again"):
        log.live_steps("none")


def test_steps_that_are_missing_within_a_prompt_are_seen(log: StepLog) -> None:
    log.write_live_steps("none", "static", [LiveSteps("p0", "none", "static", (PLAIN, DRAFTED, PLAIN))])
    path = log.root / "steps" / "none-static.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take([0, 2]), path)
    with pytest.raises(InputError, match="prompt p0 must count from 0"):
        log.live_steps("none")


def test_run_that_goes_on_keeps_live_steps(log: StepLog) -> None:
    log.write_live_steps("none", "static", runs_of("static", "p0"))
    LogWriter(log.root, replace(MANIFEST))
    assert list(open_log(log.root).live_steps("none")) == ["static"]
