"""One step of bounded speculation with cached states: draft from shallow exits, verify with the deep layers.

Knows the adapter and one decision; knows nothing of policies, stopping rules or output formats.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.model.exit_modules import ExitPlace
from specbound.decoding.signals import logit_statistics, row_statistics, tempered_confidence
from specbound_controller.errors import InputError
from specbound_controller.lookup import LOOKUP_EXIT, NO_TOKEN, NOTHING, Lookup, lookup_confidence
from specbound_controller.records import Decision, ExitSignals


@dataclass(slots=True)
class Work:
    """Counts of one step's work: rows -> calls."""

    layer_calls: dict[int, int] = field(default_factory=dict)
    head_reads: dict[int, int] = field(default_factory=dict)
    num_exit_tests: int = 0
    num_learned_scores: int = 0

    def add_layers(self, rows: int, calls: int) -> None:
        if calls:
            self.layer_calls[rows] = self.layer_calls.get(rows, 0) + calls

    def add_head(self, rows: int) -> None:
        self.head_reads[rows] = self.head_reads.get(rows, 0) + 1


class DraftChoice(NamedTuple):
    """What exits draft where that is not simply their most probable tokens; one row of logits each."""

    token: Tensor
    """(n,) int64"""
    noised_margin: Tensor
    """(n,): best less second best processed score, sampling noise included."""
    probability: Tensor
    """(n,): of the token, after the logits processors."""


class DraftChooser(Protocol):
    """Chooses draft tokens as verification will choose them."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens after which drafting makes no sense."""

    def draft_token(self, logits: Tensor, drafted: list[int], head: DraftHead | None = None) -> int:
        """The token after `drafted` by an exit's logits (1, V), or (1, N) of a draft head, without its signals."""

    def choose_draft(self, logits: Tensor, drafted: list[int], head: DraftHead | None = None) -> DraftChoice | None:
        """The token after `drafted` by an exit's logits (1, V), or (1, N) of a draft head; None for the most probable
        one."""

    def look_up(self, drafted: list[int]) -> Lookup:
        """What the context says comes after `drafted`."""


