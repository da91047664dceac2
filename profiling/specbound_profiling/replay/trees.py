"""One step of a draft tree read off a trace: the tree that the decoder would have grown, and the path that is right.

Sources that run no layer are asked as the decoder asks them, on every path, so that their trees are exact. An exit's
tokens are known along the true text; after a wrong node it is taken to say what it said at that place of the true text,
and what the tree gains or loses by that is an estimate.
"""

# P positions, C candidates of an exit

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from specbound.decoding.loop import step_record
from specbound.decoding.tree_step import TreeDraft
from specbound_controller.errors import InputError
from specbound_controller.lookup import LOOKUP_EXIT, NO_TOKEN
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision, StepRecord
from specbound_controller.sources.of_sequence import SequenceSources
from specbound_controller.sources.source import TAIL, DraftSource
from specbound_controller.trees.exit_growth import ExitGrowth
from specbound_controller.trees.growth import Children, grow
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.tree import ROOT, DraftTree
from specbound_profiling.log.later import Later
from specbound_profiling.log.trace import PromptTrace, interpolate_confidence
from specbound_profiling.replay.simulate import SimulatedStep


def require_trees(traces: Sequence[PromptTrace]) -> None:
    """Raises InputError where a log says too little to replay draft trees."""
    if not all(trace.knows_trees for trace in traces):
        raise InputError("draft trees need a log of schema 3, got one of schema 2; profile again")


