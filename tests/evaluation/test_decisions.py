"""The stopwatch inside a policy: what it counts, and that it changes nothing."""

import math
import time

import numpy as np
import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.evaluation.decisions import WatchedPolicy, decision_seconds
from specbound.evaluation.timing import TimedPrompt, policy_method
from specbound_controller.policy import AnnealedConfidence, StaticPolicy
from specbound_controller.records import Decision, ExitSignals, StepRecord
from tests.tiny_models import tiny_llama


def spin(seconds: float) -> None:
    """Uses so much processor time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class SlowScore(AnnealedConfidence):
    def __call__(self, signals: ExitSignals, features: np.ndarray | None) -> float:
        spin(0.002)
        return 1.0


class SlowPolicy(StaticPolicy):
    """2 ms to decide, 2 ms to observe, 2 ms for each of two exit tests."""

    def decide(self, features: np.ndarray | None) -> Decision:
        spin(0.002)
        return Decision(w_max=2, thresholds={2: 0.5}, score=SlowScore(0.0))

    def observe(self, record: StepRecord) -> None:
        spin(0.002)


@pytest.fixture(scope="module")
def decoder() -> SpecBoundDecoder:
    return SpecBoundDecoder(greedy_twin(tiny_llama()), record_steps=False)


PROMPT = TimedPrompt("p0", "all", torch.tensor([[3, 4, 5]]), 13)


def test_decisions_observations_and_scores_count_and_decoding_does_not(decoder: SpecBoundDecoder) -> None:
    found = decision_seconds(decoder, {"slow": SlowPolicy(()), "plain": StaticPolicy(())}, [PROMPT])
    assert 0.0055 < found["slow"] < 0.012  # steps that may draft one token only have one test
    assert found["plain"] < 0.001


def test_a_watched_policy_decodes_as_the_policy_itself(decoder: SpecBoundDecoder) -> None:
    policy = StaticPolicy((1, 2), 0.02, 4, alpha=0.5)
    bare, watched = (policy_method("x", decoder, each).run(PROMPT) for each in (policy, WatchedPolicy(policy)))
    assert bare[0] == watched[0]
    assert bare[1] is not None and watched[1] is not None
    assert bare[1].accepted_histogram == watched[1].accepted_histogram
    assert bare[1].num_layer_calls == watched[1].num_layer_calls
    assert bare[1].num_drafted > 0


def test_no_step_gives_no_figure(decoder: SpecBoundDecoder) -> None:
    one = TimedPrompt("p0", "all", PROMPT.input_ids, 1)
    assert math.isnan(decision_seconds(decoder, {"plain": StaticPolicy(())}, [one])["plain"])
