"""One step of bounded speculation with cached states: draft from shallow exits, verify with the deep layers.

Knows the adapter and one decision; knows nothing of policies, stopping rules or output formats.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.adapter import ModelAdapter
from specbound.decoding.cache import DecodeCache
from specbound.decoding.signals import logit_statistics, tempered_confidence
from specbound_controller.errors import InputError
from specbound_controller.records import Decision, ExitSignals


@dataclass(slots=True)
class Work:
    """Counts of one step's work: rows -> calls."""

    layer_calls: dict[int, int] = field(default_factory=dict)
    head_reads: dict[int, int] = field(default_factory=dict)
    num_exit_tests: int = 0

    def add_layers(self, rows: int, calls: int) -> None:
        if calls:
            self.layer_calls[rows] = self.layer_calls.get(rows, 0) + calls

    def add_head(self, rows: int) -> None:
        self.head_reads[rows] = self.head_reads.get(rows, 0) + 1


@dataclass(slots=True)
class Draft:
    """Pending tokens of one step: the last committed token and the drafts after it.

    Depths never increase along the sequence, so that verification runs each layer once, on a growing suffix.
    """

    tokens: list[int]
    """The last committed token, then the draft tokens."""
    position: int
    """Position of the first pending token: every layer of the cache holds so many tokens before the step."""
    hidden: list[Tensor] = field(default_factory=list)
    """Hidden state of each pending token at its depth, (1, 1, D) each."""
    depths: list[int] = field(default_factory=list)
    """Layers that each pending token has run."""
    exit_layers: list[int] = field(default_factory=list)
    signals: list[ExitSignals | None] = field(default_factory=list)
    """Exit signals of each draft token; None where the threshold asked for no test."""
    scores: list[float] = field(default_factory=list)
    stop_reason: str = "off"

    @property
    def num_drafted(self) -> int:
        return len(self.tokens) - 1


class StepRunner:
    """Runs draft and verification on one cache."""

    def __init__(self, adapter: ModelAdapter, cache: DecodeCache, eos_token_ids: frozenset[int]) -> None:
        self.adapter, self.cache, self.eos_token_ids = adapter, cache, eos_token_ids
        self.work = Work()

    def draft(self, last_token: int, position: int, decision: Decision, features: np.ndarray | None) -> Draft:
        """Drafts up to `decision.w_max` tokens after `last_token`, which stands at `position`."""
        draft = Draft([last_token], position)
        exits = decision.exits()
        self._start_token(draft)
        if decision.w_max == 0 or not exits:
            return draft
        num_layers = self.adapter.num_layers
        for exit_layer, _ in (exits[0], exits[-1]):
            if not 1 <= exit_layer < num_layers:
                raise InputError(
                    f"exit_layer must be in [1, {num_layers - 1}] for a {num_layers}-layer model, got {exit_layer}"
                )
        survival = 1.0
        while draft.num_drafted < decision.w_max:
            found = self._find_exit(draft, exits, decision, survival, features)
            if found is None:
                draft.stop_reason = "depth"
                return draft
            token, score, signals = found
            survival *= score if decision.combine == "product" and signals is not None else 1.0
            draft.tokens.append(token)
            draft.exit_layers.append(draft.depths[-1])
            draft.signals.append(signals)
            draft.scores.append(score)
            self._start_token(draft)
            if token in self.eos_token_ids:
                draft.stop_reason = "eos"
                return draft
        draft.stop_reason = "width"
        return draft

    def verify(self, draft: Draft) -> Tensor:
        """Runs the layers that are left, bottom-up, on all pending tokens. Logits (w + 1, V) of the full model."""
        index = len(draft.tokens) - 1
        hidden, depth = draft.hidden[index], draft.depths[index]
        while depth < self.adapter.num_layers:
            rows = [hidden]
            while index > 0 and draft.depths[index - 1] == depth:
                index -= 1
                rows.insert(0, draft.hidden[index])
            hidden = torch.cat(rows, dim=1) if len(rows) > 1 else hidden
            target = draft.depths[index - 1] if index > 0 else self.adapter.num_layers
            hidden = self._run(hidden, depth, target, draft.position + index)
            depth = target
        self.work.add_head(hidden.shape[1])
        return self.adapter.read_head(hidden)[0]

    def take_work(self) -> Work:
        """The work since the last call."""
        work, self.work = self.work, Work()
        return work

    def _start_token(self, draft: Draft) -> None:
        """Embeds the newest pending token; its layers have not run yet."""
        token = torch.tensor([[draft.tokens[-1]]], device=self.adapter.device)
        draft.hidden.append(self.adapter.embed(token, draft.position + draft.num_drafted))
        draft.depths.append(0)

    def _find_exit(
        self,
        draft: Draft,
        exits: tuple[tuple[int, float], ...],
        decision: Decision,
        survival: float,
        features: np.ndarray | None,
    ) -> tuple[int, float, ExitSignals | None] | None:
        """Advances the newest token from exit to exit until one clears: (draft token, score, signals), or None."""
        for exit_layer, threshold in exits:
            self._advance(draft, exit_layer)
            logits = self.adapter.read_head(draft.hidden[-1])[0]
            self.work.add_head(1)
            if threshold <= 0:
                return int(logits.argmax(-1)), math.nan, None
            score_of = decision.score
            assert score_of is not None  # Decision checks it
            temperature = score_of.temperature(exit_layer, self.adapter.num_layers)
            signals = read_signals(logits, exit_layer, draft.num_drafted, temperature)
            self.work.num_exit_tests += 1
            score = score_of(signals, features)
            if (survival * score if decision.combine == "product" else score) >= threshold:
                return signals.draft_token, score, signals
        return None

    def _advance(self, draft: Draft, target: int) -> None:
        """Runs the newest token to depth `target`, and in the same calls every pending token that stands beside it."""
        depth = draft.depths[-1]
        first = len(draft.tokens) - 1
        while first > 0 and draft.depths[first - 1] < target:
            first -= 1
        rows = draft.hidden[first:]
        hidden = torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]
        hidden = self._run(hidden, depth, target, draft.position + first)
        for offset in range(len(rows)):
            draft.hidden[first + offset] = hidden[:, offset : offset + 1]
            draft.depths[first + offset] = target

    def _run(self, hidden: Tensor, first: int, last: int, position: int) -> Tensor:
        self.work.add_layers(hidden.shape[1], last - first)
        return self.adapter.run_layers(hidden, first, last, self.cache, position)


def read_signals(logits: Tensor, exit_layer: int, draft_index: int, temperature: float) -> ExitSignals:
    """Exit signals of one row of logits, in one transfer to the host. logits: (1, V)"""
    statistics = logit_statistics(logits)
    annealed = statistics.confidence if temperature == 1.0 else tempered_confidence(logits, temperature)
    values = torch.stack((statistics.confidence, annealed, statistics.entropy_nats, statistics.margin)).double()
    token, confidence, annealed_confidence, entropy, margin = torch.cat(
        (statistics.top_token.double(), values.flatten())
    ).tolist()
    return ExitSignals(
        exit_layer=exit_layer,
        draft_index=draft_index,
        draft_token=int(token),
        confidence=confidence,
        annealed_confidence=annealed_confidence,
        entropy_nats=entropy,
        margin=margin,
        noised_margin=margin,
        draft_probability=confidence,
    )
