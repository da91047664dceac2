"""How long a policy takes to decide, by a stopwatch around its methods and its exit scores.

The watch itself takes time, so these runs are never the ones whose speed is reported. It counts processor time of the
thread that decides, so that other work on the machine does not count.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.evaluation.timing import TimedPrompt, policy_method
from specbound_controller.policy import Policy
from specbound_controller.ratio import ratio
from specbound_controller.records import Decision, ExitScore, ExitSignals, StepRecord


@dataclass(slots=True)
class _Watch:
    seconds: float = 0.0


class WatchedPolicy:
    """A policy that decides as another one does, and adds up the processor seconds that this takes."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._watch = policy, _Watch()

    @property
    def seconds(self) -> float:
        """Spent in `decide`, in `observe` and in exit scores so far."""
        return self._watch.seconds

    @property
    def needs_features(self) -> bool:
        return self._policy.needs_features

    @property
    def needs_full_signals(self) -> bool:
        return self._policy.needs_full_signals

    def reset(self) -> None:
        self._policy.reset()

    def decide(self, features: np.ndarray | None) -> Decision:
        started = time.thread_time()
        decision = self._policy.decide(features)
        self._watch.seconds += time.thread_time() - started
        return (
            decision if decision.score is None else replace(decision, score=_WatchedScore(decision.score, self._watch))
        )

    def observe(self, record: StepRecord) -> None:
        started = time.thread_time()
        self._policy.observe(record)
        self._watch.seconds += time.thread_time() - started


class _WatchedScore:
    """An exit score under the watch."""

    def __init__(self, score: ExitScore, watch: _Watch) -> None:
        self._score, self._watch = score, watch

    @property
    def is_learned(self) -> bool:
        return self._score.is_learned

    def temperature(self, exit_layer: int, num_layers: int) -> float:
        return self._score.temperature(exit_layer, num_layers)

    def __call__(self, signals: ExitSignals, features: np.ndarray | None) -> float:
        started = time.thread_time()
        value = self._score(signals, features)
        self._watch.seconds += time.thread_time() - started
        return value


def decision_seconds(
    decoder: SpecBoundDecoder, policies: Mapping[str, Policy], prompts: Sequence[TimedPrompt]
) -> dict[str, float]:
    """Policy -> seconds of decisions per step, over one more run of some prompts. nan without a step."""
    found = {}
    for name, policy in policies.items():
        watched = WatchedPolicy(policy)
        method = policy_method(name, decoder, watched)
        num_steps = 0
        for prompt in prompts:
            stats = method.run(prompt)[1]
            num_steps += 0 if stats is None else stats.num_steps
        found[name] = ratio(watched.seconds, num_steps)
    return found