@dataclass(slots=True)
class Draft:
    """Pending tokens of one step: the last committed token and the drafts after it.

    Depths never increase along the sequence, so that verification runs each layer once, on a growing suffix.
    """

    tokens: list[int]
    """The last committed token, then the draft tokens."""
    position: int
    """Position of the first pending token: every layer of the cache holds so many tokens before the step."""
    decision: Decision
    chooser: DraftChooser
    features: np.ndarray | None = None
    """Features of the step, where the score wants them."""
    verified: Tensor | None = None
    """The full model's last hidden state (1, 1, D) at the newest verified position, whose token is the first pending
    one; for trained exits."""
    final: Tensor | None = None
    """The same (1, w + 1, D) at the pending positions, once they are verified."""
    hidden: list[Tensor] = field(default_factory=list)
    """Hidden state of each pending token at its depth, (1, 1, D) each."""
    depths: list[int] = field(default_factory=list)
    """Layers that each pending token has run."""
    exit_layers: list[int] = field(default_factory=list)
    signals: list[ExitSignals | None] = field(default_factory=list)
    """Exit signals of each draft token; None where the threshold asked for no test."""
    scores: list[float] = field(default_factory=list)
    survival: float = 1.0
    """Product of the scores so far, under the product rule."""
    stop_reason: str = "off"
    work: Work = field(default_factory=Work)

    @property
    def num_drafted(self) -> int:
        return len(self.tokens) - 1

    def place(self, exit_layer: int) -> ExitPlace:
        """Where the newest token stands, at an exit."""
        return ExitPlace(exit_layer, self.verified, [self.num_drafted + 1])

    def checked_exits(self, num_layers: int) -> tuple[tuple[int, float], ...]:
        """The (exit layer, threshold) pairs to read, shallow to deep; none where the step does not draft."""
        exits = self.decision.exits() if self.decision.w_max > 0 else ()
        for exit_layer, _ in exits:
            if not 0 <= exit_layer < num_layers:
                raise InputError(
                    f"exit_layer must be in [0, {num_layers - 1}] for a {num_layers}-layer model, got {exit_layer}"
                )
        return exits

    def try_exit(
        self, logits: Tensor, exit_layer: int, threshold: float, num_layers: int, head: DraftHead | None = None
    ) -> bool:
        """Tests one exit of the newest token on its logits; where it clears, its token joins the draft.

        logits: (1, V), or (1, N) where a draft head was read.
        """
        self.work.add_head(1)
        if threshold <= 0:
            self._add(self.chooser.draft_token(logits, self.tokens[1:], head), exit_layer, math.nan, None)
            return True
        score_of = self.decision.score
        assert score_of is not None  # Decision checks it
        temperature = score_of.temperature(exit_layer, num_layers)
        choice = self.chooser.choose_draft(logits, self.tokens[1:], head)
        lookup = self.chooser.look_up(self.tokens[1:]) if score_of.is_learned else NOTHING
        signals = read_signals(logits, exit_layer, self.num_drafted, temperature, choice, lookup, head)
        self.work.num_exit_tests += 1
        return self._offer(signals, threshold)

    def try_lookup(self, threshold: float) -> bool:
        """Tests exit layer 0: where the context's token clears, it joins the draft."""
        return self._offer(lookup_signals(self.chooser.look_up(self.tokens[1:]), self.num_drafted), threshold)

    def _offer(self, signals: ExitSignals, threshold: float) -> bool:
        """Scores an exit's token; where it clears the threshold, it joins the draft."""
        score_of = self.decision.score
        assert score_of is not None  # Decision checks it
        self.work.num_learned_scores += score_of.is_learned
        score = score_of(signals, self.features) if signals.draft_token != NO_TOKEN else 0.0
        survival = self.survival * score
        if (survival if self.decision.combine == "product" else score) < threshold:
            return False
        self.survival = survival
        self._add(signals.draft_token, signals.exit_layer, score, signals)
        return True

    def _add(self, token: int, exit_layer: int, score: float, signals: ExitSignals | None) -> None:
        self.tokens.append(token)
        self.exit_layers.append(exit_layer)
        self.signals.append(signals)
        self.scores.append(score)
        if token in self.chooser.eos_token_ids:
            self.stop_reason = "eos"
        elif self.num_drafted >= self.decision.w_max:
            self.stop_reason = "width"


class StepRunner:
    """Runs draft and verification of one sequence on one cache."""

    def __init__(self, adapter: ModelAdapter, cache: DecodeCache) -> None:
        self.adapter, self.cache = adapter, cache

    def run(self, draft: Draft) -> Tensor:
        """Drafts and verifies: the full model's logits (w + 1, V)."""
        self.run_draft(draft)
        return self.verify(draft)

    def run_draft(self, draft: Draft) -> None:
        """Adds up to `w_max` draft tokens after the last committed one."""
        exits = draft.checked_exits(self.adapter.num_layers)
        head = self.adapter.draft_head(draft.decision.draft_vocabulary) if exits else None
        self._start_token(draft)
        while exits and draft.stop_reason == "off":
            if self._find_exit(draft, exits, head):
                self._start_token(draft)
            else:
                draft.stop_reason = "depth"

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
            hidden = self._run(draft, hidden, depth, target, index)
            depth = target
        draft.work.add_head(hidden.shape[1])
        draft.final = hidden
        return self.adapter.read_head(hidden)[0]

    def _start_token(self, draft: Draft) -> None:
        """Embeds the newest pending token; its layers have not run yet."""
        draft.hidden.append(self.adapter.embed_token(draft.tokens[-1], draft.position + draft.num_drafted))
        draft.depths.append(0)

    def _find_exit(self, draft: Draft, exits: tuple[tuple[int, float], ...], head: DraftHead | None) -> bool:
        """Advances the newest token from exit to exit until one clears and drafts the next; False if none does."""
        for exit_layer, threshold in exits:
            if exit_layer == LOOKUP_EXIT:
                if draft.try_lookup(threshold):
                    return True
                continue
            self._advance(draft, exit_layer)
            logits = self.adapter.read_exit(draft.hidden[-1], head, draft.place(exit_layer))[0]
            if draft.try_exit(logits, exit_layer, threshold, self.adapter.num_layers, head):
                return True
        return False

    def _advance(self, draft: Draft, target: int) -> None:
        """Runs the newest token to depth `target`, and in the same calls every pending token that stands beside it."""
        depth = draft.depths[-1]
        first = len(draft.tokens) - 1
        while first > 0 and draft.depths[first - 1] < target:
            first -= 1
        rows = draft.hidden[first:]
        if len(rows) == 1:
            draft.hidden[first] = self._run(draft, rows[0], depth, target, first)
        else:
            draft.hidden[first:] = self._run(draft, torch.cat(rows, dim=1), depth, target, first).split(1, dim=1)
        draft.depths[first:] = [target] * len(rows)

    def _run(self, draft: Draft, hidden: Tensor, first: int, last: int, index: int) -> Tensor:
        draft.work.add_layers(hidden.shape[1], last - first)
        return self.adapter.run_layers(hidden, first, last, self.cache, draft.position + index)


