"""Which sources there are, and what they share between sequences."""

from dataclasses import dataclass

from specbound_controller.sources.bigrams import BigramSource, BigramTable
from specbound_controller.sources.context import ContextSource
from specbound_controller.sources.earlier import EarlierSource, EarlierText
from specbound_controller.sources.own_text import OwnText, OwnTextSource
from specbound_controller.sources.recycled import RecycledSource
from specbound_controller.sources.source import DraftSource

SOURCE_NAMES = ("context", "earlier", "own_text", "recycled", "bigrams")
"""Sources that cost no layer, in the order in which they are asked."""


@dataclass(frozen=True, slots=True)
class Stores:
    """What a model brings to its sources."""

    bigrams: BigramTable | None = None
    own_text: OwnText | None = None
    earlier: EarlierText | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> "Stores":
        """Itself: sequences share it, what they learn from each other too."""
        return self

    def source(self, name: str) -> DraftSource:
        """A new source for one sequence.

        Raises:
            ValueError: there is no such source, or its store is missing.
        """
        if name == "context":
            return ContextSource()
        if name == "recycled":
            return RecycledSource()
        if name == "bigrams" and self.bigrams is not None:
            return BigramSource(self.bigrams)
        if name == "earlier" and self.earlier is not None:
            return EarlierSource(self.earlier)
        if name == "own_text" and self.own_text is not None:
            return OwnTextSource(self.own_text)
        known = ", ".join(SOURCE_NAMES)
        raise ValueError(f"source must be one of {known}, with its store where it needs one, got {name!r}")
