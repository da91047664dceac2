"""One step of a draft tree: an exit and sources that cost no layer draft it, one pass of the deep layers answers at
every node.

Knows the adapter and grown or growing trees; knows nothing of policies, sources, stopping rules or output formats.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.model.exit_modules import ExitPlace
from specbound.decoding.model.ragged import sent
from specbound.decoding.model.tree_call import NodeRows, TreeCall
from specbound.decoding.step import Work
from specbound_controller.errors import InputError
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.records import Decision
from specbound_controller.trees.exit_growth import EXIT, ExitGrowth
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.tree import DraftTree

# B sequences, n nodes of a tree with its root, k nodes of a call, D hidden width, V vocabulary, N of a draft head


class ExitChooser(Protocol):
    """Says which tokens an exit proposes."""

    def exit_candidates(
        self, logits: Tensor, paths: Sequence[list[int]], temperature: float, count: int, head: DraftHead | None
    ) -> list[list[tuple[int, float]]]:
        """An exit's best tokens after each drafted path with their chances, by its logits (k, V), or (k, N)."""


@dataclass(slots=True)
class TreeDraft:
    """Pending nodes of one step: the last committed token, which is the root, and the tree of drafts below it."""

    tree: DraftTree
    position: int
    """Position of the root: every layer of the cache holds so many tokens before the step."""
    decision: Decision
    features: np.ndarray | None = None
    """Features of the step, where the policy wants them."""
    growth: ExitGrowth | None = None
    """Grows the tree, where an exit drafts too."""
    chooser: ExitChooser | None = None
    """Reads that exit."""
    verified: Tensor | None = None
    """The full model's last hidden state (1, 1, D) at the newest verified position, whose token is the root; for
    trained exits."""
    final: Tensor | None = None
    """The same (1, n, D) at every node, once they are verified."""
    hidden: list[Tensor] = field(default_factory=list)
    """Hidden states at the exit of the nodes that have run there, in their order. (1, k, D) each"""
    work: Work = field(default_factory=Work)

    @property
    def plan(self) -> TreePlan:
        assert self.decision.tree is not None  # else it were a chain
        return self.decision.tree

    @property
    def num_drafted(self) -> int:
        return self.tree.num_drafted

    @property
    def depth(self) -> int:
        """Layers that the first nodes have run before verification."""
        return 0 if self.growth is None else self.plan.exit_layer

    @property
    def num_run(self) -> int:
        """How many of the first nodes have run those layers."""
        return 0 if self.growth is None else self.growth.num_run

    @property
    def exit_layers(self) -> list[int]:
        """Of every node: the exit that drafted it, or 0."""
        return [self.plan.exit_layer if source == EXIT else LOOKUP_EXIT for source in self.tree.sources[1:]]

    @property
    def scores(self) -> list[float]:
        """Chance of each node that it is right where its parent is."""
        survivals, parents = self.tree.survivals, self.tree.parents
        return [survivals[node] / survivals[parents[node]] for node in range(1, len(survivals))]

    @property
    def signals(self) -> list[None]:
        """None of every node: no exit was tested against a threshold."""
        return [None] * self.num_drafted

    @property
    def stop_reason(self) -> str:
        """`width` where the tree is as large as it may be, `off` where no tree was wanted, else `depth`."""
        if self.plan.max_nodes == 0:
            return "off"
        return "width" if self.num_drafted >= self.plan.max_nodes else "depth"


