"""The trace of one prompt: what the full model wrote, and what every exit would have drafted at each position.

Plain numpy values; knows no model, no file format and no policy.
"""

# P positions (generated tokens), E exit layers, K temperatures

from bisect import bisect_left
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np

from specbound_controller.errors import InputError
from specbound_controller.lookup import LOOKUP_EXIT, NO_TOKEN, NOTHING, Lookup, lookup_length
from specbound_controller.records import ExitSignals
from specbound_profiling.log.branches import Branches
from specbound_profiling.log.later import Later

DEFAULT_TEMPERATURES = tuple(round(1.0 + 0.1 * k, 1) for k in range(11))
"""Layer temperatures whose confidence a log holds: 1.0 to 2.0 in steps of 0.1."""

_PER_DRAFT = frozenset(each.name for each in fields(Later))


@dataclass(frozen=True, slots=True, eq=False)
class PromptTrace:
    """One prompt's continuation. Row p of every array is the prediction of generated token p, on the true prefix.

    Row 0 is predicted in prefill. A step that starts with i tokens generated (i >= 1) drafts positions i, i + 1, ...
    """

    prompt_id: str
    """Unique within a log."""
    task: str
    """Kind of content."""
    compression: str
    """How the weights were held."""
    prompt_length: int
    """Tokens of the prompt."""
    tokens: np.ndarray
    """The full model's own continuation, after cuts. (P,) int64"""
    exit_layers: tuple[int, ...]
    """Recorded exit layers, shallow to deep; 0 is what the context says (`lookup`). (E,)"""
    temperatures: tuple[float, ...]
    """Temperatures of `confidence_at` and `label_nll_at`, ascending. (K,)"""
    draft_token: np.ndarray
    """Token that the exit would draft; `NO_TOKEN` where the context says nothing. (P, E) int64"""
    is_accepted: np.ndarray
    """Whether it equals `tokens`. (P, E) bool"""
    confidence: np.ndarray
    """Largest softmax probability; at exit layer 0 `lookup_confidence`. (P, E) float32"""
    entropy_nats: np.ndarray
    """(P, E) float32"""
    margin: np.ndarray
    """Largest minus second largest log-probability. (P, E) float32"""
    noised_margin: np.ndarray
    """The same after sampling noise; equal to `margin` under greedy decoding. (P, E) float32"""
    draft_probability: np.ndarray
    """Probability of the draft token. (P, E) float32"""
    confidence_at: np.ndarray
    """Largest softmax probability at each temperature. (P, E, K) float32"""
    label_nll_at: np.ndarray
    """-log probability of the full model's token at each temperature, nats; nan at exit layer 0, and where the token
    lies outside the draft vocabulary. (P, E, K) float32"""
    full_confidence: np.ndarray
    """Full model's largest probability. (P,) float32"""
    full_entropy_nats: np.ndarray
    """(P,) float32"""
    full_margin: np.ndarray
    """(P,) float32"""
    is_final_eos: bool
    """Whether the last token is an end-of-sequence token."""
    is_loop_cut: bool
    """Whether the continuation was cut because it repeats itself."""
    token_limit: int | None = None
    """`max_new_tokens` that decoding ran under; None means P. A cut loop always has P."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end a draft; the last token of a trace with `is_final_eos` counts in any case."""
    top1_token: np.ndarray | None = None
    """Most probable token of the exit before sampling noise; None means `draft_token`. (P, E) int64"""
    branches: Branches | None = None
    """Roll-outs after wrong drafts, where there are any."""
    seed: int | None = None
    """Seed of the sampling noise; None under greedy decoding."""
    sampling_temperature: float = 0.0
    """What divided the logits before sampling; 0 under greedy decoding."""
    prompt_tokens: np.ndarray | None = None
    """What sources of draft trees saw before the first position; None in logs of schema 2. (T,) int64"""
    best_tokens: np.ndarray | None = None
    """The full model's most probable tokens at each position, the best first; None in logs of schema 2. (P, 8) int64"""
    candidates: np.ndarray | None = None
    """Tokens that each exit would add to a tree, the best first, `NO_TOKEN` at exit layer 0; None in logs of schema 2.
    (P, E, C) int64"""
    candidate_chances: np.ndarray | None = None
    """Their probabilities, under sampling with the position's noise added before; 0 at exit layer 0. (P, E, C) float32
    """
    later: tuple[Later, ...] = ()
    """What the exits say where a position is the second draft of its step, the third, ...: of trained exits that read
    the full model's verified state. Empty where they say the same of every draft."""

    def __post_init__(self) -> None:
        num_positions, num_exits = len(self.tokens), len(self.exit_layers)
        expected = {
            (num_positions, num_exits): (
                "draft_token",
                "is_accepted",
                "confidence",
                "entropy_nats",
                "margin",
                "noised_margin",
                "draft_probability",
            ),
            (num_positions, num_exits, len(self.temperatures)): ("confidence_at", "label_nll_at"),
            (num_positions,): ("full_confidence", "full_entropy_nats", "full_margin"),
        }
        if self.best_tokens is not None and len(self.best_tokens) != num_positions:
            raise ValueError(f"best_tokens of {self.prompt_id} must be of {num_positions} positions")
        if self.prompt_tokens is not None and len(self.prompt_tokens) != self.prompt_length:
            raise ValueError(f"prompt_tokens of {self.prompt_id} must be {self.prompt_length} tokens")
        for shape, names in expected.items():
            for name in names:
                for said in (self, *self.later) if name in _PER_DRAFT else (self,):
                    if getattr(said, name).shape != shape:
                        raise ValueError(f"{name} of {self.prompt_id} must be {shape}, got {getattr(said, name).shape}")
        if num_positions < 1:
            raise ValueError(f"a trace must hold at least one position, got none for {self.prompt_id}")

    @property
    def num_positions(self) -> int:
        """Generated tokens P, the one of prefill included."""
        return len(self.tokens)

    @property
    def length_limit(self) -> int:
        """`max_new_tokens` of an equal live run."""
        if self.token_limit is None or self.is_loop_cut:
            return self.num_positions
        return max(self.token_limit, self.num_positions)

    @property
    def eos_tokens(self) -> frozenset[int]:
        """All tokens known to end a draft."""
        return frozenset(self.eos_token_ids) | ({int(self.tokens[-1])} if self.is_final_eos else frozenset())

    def said(self, draft_index: int) -> "PromptTrace | Later":
        """What the exits say where a position is a step's first draft (0), second, ...; as of the last one that was
        recorded beyond it."""
        index = min(draft_index, len(self.later))
        return self.later[index - 1] if index else self

    def without_rollouts(self) -> "PromptTrace":
        """The same without what roll-outs say; what the context says after a wrong lookup stays."""
        if self.branches is None or self.exit_layers[0] != LOOKUP_EXIT:
            return replace(self, branches=None)
        return replace(self, branches=self.branches.lookups_only())

    @property
    def knows_trees(self) -> bool:
        """Whether draft trees can be replayed on it."""
        return self.prompt_tokens is not None and self.best_tokens is not None

    def exit_index(self, exit_layer: int) -> int:
        """Column of an exit layer. Raises InputError where it was not recorded."""
        if exit_layer not in self.exit_layers:
            raise InputError(
                f"exit_layer must be one of the log's {self.exit_layers}, got {exit_layer}; profile with --exit-layers"
            )
        return self.exit_layers.index(exit_layer)

    @property
    def lookups(self) -> np.ndarray:
        """Length, probability and recency of what the context says at each position; zeros where it was not recorded.
        (P, 3) float64"""
        if self.exit_layers[0] != LOOKUP_EXIT:
            return np.zeros((self.num_positions, 3))
        columns = (lookup_length(self.confidence[:, 0]), self.draft_probability[:, 0], self.noised_margin[:, 0])
        return np.column_stack([column.astype(np.float64) for column in columns])

    def lookup_at(self, position: int) -> Lookup:
        """What the context said comes at a position, as features read it."""
        if self.exit_layers[0] != LOOKUP_EXIT:
            return NOTHING
        return NOTHING._replace(
            length=int(lookup_length(self.confidence[position, 0])),
            probability=float(self.draft_probability[position, 0]),
            recency=float(self.noised_margin[position, 0]),
        )

    def signals(self, position: int, exit_index: int, draft_index: int, temperature: float) -> ExitSignals:
        """What the exit said at a position, as a live decoder would hand it to a score."""
        return self._signals(self.said(draft_index), position, exit_index, draft_index, temperature)

    def branch_signals(self, row: int, exit_index: int, draft_index: int, temperature: float) -> ExitSignals:
        """The same at a row of the branches."""
        assert self.branches is not None
        return self._signals(self.branches, row, exit_index, draft_index, temperature)

    def _signals(
        self, source: "PromptTrace | Branches | Later", row: int, exit_index: int, draft_index: int, temperature: float
    ) -> ExitSignals:
        at = (row, exit_index)
        exit_layer = self.exit_layers[exit_index]
        # A lookup has one confidence for all temperatures, those outside the grid too.
        annealed = source.confidence[at]
        if exit_layer != LOOKUP_EXIT:
            annealed = interpolate_confidence(source.confidence_at[at], self.temperatures, temperature)
        lookup_token, length, probability = NO_TOKEN, 0, 0.0
        if self.exit_layers[0] == LOOKUP_EXIT:
            lookup_token, length = int(source.draft_token[row, 0]), int(lookup_length(source.confidence[row, 0]))
            probability = float(source.draft_probability[row, 0])
        return ExitSignals(
            exit_layer=exit_layer,
            draft_index=draft_index,
            draft_token=int(source.draft_token[at]),
            confidence=float(source.confidence[at]),
            annealed_confidence=float(annealed),
            entropy_nats=float(source.entropy_nats[at]),
            margin=float(source.margin[at]),
            noised_margin=float(source.noised_margin[at]),
            draft_probability=float(source.draft_probability[at]),
            lookup_token=lookup_token,
            lookup_length=length,
            lookup_probability=probability,
        )


