"""Exits that read the full model's verified state say something else of a step's later drafts: recording, the file, and
replay of a chain against live decoding, step by step."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.exits.trained import TrainedExits
from specbound.models.loading import load_model
from specbound_controller.policy import StaticPolicy
from specbound_profiling.log.later import Later
from specbound_profiling.log.later_tables import later_by_prompt, later_table
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.rollout import RolloutSettings
from specbound_profiling.recording.settings import RecordSettings
from specbound_profiling.replay.simulate import simulate
from tests.decoding.random_exits import random_exits
from tests.step_fields import EXACT_FIELDS

EXITS, NUM_LAYERS, NEW_TOKENS, WIDTH = (0, 1, 3), 4, 30, 4
LOOKUP_THRESHOLD = 0.2
SAMPLED = {"do_sample": True, "temperature": 0.7, "seed": 3}


@pytest.fixture(scope="module")
def prompts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, 60, (1, length), generator=generator) for length in (1, 4, 9, 13)]


Record = Callable[..., tuple[TrainedExits, list[PromptTrace]]]


@pytest.fixture(scope="module")
def record(tiny_model_dir: Path, prompts: list[torch.Tensor]) -> Record:
    def recorded(sampling: dict[str, object], reads_state: bool = True) -> tuple[TrainedExits, list[PromptTrace]]:
        """exits at layers 1 and 3, and traces of them with every wrong first draft rolled out"""
        model = load_model(str(tiny_model_dir)).model
        exits = random_exits(model, (1, 3), reads_state=reads_state, num_tokens=50)
        settings = RecordSettings(
            EXITS, NEW_TOKENS, (), sampling=sampling, rollouts=RolloutSettings(1.0, WIDTH), num_drafts=WIDTH
        )
        recorder = Recorder(ModelAdapter(model, exits.for_model(model)), settings)
        return exits, [recorder.record(ids, index) for index, ids in enumerate(prompts)]

    kept: dict[str, tuple[TrainedExits, list[PromptTrace]]] = {}

    def once(sampling: dict[str, object], reads_state: bool = True) -> tuple[TrainedExits, list[PromptTrace]]:
        key = f"{sampling} {reads_state}"
        if key not in kept:
            kept[key] = recorded(sampling, reads_state)
        return kept[key]

    return once


@pytest.mark.parametrize("sampling", [{"do_sample": False}, SAMPLED])
@pytest.mark.parametrize("shares", [{1: 0.0}, {1: 0.2}, {0: 0.2, 3: 0.0}, {1: 0.5, 3: 0.2}])
def test_live_steps_are_what_replay_says(
    record: Record,
    prompts: list[torch.Tensor],
    tiny_model_dir: Path,
    sampling: dict[str, object],
    shares: dict[int, float],
) -> None:
    """Tokens always; all work up to the first wrong draft, and beyond it where the replay says that it knows.

    shares: exit layer -> share of its first drafts that its threshold refuses; that of the context is a fixed one.
    """
    exits, traces = record(sampling)
    confidence = np.concatenate([trace.confidence for trace in traces])
    thresholds = {e: float(np.quantile(confidence[:, EXITS.index(e)], q)) if q else 0.0 for e, q in shares.items()}
    if 0 in thresholds:
        thresholds[0] = LOOKUP_THRESHOLD
    model = greedy_twin(load_model(str(tiny_model_dir)).model, has_end=False)
    policy = StaticPolicy(tuple(thresholds), tuple(thresholds.values()), w_max=WIDTH)
    decoder = SpecBoundDecoder(model, policy, exits=exits)
    num_deep = num_changed = 0
    for index, (ids, trace) in enumerate(zip(prompts, traces, strict=True)):
        seed = {"seed": 3 + index} if "seed" in sampling else {}
        output = decoder.decode(ids, max_new_tokens=trace.length_limit, **{**sampling, **seed})
        start = 1
        for step in output.stats.steps:
            found = simulate(trace, start, policy.decide(None), None, NUM_LAYERS)
            assert (step.num_accepted, step.num_emitted) == (found.record.num_accepted, found.record.num_emitted)
            if found.is_exact:
                for name in EXACT_FIELDS:
                    assert getattr(step, name) == getattr(found.record, name), name
                np.testing.assert_allclose(step.scores, found.record.scores, atol=2e-4)
            num_deep += step.num_accepted >= 2
            bare = simulate(replace(trace, later=()), start, policy.decide(None), None, NUM_LAYERS).record
            num_changed += bare.num_accepted != step.num_accepted
            start += step.num_emitted
        assert start == trace.num_positions
    assert num_deep > 0
    assert num_changed > 0 or thresholds != {1: 0.0}  # without what is said of later drafts replay goes astray


def test_exits_that_do_not_read_the_state_say_one_thing(record: Record) -> None:
    assert all(trace.later == () for trace in record({"do_sample": False}, reads_state=False)[1])


def test_later_drafts_come_back_from_their_table(record: Record) -> None:
    traces = [replace(trace, prompt_id=f"p{index}") for index, trace in enumerate(record(SAMPLED)[1])]
    found = later_by_prompt(later_table(traces), EXITS, WIDTH - 1)
    for trace in traces:
        assert len(found[trace.prompt_id]) == WIDTH - 1
        for kept, later in zip(found[trace.prompt_id], trace.later, strict=True):
            for each in fields(Later):
                np.testing.assert_array_equal(getattr(kept, each.name), getattr(later, each.name), err_msg=each.name)
    with pytest.raises(ValueError, match="rows at every position"):
        later_by_prompt(later_table(traces).slice(0, 10), EXITS, WIDTH - 1)