class TreeRunner:
    """Drafts by exits and verifies draft trees of some rows of a cache."""

    def __init__(self, adapter: ModelAdapter, cache: DecodeCache) -> None:
        self.adapter, self.cache = adapter, cache

    def run(self, drafts: Sequence[TreeDraft], slots: Sequence[int]) -> list[Tensor]:
        """The full model's logits (n, V) at every node of each tree. slots: rows of the cache, one for each draft.

        Afterwards every layer holds the n nodes of each row after the `position` tokens before them, in their order.
        """
        logits: dict[int, Tensor] = {}
        depths = list(dict.fromkeys(draft.depth for draft in drafts if draft.depth > 0)) or [0]
        for depth in depths:  # trees without an exit join the first that have one
            own_depths = (depth, 0) if depth == depths[0] else (depth,)
            group = [(draft, slot) for draft, slot in zip(drafts, slots, strict=True) if draft.depth in own_depths]
            own, places = [draft for draft, _ in group], [slot for _, slot in group]
            growing = [(draft, slot) for draft, slot in group if draft.depth > 0]
            if growing:
                self._draft([draft for draft, _ in growing], [slot for _, slot in growing])
            logits |= zip(places, self._verify(own, places, depth), strict=True)
        return [logits[slot] for slot in slots]

    def _draft(self, drafts: Sequence[TreeDraft], slots: Sequence[int]) -> None:
        """Runs nodes to the exit, depth by depth and all rows together, and lets it propose what comes after them."""
        exit_layer, num_layers = drafts[0].depth, self.adapter.num_layers
        if exit_layer >= num_layers:
            raise InputError(
                f"exit_layer must be in [0, {num_layers - 1}] for a {num_layers}-layer model, got {exit_layer}"
            )
        growing = list(zip(drafts, slots, strict=True))
        while growing := [(draft, slot) for draft, slot in growing if _frontier(draft)]:
            own, places = [draft for draft, _ in growing], [slot for _, slot in growing]
            spans = [(_frontier(draft)[0], _frontier(draft)[-1] + 1) for draft in own]
            outputs = self._run(own, places, spans, self._embedded(own, spans), 0, exit_layer)
            for draft, hidden in zip(own, outputs, strict=True):
                draft.hidden.append(hidden)
                self._read_exit(draft, hidden)

    def _read_exit(self, draft: TreeDraft, hidden: Tensor) -> None:
        """Lets the exit propose after each node that just ran. hidden: (1, k, D)"""
        growth, chooser, plan = draft.growth, draft.chooser, draft.plan
        assert growth is not None and chooser is not None  # both come with an exit
        head = self.adapter.draft_head(draft.decision.draft_vocabulary)
        place = ExitPlace(plan.exit_layer, draft.verified, [draft.tree.depths[node] + 1 for node in growth.frontier])
        logits = self.adapter.read_exit(hidden, head, place)[0]
        draft.work.add_head(logits.shape[0])
        draft.work.num_exit_tests += logits.shape[0]
        temperature = AnnealedConfidence(plan.alpha).temperature(plan.exit_layer, self.adapter.num_layers)
        paths = [[draft.tree.tokens[n] for n in draft.tree.path(node)[1:]] for node in growth.frontier]
        growth.take(chooser.exit_candidates(logits, paths, temperature, plan.exit_breadth, head))

    def _verify(self, drafts: Sequence[TreeDraft], slots: Sequence[int], depth: int) -> list[Tensor]:
        """Runs the layers that are left on all nodes. depth: layers that the first nodes of each tree have run"""
        hidden: list[Tensor] = [torch.cat(draft.hidden, dim=1) if draft.hidden else torch.empty(0) for draft in drafts]
        late = [row for row, draft in enumerate(drafts) if draft.num_run < len(draft.tree.tokens)]
        if late:
            own, places = [drafts[row] for row in late], [slots[row] for row in late]
            spans = [(draft.num_run, len(draft.tree.tokens)) for draft in own]
            outputs = self._embedded(own, spans)
            if depth > 0:
                outputs = self._run(own, places, spans, outputs, 0, depth)
            for row, output in zip(late, outputs, strict=True):
                hidden[row] = torch.cat((hidden[row], output), dim=1) if drafts[row].num_run else output
        counts = [len(draft.tree.tokens) for draft in drafts]
        spans = [(0, count) for count in counts]
        pending = self._run(drafts, slots, spans, hidden, depth, self.adapter.num_layers)
        logits = self.adapter.read_head(torch.cat(pending, dim=1) if len(pending) > 1 else pending[0])[0]
        for draft, count, state in zip(drafts, counts, pending, strict=True):
            draft.work.add_head(count)
            draft.final = state
        return list(logits.split(counts))

    def _embedded(self, drafts: Sequence[TreeDraft], spans: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Embedded nodes of each tree. spans: first and last + 1 of them. (1, k, D) each"""
        if len(drafts) == 1 and drafts[0].tree.is_chain(spans[0][1]):
            (first, last), tree = spans[0], drafts[0].tree
            ids = sent([tree.tokens[first:last]], self.adapter.device)
            return [self.adapter.embed(ids, drafts[0].position + first)]
        tokens, positions = list[int](), list[int]()
        for draft, (first, last) in zip(drafts, spans, strict=True):
            tokens += draft.tree.tokens[first:last]
            positions += [draft.position + depth for depth in draft.tree.depths[first:last]]
        embedded = self.adapter.embed_rows(sent(tokens, self.adapter.device), positions).transpose(0, 1)
        return list(embedded.split([last - first for first, last in spans], dim=1))

    def _run(
        self,
        drafts: Sequence[TreeDraft],
        slots: Sequence[int],
        spans: Sequence[tuple[int, int]],
        hidden: Sequence[Tensor],
        first: int,
        last: int,
    ) -> list[Tensor]:
        """Runs `layers[first:last]` on some nodes of each tree. (1, k, D) each

        One token after another, in the cache's only row, is what a chain calls, with the same bits.
        """
        for draft, (begin, end) in zip(drafts, spans, strict=True):
            draft.work.add_layers(end - begin, last - first)
        if len(drafts) == 1 and self.cache.batch_size == 1 and drafts[0].tree.is_chain(spans[0][1]):
            return [self.adapter.run_layers(hidden[0], first, last, self.cache, drafts[0].position + spans[0][0])]
        nodes = [NodeRows(draft.tree.parents) for draft in drafts]
        call = TreeCall(slots, [draft.position for draft in drafts], nodes, spans, self.adapter.device)
        output = self.adapter.run_rows(call.padded(hidden), first, last, self.cache, call)
        return [own[:, : end - begin] for own, (begin, end) in zip(output.split(1), spans, strict=True)]


def _frontier(draft: TreeDraft) -> list[int]:
    return [] if draft.growth is None else draft.growth.frontier