def interpolate_confidence(
    confidence_at: np.ndarray, temperatures: tuple[float, ...], temperature: float
) -> np.ndarray:
    """Confidence at any temperature of the grid's range, linear in the logarithm. (..., K) -> (...)

    Exact at grid points; between two that stand 0.1 apart it is off by less than 0.005 from temperature 1 on, and by
    less than 0.01 from 0.5 on (the demonstration model's exits).

    Raises:
        InputError: the temperature lies outside the grid.
    """
    left, right, share = _between(temperatures, temperature)
    if share == 0.0:
        return confidence_at[..., left]
    tiny = np.finfo(np.float32).tiny
    low, high = (np.log(np.maximum(confidence_at[..., k], tiny)) for k in (left, right))
    between: np.ndarray = np.exp(low + share * (high - low))
    return between


@lru_cache(maxsize=256)
def _between(temperatures: tuple[float, ...], temperature: float) -> tuple[int, int, float]:
    """The grid points around a temperature, and the way from the left one to the right one, 0 to 1."""
    first, last = temperatures[0], temperatures[-1]
    if not first - 1e-9 <= temperature <= last + 1e-9:
        raise InputError(
            f"a layer temperature must be in [{first}, {last}], the log's grid, got {temperature:.4g}; "
            "use a smaller alpha or profile with a wider grid"
        )
    right = min(max(bisect_left(temperatures, temperature), 1), len(temperatures) - 1)
    left = max(right - 1, 0)
    share = 0.0 if right == left else (temperature - temperatures[left]) / (temperatures[right] - temperatures[left])
    if share > 1 - 1e-9:
        return right, right, 0.0
    return left, right, share if share >= 1e-9 else 0.0
