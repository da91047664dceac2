"""The step of several sequences at once: their drafts advance side by side, one pass of the deep layers verifies all.

Knows the adapter and one decision per sequence; knows nothing of policies, stopping rules or output formats. Each
sequence does what `StepRunner` does for it alone: only the calls are shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.model.exit_modules import ExitPlace
from specbound.decoding.model.ragged import RaggedCall, sent
from specbound.decoding.step import Draft
from specbound_controller.lookup import LOOKUP_EXIT

# B rows (sequences), n most tokens of a row in a call, D hidden width, V vocabulary, L layers


@dataclass(slots=True)
class Row:
    """One sequence in a step."""

    slot: int
    """Its row of the cache."""
    draft: Draft
    exits: tuple[tuple[int, float], ...]
    """The (exit layer, threshold) pairs of its decision, shallow to deep."""
    head: DraftHead | None
    """What its exits read; None is the whole head."""
    next_exit: int = 0
    """The exit that its newest token goes to."""
    first: int = 0
    """Verification: the first pending token that has been taken up."""

    @property
    def target(self) -> int:
        """The depth that its newest token goes to."""
        return self.exits[self.next_exit][0]

    @property
    def depth(self) -> int:
        """The depth of its newest token."""
        return self.draft.depths[-1]


class BatchRunner:
    """Runs draft and verification of several sequences on one cache, a row each."""

    def __init__(self, adapter: ModelAdapter, cache: DecodeCache) -> None:
        self.adapter, self.cache = adapter, cache

    def run(self, drafts: Sequence[Draft], slots: Sequence[int]) -> list[Tensor]:
        """Drafts and verifies one step of some rows: the full model's logits (w + 1, V) of each.

        slots: rows of the cache, one for each draft.
        """
        num_layers = self.adapter.num_layers
        rows = [
            Row(slot, draft, draft.checked_exits(num_layers), self.adapter.draft_head(draft.decision.draft_vocabulary))
            for slot, draft in zip(slots, drafts, strict=True)
        ]
        self._start_tokens(rows)
        self._draft(rows)
        return self._verify(rows)

    def _draft(self, rows: Sequence[Row]) -> None:
        """Adds up to `w_max` draft tokens to each row; a row that has stopped is not run any more."""
        drafting = [row for row in rows if row.exits]
        while drafting:
            looking = [row for row in drafting if row.target == LOOKUP_EXIT]
            if looking:
                self._try_lookups(looking)
            else:
                group = next_group(drafting)
                target = min(row.target for row in group)
                self._advance(group, target)
                self._try_exits([row for row in group if row.target == target])
            drafting = [row for row in drafting if row.draft.stop_reason == "off"]

    def _start_tokens(self, rows: Sequence[Row]) -> None:
        """Embeds the newest pending token of each row; its layers have not run yet."""
        tokens = sent([row.draft.tokens[-1] for row in rows], self.adapter.device)
        positions = [row.draft.position + row.draft.num_drafted for row in rows]
        for row, hidden in zip(rows, self.adapter.embed_rows(tokens, positions).split(1), strict=True):
            row.draft.hidden.append(hidden)
            row.draft.depths.append(0)
            row.next_exit = 0

    def _advance(self, group: Sequence[Row], target: int) -> None:
        """Runs the newest tokens to depth `target`, and in the same calls all pending tokens that stand beside them."""
        depth = group[0].depth
        firsts = [row.draft.depths.index(depth) for row in group]  # depths never increase: the newest stands lowest
        rows = [torch.cat(row.draft.hidden[first:], 1) for row, first in zip(group, firsts, strict=True)]
        outputs = self._run(group, firsts, rows, depth, target)
        for row, first, output in zip(group, firsts, outputs, strict=True):
            row.draft.hidden[first:] = output.split(1, dim=1)
            row.draft.depths[first:] = [target] * output.shape[1]

    def _try_exits(self, rows: Sequence[Row]) -> None:
        """Tests the exit at which each row's newest token stands; where it clears, the next token is drafted."""
        by_head: dict[DraftHead | None, list[Row]] = {}
        for row in rows:
            by_head.setdefault(row.head, []).append(row)
        for head, group in by_head.items():
            hidden = torch.cat([row.draft.hidden[-1] for row in group], dim=1)
            logits = self.adapter.read_exit(hidden, head, _place(group))[0]
            cleared = []
            for row, own in zip(group, logits.split(1), strict=True):
                exit_layer, threshold = row.exits[row.next_exit]
                cleared.append(row.draft.try_exit(own, exit_layer, threshold, self.adapter.num_layers, head))
            self._go_on(group, cleared)

    def _try_lookups(self, rows: Sequence[Row]) -> None:
        """The same for rows whose next exit is the context."""
        self._go_on(rows, [row.draft.try_lookup(row.exits[row.next_exit][1]) for row in rows])

    def _go_on(self, rows: Sequence[Row], cleared: Sequence[bool]) -> None:
        """Rows whose exit cleared begin their next token, the others go to their next exit or end their draft."""
        for row, has_cleared in zip(rows, cleared, strict=True):
            if has_cleared:
                continue
            row.next_exit += 1
            if row.next_exit == len(row.exits):
                row.draft.stop_reason = "depth"
        if any(cleared):
            self._start_tokens([row for row, has_cleared in zip(rows, cleared, strict=True) if has_cleared])

    def _verify(self, rows: Sequence[Row]) -> list[Tensor]:
        """Runs the layers that are left, bottom-up, each once, on the pending tokens of all rows. Logits (w + 1, V)."""
        num_layers = self.adapter.num_layers
        hidden: list[Tensor | None] = [None] * len(rows)
        for row in rows:
            row.first = len(row.draft.tokens)
        depth = min(row.depth for row in rows)
        while depth < num_layers:
            for index, row in enumerate(rows):
                hidden[index] = self._take_up(row, hidden[index], depth)
            running = [(row, state) for row, state in zip(rows, hidden, strict=True) if state is not None]
            target = min(row.draft.depths[row.first - 1] if row.first > 0 else num_layers for row in rows)
            group = [row for row, _ in running]
            places = [index for index, state in enumerate(hidden) if state is not None]
            outputs = self._run(group, [row.first for row in group], [state for _, state in running], depth, target)
            for place, output in zip(places, outputs, strict=True):
                hidden[place] = output
            depth = target
        states = [state for state in hidden if state is not None]  # all: every token is pending below the last layer
        for row, state in zip(rows, states, strict=True):
            row.draft.final = state
        logits = self.adapter.read_head(torch.cat(states, dim=1))[0]
        for row in rows:
            row.draft.work.add_head(len(row.draft.tokens))
        return list(logits.split([len(row.draft.tokens) for row in rows]))

    def _take_up(self, row: Row, hidden: Tensor | None, depth: int) -> Tensor | None:
        """A row's running tokens with those pending tokens before them that stand at `depth`. (1, tokens, D)"""
        end = row.first
        while row.first > 0 and row.draft.depths[row.first - 1] == depth:
            row.first -= 1
        taken = row.draft.hidden[row.first : end]
        if not taken:
            return hidden
        return torch.cat(taken if hidden is None else [*taken, hidden], dim=1)

    def _run(
        self, rows: Sequence[Row], firsts: Sequence[int], hidden: Sequence[Tensor], depth: int, target: int
    ) -> list[Tensor]:
        """Runs `layers[depth:target]` on the pending tokens of some rows from the `firsts` on. (1, tokens, D) each"""
        counts = [state.shape[1] for state in hidden]
        starts = [row.draft.position + first for row, first in zip(rows, firsts, strict=True)]
        for row, count in zip(rows, counts, strict=True):
            row.draft.work.add_layers(count, target - depth)
        call = RaggedCall([row.slot for row in rows], starts, counts, self.adapter.device)
        output = self.adapter.run_rows(call.padded(hidden), depth, target, self.cache, call)
        return [own[:, :count] for own, count in zip(output.split(1), counts, strict=True)]


def next_group(rows: Sequence[Row]) -> list[Row]:
    """The most rows whose newest tokens stand at one depth, the shallowest of equals: others may join them later."""
    by_depth: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.depth):
        by_depth.setdefault(row.depth, []).append(row)
    return max(by_depth.values(), key=len)


def _place(rows: Sequence[Row]) -> ExitPlace:
    """Where the newest tokens of some rows stand, at one exit."""
    verified = [row.draft.verified for row in rows]
    states = [state for state in verified if state is not None]
    state = torch.cat(states, dim=1) if len(states) == len(rows) else None
    return ExitPlace(rows[0].target, state, [row.draft.num_drafted + 1 for row in rows])
