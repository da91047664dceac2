"""Sequences that decode together and come and go between steps, for servers. Knows no queue and no time limits.

Every row does what it does alone: only the calls are shared, so that a row's tokens do not depend on its company.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache

from specbound.decoding.batch_guard import BatchGuard
from specbound.decoding.loop import Row, Runner, prefill, share
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.request import Request
from specbound_controller.errors import InputError
from specbound_controller.policy import Policy
from specbound_controller.records import StepRecord

ROOM_FOR_DRAFTS = 64
"""Tokens of a step that a row holds beyond its longest text until they are verified; room for more is made as they
come."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step did for one row."""

    row: Row
    tokens: list[int]
    """New tokens; none where the row failed."""
    record: StepRecord | None
    error: InputError | None = None
    """Why the row cannot go on, such as scores that cannot be sampled from; it has to leave."""


class RunningBatch:
    """Rows on one cache. One thread at a time may call it."""

    def __init__(self, adapters: tuple[ModelAdapter, ModelAdapter], policy: Policy, compression: str) -> None:
        """No rows yet.

        adapters: the model for prompts, and for steps.
        policy: every row drafts with a copy; rows that have left hand theirs on, with the prices it has found.
        """
        self._adapter, self._step_adapter = adapters
        self._policy, self._compression = policy, compression
        self._free: list[Policy] = []
        self._cache: DecodeCache | None = None
        self.rows: list[Row] = []
        """Those that run, in the order of the cache."""
        self._num_joined = 0
        self._guard = BatchGuard()

    @torch.inference_mode()
    def join(self, request: Request, past: Cache | None = None) -> Row:
        """Runs the prompt of one more sequence and chooses its first token; it may have ended with that.

        past: a cache of one sequence, which is continued in place as far as it agrees with the prompt. Where the
        prompt cannot be run, the rows that run are as they were.
        """
        started = time.perf_counter()
        policy = self._free.pop() if self._free else copy.deepcopy(self._policy)
        row = Row(self._num_joined, request, policy, self._compression, self._adapter.device)
        rows = [*self.rows, row]
        if isinstance(past, DecodeCache):
            past.expect(most_tokens([row]))
        cache, logits = prefill(self._adapter, row, past)
        row.begin(logits)
        joined = cache if self._cache is None else DecodeCache.joined([self._cache, cache], most_tokens(rows))
        self._set(rows, joined)
        self._num_joined += 1
        row.stats.prefill_seconds = time.perf_counter() - started
        return row

    @torch.inference_mode()
    def step(self) -> list[Progress]:
        """Drafts and verifies once for every row. Rows that have ended, or failed, must `leave` before the next step.

        Where this raises, no row can go on: `clear`.
        """
        assert self._cache is not None
        started = time.perf_counter()
        is_paused = self._guard.must_be_plain(len(self.rows))
        for row in self.rows:
            row.is_paused = is_paused
        drafts = [row.new_draft() for row in self.rows]
        all_logits = self._runner.run(drafts)
        found = []
        for slot, (row, draft, logits) in enumerate(zip(self.rows, drafts, all_logits, strict=True)):
            try:
                emitted, record = row.finish_step(draft, logits, started)
            except InputError as error:
                found.append(Progress(row, [], None, error))
                continue
            self._runner.keep(draft, record, slot, len(row.sequence.tokens))
            row.stats.add_step(record, False)
            found.append(Progress(row, emitted, record))
        num_drafted, num_tokens = sum(draft.num_drafted for draft in drafts), sum(len(each.tokens) for each in found)
        self._guard.observe(time.perf_counter() - started, len(drafts), num_drafted, num_tokens)
        return found

    @torch.inference_mode()
    def copy_of(self, row: Row) -> DecodeCache:
        """A cache to continue the row from later: it holds all its tokens but the newest."""
        assert self._cache is not None
        return self._cache.copy_of_row(row.sequence.tokens[:-1], self.rows.index(row))

    @torch.inference_mode()
    def leave(self, rows: Sequence[Row]) -> None:
        """Frees some rows, whether they have ended or not."""
        if not rows:
            return
        kept = [slot for slot, row in enumerate(self.rows) if row not in rows]
        self._free += [row.policy for row in rows]
        if not kept:
            self._set([], None)
            return
        assert self._cache is not None
        rest = [self.rows[slot] for slot in kept]
        self._cache.expect(most_tokens(rest))
        self._cache.keep_rows(kept)
        self._set(rest, self._cache)

    def clear(self) -> None:
        """Drops all rows, with policies that may have seen half of a step."""
        self._free = []
        self._set([], None)

    def _set(self, rows: list[Row], cache: DecodeCache | None) -> None:
        """These rows from here on; their policies learn how many they are."""
        self.rows, self._cache = rows, cache
        if cache is not None:
            cache.expect(most_tokens(rows))
            self._runner = Runner(self._step_adapter, cache)
        share(rows)

    @torch.inference_mode()
    def bytes_per_token(self) -> int:
        """Memory of one token's keys and values in all layers. One is run: families differ in what they keep."""
        adapter = self._adapter
        cache = adapter.new_cache(1)
        ids = torch.zeros((1, 1), dtype=torch.long, device=adapter.device)
        adapter.run_layers(adapter.embed(ids, 0), 0, adapter.num_layers, cache, 0)
        return cache.num_bytes

    @property
    def num_bytes(self) -> int:
        """Memory of the cache that all rows share."""
        return self._cache.num_bytes if self._cache is not None else 0


def most_tokens(rows: Sequence[Row]) -> int:
    """What a row of a batch takes room for at most: all rows have that of the longest."""
    return max(row.sequence.limit for row in rows) + ROOM_FOR_DRAFTS