class TreeReplay:
    """The draft trees of one prompt. Steps are asked for in the order of the text."""

    def __init__(self, trace: PromptTrace, num_layers: int) -> None:
        """Raises InputError where the log says too little."""
        require_trees([trace])
        assert trace.prompt_tokens is not None and trace.best_tokens is not None  # just checked
        self.trace, self.num_layers = trace, num_layers
        self.tokens: list[int] = [*trace.prompt_tokens.tolist(), *trace.tokens.tolist()]
        self.eos_tokens = trace.eos_tokens
        self._best: list[list[int]] = trace.best_tokens.tolist()
        self._sources = SequenceSources()
        self._num_verified: int | None = None
        """Positions that sources were shown, or that came before them; None where none was asked."""

    def step(self, start: int, decision: Decision, has_full_signals: bool = False) -> SimulatedStep:
        """What a step would do, from `start` >= 1 tokens generated, by a decision that has a tree."""
        plan = decision.tree
        assert plan is not None  # else it were a chain
        if plan.exit_layer != LOOKUP_EXIT:
            return self._with_exit(plan, start, decision, has_full_signals)
        tree = self.grow(plan, start, decision.w_max)
        draft = TreeDraft(tree, self.trace.prompt_length + start - 1, decision)
        self._verify(draft)
        record = self._record(draft, start, has_full_signals)
        return SimulatedStep(record, record)

    def grow(
        self,
        plan: TreePlan,
        start: int,
        most_depth: int,
        known: dict[tuple[int, ...], Children] | None = None,
    ) -> DraftTree:
        """The tree of sources that run no layer. known: as `trees.growth.grow` takes it."""
        tail, sources, most = self._grown_after(plan, start, most_depth)
        if plan.score is None:
            return grow(tail, sources, plan, most, self.eos_tokens, known)
        recent = self._sources.watch(tuple(plan.rates)).of(plan.score.sources)
        return grow(tail, sources, plan, most, self.eos_tokens, recent=recent)

    def true_run(self, plan: TreePlan, start: int, most: int) -> int:
        """True tokens in a row, at most so many, that the plan's sources propose to a step which begins at `start`."""
        tail, sources, most = self._grown_after(plan, start, most)
        end = self.trace.prompt_length + start
        for length, token in enumerate(self.tokens[end : end + most]):
            tail_now = tuple(tail[-TAIL:])
            if not any(token == candidate for source in sources for candidate, _ in source.propose(tail_now)):
                return length
            tail.append(token)
        return min(most, len(self.tokens) - end)

    def _grown_after(self, plan: TreePlan, start: int, most_depth: int) -> tuple[list[int], list[DraftSource], int]:
        """Newest tokens, sources, and the depth that is left."""
        end = self.trace.prompt_length + start
        self._show_until(start)
        sources = self._sources.asked(tuple(plan.rates), plan.stores, self.tokens, end)
        return self.tokens[max(0, end - TAIL) : end], sources, min(most_depth, self.trace.length_limit - start - 1)

    def _show_until(self, start: int) -> None:
        """Shows sources what the steps before one have verified."""
        first = self.trace.prompt_length - 1
        for position in range(start if self._num_verified is None else self._num_verified, start):
            self._sources.verified(self.tokens, first + position, self._best[position])
        self._num_verified = start

    def _with_exit(self, plan: TreePlan, start: int, decision: Decision, has_full_signals: bool) -> SimulatedStep:
        tail, sources, most_depth = self._grown_after(plan, start, decision.w_max)
        growth = ExitGrowth(tail, sources, plan, most_depth, self.eos_tokens)
        draft = TreeDraft(growth.tree, self.trace.prompt_length + start - 1, decision, growth=growth)
        proposals, known = self._exit_proposals(plan), None
        on_path = {ROOT: True}
        while growth.frontier:
            draft.work.add_layers(len(growth.frontier), plan.exit_layer)
            draft.work.add_head(len(growth.frontier))
            draft.work.num_exit_tests += len(growth.frontier)
            tree = growth.tree
            for node in growth.frontier[: 0 if growth.frontier[0] == ROOT else None]:
                place = start + tree.depths[node] - 1
                right = place < self.trace.num_positions and int(self.trace.tokens[place]) == tree.tokens[node]
                on_path[node] = on_path[tree.parents[node]] and right
            if known is None and not all(on_path[node] for node in growth.frontier):
                known = self._known_so_far(draft, start, has_full_signals)
            last = self.trace.num_positions - 1
            places = [(tree.depths[node], min(start + tree.depths[node], last)) for node in growth.frontier]
            growth.take([proposals[min(depth, len(proposals) - 1)][row] for depth, row in places])
        self._verify(draft)
        record = self._record(draft, start, has_full_signals)
        return SimulatedStep(record, record if known is None else replace(known, num_emitted=record.num_emitted))

    def _exit_proposals(self, plan: TreePlan) -> list[list[list[tuple[int, float]]]]:
        """What the plan's exit proposes as a step's first draft, second, ..., at each position of the true text, the
        best first."""
        trace = self.trace
        if trace.candidates is None or trace.candidate_chances is None:
            raise InputError("trees of an exit need a log of schema 3 that holds its candidates; profile again")
        if plan.exit_breadth > trace.candidates.shape[-1]:
            held = trace.candidates.shape[-1]
            raise InputError(f"exit_breadth must be <= {held}, what the log holds, got {plan.exit_breadth}")
        return [self._proposed(plan, trace.said(draft_index)) for draft_index in range(1 + len(trace.later))]

    def _proposed(self, plan: TreePlan, said: PromptTrace | Later) -> list[list[tuple[int, float]]]:
        trace, index = self.trace, self.trace.exit_index(plan.exit_layer)
        assert said.candidates is not None and said.candidate_chances is not None  # the caller looks
        tokens, chances = said.candidates[:, index], said.candidate_chances[:, index].astype(np.float64)
        if plan.alpha != 0:
            if trace.sampling_temperature > 0:
                raise InputError(f"alpha must be 0 in trees on a sampled log, got {plan.alpha}")
            temperature = AnnealedConfidence(plan.alpha).temperature(plan.exit_layer, self.num_layers)
            best = interpolate_confidence(said.confidence_at[:, index], trace.temperatures, temperature)
            chances = best[:, None] * (chances / chances[:, :1]) ** (1.0 / temperature)
        rows = zip(tokens[:, : plan.exit_breadth].tolist(), chances.tolist(), strict=True)
        return [[pair for pair in zip(*row, strict=False) if pair[0] != NO_TOKEN] for row in rows]

    def _known_so_far(self, draft: TreeDraft, start: int, has_full_signals: bool) -> StepRecord:
        """The step, had its tree ended with the nodes that have run to the exit by now."""
        tree, count = copy.deepcopy(draft.tree), draft.num_run
        tree.cut(count)
        twin = TreeDraft(tree, draft.position, draft.decision)
        twin.work.layer_calls, twin.work.head_reads = dict(draft.work.layer_calls), dict(draft.work.head_reads)
        twin.work.num_exit_tests = draft.work.num_exit_tests
        twin.work.add_layers(count, self.num_layers - draft.depth)
        twin.work.add_head(count)
        return self._record(twin, start, has_full_signals)

    def _verify(self, draft: TreeDraft) -> None:
        """Books what the pass of the deep layers over all nodes does."""
        count = len(draft.tree.tokens)
        if draft.num_run < count:
            draft.work.add_layers(count - draft.num_run, draft.depth)
        draft.work.add_layers(count, self.num_layers - draft.depth)
        draft.work.add_head(count)

    def _record(self, draft: TreeDraft, start: int, has_full_signals: bool) -> StepRecord:
        path, num_emitted = right_path(draft.tree, self.trace, start)
        context_length = self.trace.prompt_length + start
        record = step_record(draft, len(path), num_emitted, context_length, None, 0.0)
        last, trace = start + num_emitted - 1, self.trace
        full = (trace.full_confidence, trace.full_entropy_nats, trace.full_margin)
        signals = [float(values[last]) if has_full_signals else math.nan for values in full]
        return replace(
            record,
            full_confidence=signals[0],
            full_entropy_nats=signals[1],
            full_margin=signals[2],
            seconds=math.nan,
            sources=tuple(draft.tree.sources[1:]),
            parents=tuple(draft.tree.parents[1:]),
            path=tuple(path),
        )


def right_path(tree: DraftTree, trace: PromptTrace, start: int) -> tuple[list[int], int]:
    """The nodes of a tree that are right, in order, and how many tokens its step emits."""
    path: list[int] = []
    node, num_emitted = ROOT, 0
    while True:
        token = int(trace.tokens[start + num_emitted])
        num_emitted += 1
        node = tree.child(node, token)
        if node >= 0:
            path.append(node)
        if node < 0 or start + num_emitted >= trace.num_positions:
            return path, num_emitted
