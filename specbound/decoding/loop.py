"""The decode loop: prefill, then steps until every sequence has ended. Holds all state of one call.

Knows policies and step records; knows nothing of arguments and outputs of `generate`.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from specbound.decoding.batch import BatchRunner
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.request import Batch, Request
from specbound.decoding.sequence import Sequence
from specbound.decoding.signals import row_statistics
from specbound.decoding.stats import DecodeStats
from specbound.decoding.step import Draft, StepRunner
from specbound.decoding.together import Together
from specbound.decoding.tree_step import TreeDraft, TreeRunner
from specbound_controller.features import FeatureState
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.records import Decision, StepRecord
from specbound_controller.trees.growth import cut_together
from specbound_controller.trees.tree import DraftTree

NEW_TOKENS_CAPACITY = 256
"""Room for new tokens that a cache begins with; it doubles when full."""

NO_DRAFT = Decision(w_max=0)

OnStep = Callable[[StepRecord, int], None]
"""Called after every step of every sequence with its record and its row."""


class Runner:
    """Drafts and verifies one step of all rows of a cache, chains and trees."""

    def __init__(self, adapter: ModelAdapter, cache: DecodeCache) -> None:
        self.adapter, self.cache = adapter, cache
        self._trees = TreeRunner(adapter, cache)
        self._one, self._several = StepRunner(adapter, cache), BatchRunner(adapter, cache)

    def run(self, drafts: SequenceOf[Draft | TreeDraft]) -> list[Tensor]:
        """Fills the chains; the full model's logits (w + 1, V) at the pending positions or nodes of each draft."""
        if len(drafts) == 1:
            (draft,) = drafts
            return [self._one.run(draft)] if isinstance(draft, Draft) else self._trees.run([draft], [0])
        chains = [(slot, draft) for slot, draft in enumerate(drafts) if isinstance(draft, Draft)]
        trees = [(slot, draft) for slot, draft in enumerate(drafts) if isinstance(draft, TreeDraft)]
        _cut([draft for _, draft in trees if draft.growth is None])
        logits: dict[int, Tensor] = {}
        if trees:
            trees, chains = self._with_plain(trees, chains)
        if chains:
            slots, own = [slot for slot, _ in chains], [draft for _, draft in chains]
            logits |= zip(slots, self._several.run(own, slots), strict=True)
        if trees:
            slots, grown = [slot for slot, _ in trees], [draft for _, draft in trees]
            logits |= zip(slots, self._trees.run(grown, slots), strict=True)
            for slot, tree in trees:
                _hand_back(tree, drafts[slot])
        return [logits[slot] for slot in range(len(drafts))]

    @staticmethod
    def _with_plain(
        trees: list[tuple[int, TreeDraft]], chains: list[tuple[int, Draft]]
    ) -> tuple[list[tuple[int, TreeDraft]], list[tuple[int, Draft]]]:
        """Rows that draft nothing join the trees' calls, as roots: one pass of the layers for all."""
        roots = [(slot, _root(draft)) for slot, draft in chains if draft.decision.w_max == 0]
        return sorted([*trees, *roots], key=_slot), [(s, draft) for s, draft in chains if draft.decision.w_max > 0]

    def keep(self, draft: Draft | TreeDraft, record: StepRecord, slot: int, num_tokens: int) -> None:
        """Rolls a row back to its committed tokens, the newest of which has not run yet."""
        if record.path:
            self.cache.keep_path(draft.position, [0, *record.path], slot)
        self.cache.truncate(num_tokens - 1, slot)


def _slot(placed: tuple[int, TreeDraft]) -> int:
    return placed[0]


def _cut(drafts: SequenceOf[TreeDraft]) -> None:
    """Cuts trees whose nodes are to pay together."""
    own = [draft for draft in drafts if draft.plan.shared_costs]
    if own:
        cut_together([draft.tree for draft in own], own[0].plan.shared_costs)


def _root(draft: Draft) -> TreeDraft:
    """A chain without drafts as a tree."""
    return TreeDraft(DraftTree(list(draft.tokens)), draft.position, draft.decision)


def _hand_back(tree: TreeDraft, draft: Draft | TreeDraft) -> None:
    """What a step left in a tree that stood for a draft."""
    draft.final, draft.work = tree.final, tree.work


