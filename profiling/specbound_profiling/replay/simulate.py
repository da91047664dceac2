"""One speculative step read off a trace: the reference of what a decision does at a position, call by call.

Exact up to and including the first wrong draft. After it the draft leaves the trace: a roll-out that followed the same
draft says what the exits find there, and while the step's drafts are the roll-out's own the step stays exact. So it
does along lookups, for which the context is enough. Without either the rest of the branch is estimated: the exits are
taken to say what they said there on the true continuation.
"""

import copy
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from specbound_controller.lookup import LOOKUP_EXIT, NO_TOKEN
from specbound_controller.records import Decision, StepRecord
from specbound_profiling.log.later import Later
from specbound_profiling.log.trace import PromptTrace


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """What one step would do, and how much of that is known."""

    record: StepRecord
    """The whole step."""
    known: StepRecord
    """The same step, had its draft ended where what the log knows ends: `record` itself where nothing is estimated.
    Tokens are equal in both; the difference in work is an estimate."""

    @property
    def is_exact(self) -> bool:
        """Whether nothing in the step is estimated."""
        return self.known is self.record


def simulate(
    trace: PromptTrace,
    start: int,
    decision: Decision,
    features: np.ndarray | None,
    num_layers: int,
    has_full_signals: bool = True,
) -> SimulatedStep:
    """What one step would do under a decision, from `start` >= 1 tokens generated. features: (F,) or None."""
    exits = [(trace.exit_index(e), e, threshold) for e, threshold in decision.exits()]
    width = min(decision.w_max, trace.length_limit - start - 1) if exits else 0
    step, place, known = _Step(), _Place(trace, start), None
    step.stop_reason = "width" if width else "off"
    can_stop = bool(trace.eos_tokens) or any(threshold > 0 for *_, threshold in exits)
    for _ in range(width):
        if known is None and can_stop and not place.is_known:
            known = step.copied()
        for index, exit_layer, threshold in exits:
            if not place.knows(exit_layer):
                known = step.copied() if known is None and can_stop else known
                place.branch = None
            step.read(exit_layer)
            if step.offer(place, index, decision, threshold, features, num_layers):
                break
        else:
            step.stop_reason = "depth"
            break
        step.depths.append(0)
        is_eos = place.is_eos(index)
        step.num_accepted += place.take(index, exit_layer)
        if is_eos:
            step.stop_reason, step.is_done = "eos", place.is_on_path
            break
    record = step.record(trace, start, num_layers, has_full_signals)
    return SimulatedStep(record, record if known is None else known.record(trace, start, num_layers, has_full_signals))


class _Place:
    """Where the draft stands: on the true continuation, on a branch that was rolled out, or beyond what is known."""

    def __init__(self, trace: PromptTrace, start: int) -> None:
        self.trace, self.position = trace, start
        self.is_on_path = True
        self.branch: range | None = None
        """Rows of the branch from here on."""
        self.along = 0
        """Exit index whose drafts the branch goes along."""
        self.draft_index = 0
        self.is_followed = False
        """Whether what the branch says of exits with a head holds for this step."""

    @property
    def is_known(self) -> bool:
        return self.is_on_path or self.branch is not None

    def knows(self, exit_layer: int) -> bool:
        """Whether what an exit says here is known, or was not known before either."""
        if self.branch is None or exit_layer == LOOKUP_EXIT:
            return True
        assert self.trace.branches is not None
        return self.is_followed and not self.trace.branches.is_lookup_only[self.branch.start]

    @property
    def said(self) -> PromptTrace | Later:
        """What the exits say on the true continuation of a draft that stands so far into its step."""
        return self.trace.said(self.draft_index)

    @property
    def row(self) -> int:
        """Row of the trace; the last one where the draft has passed it."""
        return min(self.position, self.trace.num_positions - 1)

    def is_eos(self, index: int) -> bool:
        """Whether an exit drafts an end token here."""
        if self.branch is not None:
            assert self.trace.branches is not None
            return int(self.trace.branches.draft_token[self.branch.start, index]) in self.trace.eos_tokens
        is_past_end = self.position >= self.trace.num_positions
        return not is_past_end and int(self.said.draft_token[self.row, index]) in self.trace.eos_tokens

    def take(self, index: int, exit_layer: int) -> bool:
        """Goes on with an exit's draft; whether it is accepted."""
        branches = self.trace.branches
        if self.is_on_path:
            self.is_on_path = self.position < self.trace.num_positions and bool(
                self.said.is_accepted[self.position, index]
            )
            # branches begin with first drafts: what exits say along them is of drafts counted from there
            self.is_followed = self.draft_index == 0 or not self.trace.later
            may_follow = self.is_followed or exit_layer == LOOKUP_EXIT
            if not self.is_on_path and branches is not None and may_follow:
                self.branch, self.along = branches.rows.get((self.position, exit_layer)), index
        elif self.branch is not None:
            assert branches is not None
            tokens = branches.draft_token[self.branch.start]
            rest = range(self.branch.start + 1, self.branch.stop)
            self.branch = rest if rest and tokens[index] == tokens[self.along] else None
        self.position += 1
        self.draft_index += 1
        return self.is_on_path


