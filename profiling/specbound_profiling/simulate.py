"""One speculative step read off a trace: the reference of what a decision does at a position, call by call.

Exact up to and including the first wrong draft. After it the draft leaves the trace, and the rest of the branch is
estimated: the exits are taken to say at each following position what they said there on the true continuation.
"""

import math
from collections import Counter

import numpy as np

from specbound_controller.records import Decision, StepRecord
from specbound_profiling.trace import PromptTrace


class _Pending:
    """Pending tokens and their depths (never increasing along the sequence), counting the layer calls."""

    def __init__(self) -> None:
        self.depths = [0]
        self.layer_calls: Counter[int] = Counter()

    def advance(self, depth: int) -> None:
        """Runs every pending token that stands shallower up to `depth`; each layer is called at most once."""
        for layer in range(self.depths[-1], depth):
            self.layer_calls[sum(d <= layer for d in self.depths)] += 1
        self.depths = [max(d, depth) for d in self.depths]


def simulate_step(
    trace: PromptTrace,
    start: int,
    decision: Decision,
    features: np.ndarray | None,
    num_layers: int,
    has_full_signals: bool = True,
) -> StepRecord:
    """What one step would do under a decision, from `start` >= 1 tokens generated. features: (F,) or None."""
    exits = [(trace.exit_index(e), e, threshold) for e, threshold in decision.exits()]
    width = min(decision.w_max, trace.length_limit - start - 1) if exits else 0
    pending, drafts, stop_reason = _Pending(), _Drafts(), "width" if width else "off"
    reads = Counter[int]()
    num_exit_tests, num_accepted, is_on_path, is_done = 0, 0, True, False
    for draft_index in range(width):
        position = min(start + draft_index, trace.num_positions - 1)
        for index, exit_layer, threshold in exits:
            pending.advance(exit_layer)
            reads[1] += 1
            num_exit_tests += threshold > 0
            if drafts.offer(trace, position, index, decision, threshold, features, num_layers):
                break
        else:
            stop_reason = "depth"
            break
        pending.depths.append(0)
        is_past_end = start + draft_index >= trace.num_positions
        is_eos = not is_past_end and int(trace.draft_token[position, index]) in trace.eos_tokens
        is_on_path = is_on_path and not is_past_end and bool(trace.is_accepted[position, index])
        num_accepted += is_on_path
        if is_eos:
            stop_reason, is_done = "eos", is_on_path
            break
    pending.advance(num_layers)
    reads[len(drafts.exit_layers) + 1] += 1
    num_emitted = num_accepted + (not is_done)
    last = start + num_emitted - 1
    return StepRecord(
        context_length=trace.prompt_length + start,
        num_drafted=len(drafts.exit_layers),
        num_accepted=num_accepted,
        num_emitted=num_emitted,
        exit_layers=tuple(drafts.exit_layers),
        scores=tuple(drafts.scores),
        confidences=tuple(drafts.confidences),
        entropies_nats=tuple(drafts.entropies_nats),
        stop_reason=stop_reason,
        layer_calls_by_rows=dict(pending.layer_calls),
        head_reads_by_rows=dict(reads),
        num_exit_tests=num_exit_tests,
        full_confidence=float(trace.full_confidence[last]) if has_full_signals else math.nan,
        full_entropy_nats=float(trace.full_entropy_nats[last]) if has_full_signals else math.nan,
        full_margin=float(trace.full_margin[last]) if has_full_signals else math.nan,
    )


class _Drafts:
    """The draft tokens issued so far: exits, scores and signals."""

    def __init__(self) -> None:
        self.exit_layers: list[int] = []
        self.scores: list[float] = []
        self.confidences: list[float] = []
        self.entropies_nats: list[float] = []
        self.product = 1.0

    def offer(
        self,
        trace: PromptTrace,
        position: int,
        index: int,
        decision: Decision,
        threshold: float,
        features: np.ndarray | None,
        num_layers: int,
    ) -> bool:
        """Tests one exit; keeps its draft token where the score clears the threshold, and says so."""
        exit_layer = trace.exit_layers[index]
        score, confidence, entropy = math.nan, math.nan, math.nan
        if threshold > 0:
            assert decision.score is not None  # Decision checks it
            temperature = decision.score.temperature(exit_layer, num_layers)
            signals = trace.signals(position, index, len(self.exit_layers), temperature)
            score, confidence, entropy = decision.score(signals, features), signals.confidence, signals.entropy_nats
            value = self.product * score if decision.combine == "product" else score
            if value < threshold:
                return False
            self.product *= score
        self.exit_layers.append(exit_layer)
        self.scores.append(score)
        self.confidences.append(confidence)
        self.entropies_nats.append(entropy)
        return True