class Row:
    """One sequence with the policy that drafts for it."""

    def __init__(self, index: int, request: Request, policy: Policy, compression: str, device: torch.device) -> None:
        self.index, self.policy = index, policy
        self.sequence = Sequence(request, device)
        self.stats = DecodeStats()
        self.features = FeatureState(compression) if policy.needs_features else None
        self.verified: Tensor | None = None
        """The full model's last hidden state (1, 1, D) at the newest verified position, for trained exits."""
        self.is_paused = False
        """No draft is wanted, whatever the policy: it is neither asked nor told."""

    def begin(self, logits: Tensor) -> None:
        """Takes the token that prefill yields. logits: (1, V)"""
        self.sequence.commit_token(logits)
        self.begin_steps()

    def begin_steps(self) -> None:
        """Makes policy and features ready, the first token being there."""
        self.policy.reset()
        if self.features is not None:
            self.features.reset(len(self.sequence.tokens), self.sequence.request.sampling_temperature)
        self.stats.num_tokens += 1

    def new_draft(self) -> Draft | TreeDraft:
        """A draft by the policy's decision, its width clipped to the tokens still wanted, the bonus token left out."""
        tokens = self.sequence.tokens
        if self.is_paused:
            return Draft([tokens[-1]], len(tokens) - 1, NO_DRAFT, self.sequence, None, self.verified)
        vector = self.features.vector(self.sequence.look_up([])) if self.features is not None else None
        decision = bounded(self.policy.decide(vector), self.sequence.limit - len(tokens) - 1)
        if decision.tree is None:
            return Draft([tokens[-1]], len(tokens) - 1, decision, self.sequence, vector, self.verified)
        position = len(tokens) - 1
        if decision.tree.exit_layer == LOOKUP_EXIT:
            return TreeDraft(self.sequence.grow_tree(decision.tree, decision.w_max), position, decision, vector)
        growth = self.sequence.begin_tree(decision.tree, decision.w_max)
        return TreeDraft(growth.tree, position, decision, vector, growth, self.sequence, self.verified)

    def drop_beyond_end(self) -> None:
        """Takes tokens out of the counts that other rows' criteria have cut off."""
        dropped = self.stats.num_tokens - self.sequence.num_new_tokens
        self.stats.num_tokens -= dropped
        self.stats.num_step_tokens -= dropped

    def finish_step(self, draft: Draft | TreeDraft, logits: Tensor, started: float) -> tuple[list[int], StepRecord]:
        """Commits what verification accepted and tells the policy. logits: (w + 1, V)"""
        context_length = len(self.sequence.tokens)
        path: list[int] = []
        if isinstance(draft, TreeDraft):
            emitted, path = self.sequence.commit_tree(draft.tree, logits)
            num_accepted, last = len(path), path[len(emitted) - 2] if len(emitted) > 1 else 0
        else:
            emitted, num_accepted = self.sequence.commit(draft, logits)
            last = len(emitted) - 1
        if draft.final is not None:
            self.verified = draft.final[:, last : last + 1]
        needs_full = self.policy.needs_full_signals and not self.is_paused
        full_row = logits[last : last + 1] if needs_full else None
        record = step_record(draft, num_accepted, len(emitted), context_length, full_row, started)
        if isinstance(draft, TreeDraft):
            record = replace(
                record,
                sources=tuple(draft.tree.sources[1:]),
                parents=tuple(draft.tree.parents[1:]),
                path=tuple(path),
            )
        if not self.is_paused:
            self.policy.observe(record)
        if self.features is not None:
            self.features.update(record)
        return emitted, record


