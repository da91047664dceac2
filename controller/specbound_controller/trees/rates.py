"""How often candidates of each kind turn out right: priors, and counts on text that shrink towards them.

A cell is what a source says of a candidate (rank, length of the match, times seen). Knows no model.
"""

from collections.abc import Mapping, Sequence

from specbound_controller.sources import context, own_text
from specbound_controller.sources.source import MOST_CANDIDATES, DraftSource
from specbound_controller.sources.stores import Stores

PRIOR_WEIGHT = 20.0
"""Candidates that a prior counts as: so many must be seen before counts outweigh it."""
EARLIER_WEIGHT = 0.6
"""A match in another text, against one in the same."""
_BY_RANK = (1.0, 0.3, 0.15, 0.1)
_MATCH = {8: 0.85, 6: 0.75, 4: 0.65, 3: 0.5, 2: 0.35, 1: 0.15}
_ORDER = {3: 0.4, 2: 0.3, 1: 0.15}


def prior_rates() -> dict[str, list[float]]:
    """Acceptance rates by hand, for every source: what is used where nothing was counted."""
    found = {"context": [0.0] * context.ContextSource.num_cells, "own_text": [0.0] * own_text.OwnTextSource.num_cells}
    for (match, rank, is_repeated), cell in context.CELLS.items():
        found["context"][cell] = min(0.95, _MATCH[match] * _BY_RANK[rank] * (1.2 if is_repeated else 1.0))
    for (order, rank, bucket), cell in own_text.CELLS.items():
        found["own_text"][cell] = min(0.95, _ORDER[order] * _BY_RANK[rank] * (0.6, 0.8, 1.0, 1.2)[bucket])
    found["recycled"] = [0.3, 0.12, 0.08, 0.05, 0.04, 0.03, 0.025, 0.02][:MOST_CANDIDATES]
    found["bigrams"] = [0.12, 0.06, 0.04, 0.03, 0.025, 0.02, 0.015, 0.01][:MOST_CANDIDATES]
    return found


def earlier_rates(context_rates: Sequence[float]) -> list[float]:
    """Of the source that learns while it serves, whose cells are the context's."""
    return [EARLIER_WEIGHT * rate for rate in context_rates]


def usable_rates(stores: Stores, counted: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Acceptance rates of the sources that have what they need: those that were counted, of other sources priors."""
    has = {name: getattr(stores, name) is not None for name in ("bigrams", "own_text")}
    found = {**prior_rates(), **counted}
    if stores.earlier is not None:
        found["earlier"] = earlier_rates(found["context"])
    return {name: list(rates) for name, rates in found.items() if has.get(name, True)}


class RateCounts:
    """Counts, for some sources, how often the candidates of each cell were the next token."""

    def __init__(self, sources: Sequence[DraftSource]) -> None:
        self.sources = list(sources)
        self.hits = {source.name: [0] * source.num_cells for source in self.sources}
        self.trials = {source.name: [0] * source.num_cells for source in self.sources}

    def count(self, tail: tuple[int, ...], token: int) -> None:
        """The path that ends with `tail` went on with `token`."""
        for source in self.sources:
            hits, trials = self.hits[source.name], self.trials[source.name]
            for candidate, cell in source.propose(tail):
                trials[cell] += 1
                hits[cell] += candidate == token

    def rates(self, priors: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
        """Hits over trials, with each prior worth `PRIOR_WEIGHT` trials."""
        return {
            name: [
                (hits + PRIOR_WEIGHT * prior) / (trials + PRIOR_WEIGHT)
                for hits, trials, prior in zip(self.hits[name], self.trials[name], priors[name], strict=True)
            ]
            for name in self.hits
        }
