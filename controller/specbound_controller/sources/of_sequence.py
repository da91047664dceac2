"""The draft sources of one sequence: made when they are first asked, and shown what is committed, in order.

The same while decoding and in a replay, so that both ask sources that have seen the same. Knows no model.
"""

from collections.abc import Sequence

from specbound_controller.sources.recent import RecentHits
from specbound_controller.sources.recycled import RecycledSource
from specbound_controller.sources.source import TAIL, DraftSource
from specbound_controller.sources.stores import Stores


class SequenceSources:
    """Sources by name, each with how many of the sequence's tokens it has seen."""

    def __init__(self) -> None:
        self._sources: dict[str, DraftSource] = {}
        self._num_seen: dict[str, int] = {}
        self.recent: RecentHits | None = None
        """How often sources were right lately, from when it was first asked for."""

    @property
    def recycled(self) -> RecycledSource | None:
        """The source that wants the full model's best tokens; None where nobody asked it yet."""
        source = self._sources.get("recycled")
        return source if isinstance(source, RecycledSource) else None

    @property
    def learns(self) -> bool:
        """Whether verified positions have to be shown."""
        return self.recent is not None or self.recycled is not None

    def asked(self, names: Sequence[str], stores: Stores, tokens: Sequence[int], end: int) -> list[DraftSource]:
        """Some sources that have seen the first `end` tokens."""
        for name in names:
            if name not in self._sources:
                self._sources[name], self._num_seen[name] = stores.source(name), 0
            self._show(name, tokens, end)
        return [self._sources[name] for name in names]

    def watch(self, names: Sequence[str]) -> RecentHits:
        """Counts from now on how often these sources, which have been asked before, are right."""
        if self.recent is None:
            self.recent = RecentHits(names)
        return self.recent

    def verified(self, tokens: Sequence[int], position: int, best: Sequence[int]) -> None:
        """The full model answered at a position, and the token after it is committed.

        Positions come in order. What sources proposed there counts as they were before they saw the answer.

        best: the full model's best tokens there, best first; empty where nobody asked `recycled`.
        """
        recent, end = self.recent, position + 1
        if recent is not None:
            tail = tuple(tokens[max(0, end - TAIL) : end])
            for name in recent.names:
                self._show(name, tokens, end)
                proposed = self._sources[name].propose(tail)
                if proposed:
                    recent.see(name, proposed[0][0] == tokens[end])
        recycled = self.recycled
        if recycled is not None and best:
            recycled.observe(tokens[position], best)

    def _show(self, name: str, tokens: Sequence[int], end: int) -> None:
        num_seen = self._num_seen[name]
        if num_seen < end:
            self._sources[name].extend(tokens[num_seen:end])
            self._num_seen[name] = end
