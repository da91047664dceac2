"""One step of a draft tree from sources that cost no layer: one pass of all layers answers at every node.

Knows the adapter and grown trees; knows nothing of policies, sources, stopping rules or output formats.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.model.ragged import sent
from specbound.decoding.model.tree_call import NodeRows, TreeCall
from specbound.decoding.step import Work
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.records import Decision
from specbound_controller.trees.tree import DraftTree

# B sequences, n nodes of a tree with its root, D hidden width, V vocabulary


@dataclass(slots=True)
class TreeDraft:
    """Pending nodes of one step: the last committed token, which is the root, and the tree of drafts below it."""

    tree: DraftTree
    position: int
    """Position of the root: every layer of the cache holds so many tokens before the step."""
    decision: Decision
    features: np.ndarray | None = None
    """Features of the step, where the policy wants them."""
    work: Work = field(default_factory=Work)

    @property
    def num_drafted(self) -> int:
        return self.tree.num_drafted

    @property
    def exit_layers(self) -> list[int]:
        """0 of every node: no layer was run for it."""
        return [LOOKUP_EXIT] * self.num_drafted

    @property
    def scores(self) -> list[float]:
        """Chance of each node that it is right where its parent is."""
        survivals, parents = self.tree.survivals, self.tree.parents
        return [survivals[node] / survivals[parents[node]] for node in range(1, len(survivals))]

    @property
    def signals(self) -> list[None]:
        """None of every node: no exit was tested."""
        return [None] * self.num_drafted

    @property
    def stop_reason(self) -> str:
        """`width` where the tree is as large as it may be, `off` where no tree was wanted, else `depth`."""
        plan = self.decision.tree
        assert plan is not None
        if plan.max_nodes == 0:
            return "off"
        return "width" if self.num_drafted >= plan.max_nodes else "depth"


class TreeRunner:
    """Verifies draft trees of some rows of a cache."""

    def __init__(self, adapter: ModelAdapter, cache: DecodeCache) -> None:
        self.adapter, self.cache = adapter, cache

    def run(self, drafts: Sequence[TreeDraft], slots: Sequence[int]) -> list[Tensor]:
        """The full model's logits (n, V) at every node of each tree. slots: rows of the cache, one for each draft.

        Afterwards every layer holds the n nodes of each row after the `position` tokens before them, in their order.
        """
        if len(drafts) == 1 and drafts[0].tree.is_chain and self.cache.batch_size == 1:
            return [self._run_chain(drafts[0])]
        nodes = [NodeRows(draft.tree.parents) for draft in drafts]
        counts = [len(draft.tree.tokens) for draft in drafts]
        starts = [draft.position for draft in drafts]
        call = TreeCall(slots, starts, nodes, [(0, count) for count in counts], self.adapter.device)
        tokens = sent([token for draft in drafts for token in draft.tree.tokens], self.adapter.device)
        positions = [start + depth for start, tree in zip(starts, nodes, strict=True) for depth in tree.depths]
        embedded = self.adapter.embed_rows(tokens, positions).transpose(0, 1)
        hidden = self.adapter.run_rows(
            call.padded(embedded.split(counts, dim=1)), 0, self.adapter.num_layers, self.cache, call
        )
        pending = [own[:, :count] for own, count in zip(hidden.split(1), counts, strict=True)]
        logits = self.adapter.read_head(torch.cat(pending, dim=1) if len(pending) > 1 else pending[0])[0]
        for draft, count in zip(drafts, counts, strict=True):
            draft.work.add_layers(count, self.adapter.num_layers)
            draft.work.add_head(count)
        return list(logits.split(counts))

    def _run_chain(self, draft: TreeDraft) -> Tensor:
        """The same for one token after another: what the chain's verification calls, with the same bits."""
        tokens, position = draft.tree.tokens, draft.position
        ids = sent([tokens], self.adapter.device)
        hidden = self.adapter.embed(ids, position)
        hidden = self.adapter.run_layers(hidden, 0, self.adapter.num_layers, self.cache, position)
        draft.work.add_layers(len(tokens), self.adapter.num_layers)
        draft.work.add_head(len(tokens))
        return self.adapter.read_head(hidden)[0]