def lookup_signals(lookup: Lookup, draft_index: int) -> ExitSignals:
    """Exit signals of what the context says; there are no logits (`ExitScore` says what stands in their places)."""
    confidence = lookup_confidence(lookup.length)
    return ExitSignals(
        exit_layer=LOOKUP_EXIT,
        draft_index=draft_index,
        draft_token=lookup.token,
        confidence=confidence,
        annealed_confidence=confidence,
        entropy_nats=lookup.entropy_nats,
        margin=lookup.margin,
        noised_margin=lookup.recency,
        draft_probability=lookup.probability,
        lookup_token=lookup.token,
        lookup_length=lookup.length,
        lookup_probability=lookup.probability,
    )


def read_signals(
    logits: Tensor,
    exit_layer: int,
    draft_index: int,
    temperature: float,
    choice: DraftChoice | None = None,
    lookup: Lookup = NOTHING,
    head: DraftHead | None = None,
) -> ExitSignals:
    """Exit signals of one row of logits, in one transfer to the host. logits: (1, V), or (1, N) of a draft head

    Args:
        choice: the draft token where it is not simply the most probable one.
        lookup: what the context says, where the score reads it.
        head: what the logits were read by, where it was not the whole head.
    """
    read = _host_signals if logits.device.type == "cpu" else _device_signals
    confidence, annealed_confidence, entropy, margin, token, noised_margin, probability = read(
        logits, temperature, choice
    )
    return ExitSignals(
        exit_layer=exit_layer,
        draft_index=draft_index,
        draft_token=int(token) if head is None or choice is not None else head.token(int(token)),
        confidence=confidence,
        annealed_confidence=annealed_confidence,
        entropy_nats=entropy,
        margin=margin,
        noised_margin=noised_margin,
        draft_probability=probability,
        lookup_token=lookup.token,
        lookup_length=lookup.length,
        lookup_probability=lookup.probability,
    )


def _host_signals(logits: Tensor, temperature: float, choice: DraftChoice | None) -> Sequence[float]:
    """Confidence, annealed confidence, entropy, margin, token, noised margin, probability. logits: (1, V)"""
    own = row_statistics(logits)
    annealed = own.confidence if temperature == 1.0 else float(tempered_confidence(logits, temperature))
    chosen = (own.top_token, own.margin, own.confidence) if choice is None else map(float, choice)
    return (own.confidence, annealed, own.entropy_nats, own.margin, *chosen)


def _device_signals(logits: Tensor, temperature: float, choice: DraftChoice | None) -> Sequence[float]:
    """The same in one transfer to the host."""
    own = logit_statistics(logits)
    annealed = own.confidence if temperature == 1.0 else tempered_confidence(logits, temperature)
    if choice is None:
        choice = DraftChoice(own.top_token, own.margin, own.confidence)
    parts = (own.confidence, annealed, own.entropy_nats, own.margin, *choice)
    values: list[float] = torch.cat([part.double() for part in parts]).tolist()
    return values
