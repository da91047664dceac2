"""Measures what work costs on this machine: live steps with random decisions, timed again and again, and a fit.

Whole steps are timed, not kernels, so that the table holds what a step really costs, overhead included. On one CPU
thread the clock is that thread's CPU time, which other programs on the machine lengthen less; elsewhere it is the wall
clock. The same steps are taken several times, far apart, each brought to one speed of the machine (`stopwatch`), and
the median of each counts.
"""

# S steps, W work counts

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.segments import CALLS_BEFORE_CAPTURE
from specbound.models.loading import LoadedModel
from specbound_controller.actions import THRESHOLDS, WIDTHS
from specbound_controller.costs import ROW_KNOTS, CostTable
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision, StepRecord
from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.plan import TreePlan
from specbound_controller.work import record_work
from specbound_profiling.costs.fit import fit_costs, held_out_seconds
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.costs.overheads import bookkeeping_seconds, overhead_seconds
from specbound_profiling.costs.stopwatch import Stopwatch, TimedSteps, joined
from specbound_profiling.recording.config import NUM_STEPS, auto_exit_layers

MIN_STEPS = 30
"""Fewest steps that a table is fitted on."""
OVERHEADS_SHARE, FIRST_ROUND_SHARE = 0.1, 0.9
"""Of the time: what the overheads may take, and the end of the first round. Where time is short it goes into more steps
rather than into taking the same ones again: prices come out as well, by simulation, and more of them are seen."""
NUM_ROUNDS = 3
"""Times that every step is taken, where there is time."""
TOKENS_PER_PROMPT = 64
PLAIN_SHARE, WIDE_SHARE, TREE_SHARE, TWO_EXITS_SHARE = 0.15, 0.08, 0.12, 0.15
"""How often a random decision does not draft, drafts more than any grid asks for (every price of rows must show),
drafts a tree, and reads two exits."""
WIDEST = 31
MOST_NODES, MOST_CHILDREN = 63, 4
"""Draft tokens of the largest random tree, and children of a node."""
KNOT_SHARE = 0.5
"""How often such a tree has a size whose rows have a price of their own."""


class RandomPolicy:
    """Random exits, widths and thresholds, those of a controller's grid above all; another decision at every step.

    The k-th prompt since `restart` always sees the same decisions.
    """

    needs_features = needs_full_signals = False

    def __init__(
        self,
        exit_layers: Sequence[int],
        seed: int,
        draft_vocabulary: DraftVocabulary | None = None,
        vocab_size: int | None = None,
    ) -> None:
        """vocab_size: of the model, to draft random trees of its tokens too; None drafts chains only."""
        self._exit_layers, self._seed, self._vocabulary = tuple(exit_layers), seed, draft_vocabulary
        self._stores: Stores | None = None
        if vocab_size is not None:
            best = np.random.default_rng(seed).integers(vocab_size, size=(vocab_size, MOST_CHILDREN), dtype=np.int32)
            self._stores = Stores(BigramTable(best))
        self.restart()

    def restart(self) -> None:
        """Begins with the first prompt's decisions again."""
        self._num_prompts = 0

    def repeat(self) -> None:
        """The last prompt's decisions come once more."""
        self._num_prompts -= 1

    def reset(self) -> None:
        """The next prompt's decisions."""
        self._rng = np.random.default_rng((self._seed, self._num_prompts))
        self._num_prompts += 1

    def decide(self, features: np.ndarray | None) -> Decision:
        """A decision that nothing decides."""
        return replace(self._draw(), draft_vocabulary=self._vocabulary)

    def _draw(self) -> Decision:
        rng, kind = self._rng, self._rng.random()
        if kind < PLAIN_SHARE:
            return Decision(0)
        if self._stores is not None and PLAIN_SHARE <= kind < PLAIN_SHARE + TREE_SHARE:
            return self._draw_tree(self._stores)
        if kind > 1.0 - WIDE_SHARE:  # without a test, which would end most of them long before
            exit_layer = int(rng.choice([e for e in self._exit_layers if e != LOOKUP_EXIT]))
            return Decision(int(rng.integers(max(WIDTHS) + 1, WIDEST, endpoint=True)), {exit_layer: 0.0})
        width = int(rng.choice(WIDTHS))
        num_exits = min(len(self._exit_layers), 2 if rng.random() < TWO_EXITS_SHARE else 1)
        exits = sorted(rng.choice(self._exit_layers, size=num_exits, replace=False).tolist())
        thresholds = {e: float(rng.choice((0.0, 0.0, *THRESHOLDS))) for e in exits}
        if LOOKUP_EXIT in thresholds:
            thresholds[LOOKUP_EXIT] = min(THRESHOLDS)  # any match
        return Decision(width, thresholds, AnnealedConfidence(0.5), "product" if rng.random() < 0.5 else "token")

    def _draw_tree(self, stores: Stores) -> Decision:
        """A tree of random tokens, of a size that has a price of its own, or spread over its logarithm."""
        num_nodes = int(np.exp(self._rng.uniform(0.0, np.log(MOST_NODES + 1))))
        if self._rng.random() < KNOT_SHARE:
            num_nodes = int(self._rng.choice(ROW_KNOTS[1:])) - 1
        rates = {"bigrams": self._rng.uniform(0.2, 0.8, MOST_CHILDREN).tolist()}
        return Decision(MOST_NODES, tree=TreePlan(num_nodes, rates, stores=stores, max_depth=MOST_NODES))

    def observe(self, record: StepRecord) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, slots=True, eq=False)