class DecodeLoop:
    """One call of the decoder."""

    def __init__(
        self,
        adapters: tuple[ModelAdapter, ModelAdapter],
        batch: Batch,
        policy: Policy,
        compression: str,
        started: float,
    ) -> None:
        """An undecoded batch.

        adapters: the model for prompts, and for steps.
        started: `time.perf_counter()` at the call, from which seconds count.
        """
        self.adapter, self.step_adapter = adapters
        self.batch, self.started = batch, started
        policies = [policy, *(copy.deepcopy(policy) for _ in batch.requests[1:])]
        if batch.processors:  # rows go in step, a token each: nothing is drafted
            policies = [StaticPolicy((), w_max=0) for _ in batch.requests]
        self.rows = [
            Row(index, request, own, compression, self.adapter.device)
            for index, (request, own) in enumerate(zip(batch.requests, policies, strict=True))
        ]
        self.together = Together(batch, [row.sequence for row in self.rows]) if batch.is_joint else None
        """What the rows share: criteria and processors that see all of them."""
        self.cache: DecodeCache | None = None
        """The cache of the only sequence."""

    @torch.inference_mode()
    def steps(self, record_steps: bool, on_step: OnStep | None) -> Iterator[list[int]]:
        """Decodes all sequences to their end; yields the new tokens of the first one as they come."""
        if self.together is not None and self.together.is_in_step:
            self._in_step(self.together, record_steps, on_step)
            return
        caches = []
        for row in self.rows:
            started = time.perf_counter() if row.index else self.started
            cache, logits = self._prefill(row)
            row.begin(logits)
            self._time_prefill(row, started)
            caches.append(cache)
            if row.index == 0:
                yield row.sequence.tokens[-1:]
        if self.together is not None:
            self.together.judge()
        active = [row for row in self.rows if not row.sequence.is_finished]
        share(active)
        own = [caches[row.index] for row in active] or caches[:1]
        cache = own[0] if len(own) == 1 else DecodeCache.joined(own)
        del caches, own  # what the cache of all does not hold is free
        runner = self._runner(cache)
        while active:
            step_started = time.perf_counter()
            drafts = [row.new_draft() for row in active]
            all_logits = runner.run(drafts)
            for slot, (row, draft, logits) in enumerate(zip(active, drafts, all_logits, strict=True)):
                emitted, record = row.finish_step(draft, logits, step_started)
                runner.keep(draft, record, slot, len(row.sequence.tokens))
                self._count(row, record, record_steps, on_step)
                if row.index == 0:
                    yield emitted
            if self.together is not None:
                self.together.judge()
            kept = [slot for slot, row in enumerate(active) if not row.sequence.is_finished]
            if 0 < len(kept) < len(active):
                cache.keep_rows(kept)
                runner = self._runner(cache)
                share([active[slot] for slot in kept])
            active = [active[slot] for slot in kept]
        if self.together is not None:
            for row in self.rows:
                row.drop_beyond_end()
        if len(self.rows) == 1:
            cache.tokens = self.rows[0].sequence.tokens[:-1]
            self.cache = cache

    def _in_step(self, together: Together, record_steps: bool, on_step: OnStep | None) -> None:
        """Decodes all rows a token at a time. Rows that have ended go on with padding, as in transformers."""
        caches, logits = zip(*map(self._prefill, self.rows), strict=True)
        together.commit(logits)
        for row in self.rows:
            row.begin_steps()
            self._time_prefill(row, self.started)
        cache = DecodeCache.joined(caches)
        runner = self._runner(cache)
        while not together.is_finished:
            step_started = time.perf_counter()
            running = [row for row in self.rows if not together.is_ended(row.index)]
            drafts = [row.new_draft() for row in self.rows]
            together.commit(runner.run(drafts))
            for row in running:
                record = step_record(drafts[row.index], 0, 1, drafts[row.index].position + 1, None, step_started)
                self._count(row, record, record_steps, on_step)
        for row in self.rows:
            row.drop_beyond_end()

    def _count(self, row: Row, record: StepRecord, record_steps: bool, on_step: OnStep | None) -> None:
        row.stats.add_step(record, record_steps)
        row.stats.seconds = time.perf_counter() - self.started
        if on_step is not None:
            on_step(record, row.index)

    def _runner(self, cache: DecodeCache) -> Runner:
        return Runner(self.step_adapter, cache)

    def _prefill(self, row: Row) -> tuple[DecodeCache, Tensor]:
        return prefill(self.adapter, row, self.batch.cache)

    def _time_prefill(self, row: Row, started: float) -> None:
        row.stats.prefill_seconds = time.perf_counter() - started
        row.stats.seconds = time.perf_counter() - self.started


def prefill(adapter: ModelAdapter, row: Row, past: Cache | None) -> tuple[DecodeCache, Tensor]:
    """Runs all layers on what `past` does not hold of a prompt. A cache, and logits (1, V) of the first token"""
    prompt = row.sequence.request.prompt
    capacity = min(row.sequence.limit, len(prompt) + NEW_TOKENS_CAPACITY)
    cache = adapter.continued_cache(past, prompt, capacity)
    held = cache.lengths()[0]
    ids = torch.tensor([prompt[held:]], device=adapter.device)
    hidden = adapter.run_layers(adapter.embed(ids, held), 0, adapter.num_layers, cache, held)
    row.verified = hidden[:, -1:].clone()  # the prompt's other states are free
    return cache, adapter.read_head(hidden[:, -1:])[0]


def share(rows: SequenceOf[Row]) -> None:
    """Tells the policies of rows that price their steps how many rows share the calls."""
    for row in rows:
        tell = getattr(row.policy, "share", None)
        if tell is not None:
            tell(len(rows))


def bounded(decision: Decision, most: int) -> Decision:
    """The same decision with its width clipped."""
    if decision.w_max <= most:
        return decision
    return replace(decision, w_max=most)


def step_record(
    draft: Draft | TreeDraft,
    num_accepted: int,
    num_emitted: int,
    context_length: int,
    full_row: Tensor | None,
    started: float,
) -> StepRecord:
    """The record of a finished step."""
    full = row_statistics(full_row)[1:] if full_row is not None else (math.nan,) * 3
    return StepRecord(
        context_length=context_length,
        num_drafted=draft.num_drafted,
        num_accepted=num_accepted,
        num_emitted=num_emitted,
        exit_layers=tuple(draft.exit_layers),
        scores=tuple(draft.scores),
        confidences=tuple(s.confidence if s is not None else math.nan for s in draft.signals),
        entropies_nats=tuple(s.entropy_nats if s is not None else math.nan for s in draft.signals),
        stop_reason=draft.stop_reason,
        layer_calls_by_rows=draft.work.layer_calls,
        head_reads_by_rows=draft.work.head_reads,
        num_exit_tests=draft.work.num_exit_tests,
        full_confidence=full[0],
        full_entropy_nats=full[1],
        full_margin=full[2],
        seconds=time.perf_counter() - started,
        num_learned_scores=draft.work.num_learned_scores,
    )