class _Step:
    """Tokens, scores and work so far."""

    def __init__(self) -> None:
        self.depths = [0]
        """Layers that each pending token has run: never increasing along the sequence."""
        self.layer_calls: Counter[int] = Counter()
        self.num_reads = self.num_exit_tests = self.num_learned_scores = self.num_accepted = 0
        self.exit_layers: list[int] = []
        self.scores: list[float] = []
        self.confidences: list[float] = []
        self.entropies_nats: list[float] = []
        self.product = 1.0
        self.stop_reason, self.is_done = "off", False

    def copied(self) -> "_Step":
        """A step of its own that stands where this one does."""
        twin = copy.copy(self)
        twin.depths, twin.layer_calls = list(self.depths), Counter(self.layer_calls)
        for name in ("exit_layers", "scores", "confidences", "entropies_nats"):
            setattr(twin, name, list(getattr(self, name)))
        return twin

    def advance(self, depth: int) -> None:
        """Runs every pending token that stands shallower up to `depth`; each layer is called at most once."""
        levels = sorted({d for d in self.depths if d < depth})
        for layer, bound in pairwise([*levels, depth]):
            self.layer_calls[sum(d <= layer for d in self.depths)] += bound - layer
        self.depths = [max(d, depth) for d in self.depths]

    def read(self, exit_layer: int) -> None:
        self.advance(exit_layer)
        self.num_reads += exit_layer != LOOKUP_EXIT

    def offer(
        self,
        place: _Place,
        index: int,
        decision: Decision,
        threshold: float,
        features: np.ndarray | None,
        num_layers: int,
    ) -> bool:
        """Tests one exit; keeps its draft token where the score clears the threshold, and says so."""
        trace = place.trace
        exit_layer = trace.exit_layers[index]
        score, confidence, entropy = math.nan, math.nan, math.nan
        if threshold > 0:
            assert decision.score is not None  # Decision checks it
            temperature, draft_index = decision.score.temperature(exit_layer, num_layers), len(self.exit_layers)
            if place.branch is not None:
                signals = trace.branch_signals(place.branch.start, index, draft_index, temperature)
            else:
                signals = trace.signals(place.row, index, draft_index, temperature)
            self.num_exit_tests += exit_layer != LOOKUP_EXIT
            self.num_learned_scores += decision.score.is_learned
            score = decision.score(signals, features) if signals.draft_token != NO_TOKEN else 0.0
            confidence, entropy = signals.confidence, signals.entropy_nats
            value = self.product * score if decision.combine == "product" else score
            if value < threshold:
                return False
            self.product *= score
        self.exit_layers.append(exit_layer)
        self.scores.append(score)
        self.confidences.append(confidence)
        self.entropies_nats.append(entropy)
        return True

    def record(self, trace: PromptTrace, start: int, num_layers: int, has_full_signals: bool) -> StepRecord:
        """The record of the step, which verification ends."""
        self.advance(num_layers)
        reads = Counter({1: self.num_reads}) if self.num_reads else Counter[int]()
        reads[len(self.exit_layers) + 1] += 1
        num_emitted = self.num_accepted + (not self.is_done)
        last = start + num_emitted - 1
        return StepRecord(
            context_length=trace.prompt_length + start,
            num_drafted=len(self.exit_layers),
            num_accepted=self.num_accepted,
            num_emitted=num_emitted,
            exit_layers=tuple(self.exit_layers),
            scores=tuple(self.scores),
            confidences=tuple(self.confidences),
            entropies_nats=tuple(self.entropies_nats),
            stop_reason=self.stop_reason,
            layer_calls_by_rows=dict(self.layer_calls),
            head_reads_by_rows=dict(reads),
            num_exit_tests=self.num_exit_tests,
            full_confidence=float(trace.full_confidence[last]) if has_full_signals else math.nan,
            full_entropy_nats=float(trace.full_entropy_nats[last]) if has_full_signals else math.nan,
            full_margin=float(trace.full_margin[last]) if has_full_signals else math.nan,
            num_learned_scores=self.num_learned_scores,
        )