class CostMeasurement:
    """A cost table with the steps that it was fitted to."""

    table: CostTable
    work: np.ndarray
    """Counts of every step, in the order of `WORK_NAMES`. (S, W)"""
    seconds: np.ndarray
    """Median over the rounds, at one speed of the machine. (S,)"""
    predicted: np.ndarray
    """Seconds by a table that was fitted without the step. (S,)"""
    num_rounds: int


def measure_costs(
    loaded: LoadedModel,
    prompt_ids: Sequence[Tensor],
    num_steps: int = NUM_STEPS,
    seed: int = 0,
    max_seconds: float = 30.0,
    exit_layers: Sequence[int] | None = None,
    exactness: str = "token",
    draft_vocabulary: DraftVocabulary | None = None,
    is_compiled: bool = False,
) -> CostTable:
    """The cost table of this machine; see `cost_measurement`."""
    return cost_measurement(
        loaded, prompt_ids, num_steps, seed, max_seconds, exit_layers, exactness, draft_vocabulary, is_compiled
    ).table


def cost_measurement(
    loaded: LoadedModel,
    prompt_ids: Sequence[Tensor],
    num_steps: int = NUM_STEPS,
    seed: int = 0,
    max_seconds: float = 30.0,
    exit_layers: Sequence[int] | None = None,
    exactness: str = "token",
    draft_vocabulary: DraftVocabulary | None = None,
    is_compiled: bool = False,
) -> CostMeasurement:
    """Times live steps on some prompts and fits the cost table.

    Args:
        prompt_ids: (1, T) each; several lengths make the price of context visible.
        num_steps: steps to time, unless most of `max_seconds` is over before (at least 30 in any case).
        exit_layers: exits to draft from; None takes `auto_exit_layers`.
        exactness: kernels that the steps run on, `token` or `bitwise`.
        draft_vocabulary: tokens that exits read; None is all. What verification reads beyond an exit's rows then goes
            into the price of `steps`: every step verifies once.
        is_compiled: whether the steps run on captured segments (`SpecBoundDecoder(compile=True)`).
    """
    started = time.perf_counter()
    model = greedy_twin(loaded.model, has_end=False)
    decoder = SpecBoundDecoder(
        model, compression=loaded.compression, exactness=exactness, compile=is_compiled, exits=loaded.exits
    )
    exits = auto_exit_layers(decoder.adapter.num_layers) if exit_layers is None else tuple(exit_layers)
    decoder.policy = policy = RandomPolicy(exits, seed, draft_vocabulary, decoder.adapter.vocab_size)
    watch = Stopwatch(decoder)
    watch.decode(prompt_ids[0], TOKENS_PER_PROMPT)  # warm-up
    num_logits = None if draft_vocabulary is None else len(draft_vocabulary)
    overheads, their_probe_s = overhead_seconds(watch, exits, OVERHEADS_SHARE * max_seconds, num_logits)
    books = None if draft_vocabulary is not None else bookkeeping_seconds(watch, prompt_ids[0])
    if books is not None:
        overheads["steps"] = books
    first_started = time.perf_counter()
    first, taken = list[TimedSteps](), list[Tensor]()
    policy.restart()
    for ids in itertools.cycle(prompt_ids):
        for _ in range(CALLS_BEFORE_CAPTURE if is_compiled else 0):  # no price may hold the seconds of a capture
            watch.decode(ids, TOKENS_PER_PROMPT)
            policy.repeat()
        first.append(watch.decode(ids, TOKENS_PER_PROMPT))
        taken.append(ids)
        num_taken = sum(len(part.seconds) for part in first)
        is_late = time.perf_counter() - started > max_seconds * FIRST_ROUND_SHARE
        if num_taken >= (MIN_STEPS if is_late else num_steps):
            break
    rounds, round_s = [joined(first)], time.perf_counter() - first_started
    while len(rounds) < NUM_ROUNDS and time.perf_counter() - started + round_s <= max_seconds:
        policy.restart()
        rounds.append(joined([watch.decode(ids, TOKENS_PER_PROMPT) for ids in taken]))
    probe_s = float(np.median([timed.probe_s for timed in rounds]))
    alone = {name: each * probe_s / their_probe_s for name, each in overheads.items()}
    seconds = np.median([timed.at_speed(probe_s) for timed in rounds], axis=0)
    work = np.array([record_work(record, is_adaptive=False) for record in rounds[0].records])
    fingerprint = machine_fingerprint(decoder.adapter.device)
    table = fit_costs(work, seconds, loaded.compression, fingerprint, alone)
    table = replace(table, exactness=exactness, probe_s=probe_s)
    return CostMeasurement(table, work, seconds, held_out_seconds(work, seconds, alone), len(rounds))
