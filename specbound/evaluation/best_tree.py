"""The fastest draft tree of this model on this machine, raced by the clock on tuning prompts. Knows no command line."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.evaluation.best_static import Ranked, StaticSearch, finalists, ranked
from specbound.evaluation.timing import ContentionProbe, policy_method
from specbound.evaluation.tournament import successive_halving
from specbound.stores.trees import TreeSituation, exit_tree_name, tree_policy
from specbound_controller.actions import PLAIN
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.settings import both
from specbound_controller.trees.names import FREE_ENTRANTS

NUM_EXITS, EXIT_SIZES = 2, (7, 15)
"""Exits, the shallowest of the model's, that draft in trees of these sizes."""


@dataclass(frozen=True, slots=True)
class TreeChoice:
    """What the race found."""

    ranking: tuple[Ranked, ...]
    """Fastest first, plain decoding among them"""
    num_prompts: int
    source: str
    contention: float
    """How far the machine slowed down in between, 0.1 is 10 %"""
    day: str
    """When the race was held, YYYY-MM-DD"""

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "TreeChoice":
        """What `asdict` made of one, also through JSON."""
        return TreeChoice(**{**values, "ranking": tuple(Ranked(**each) for each in values["ranking"])})

    @property
    def name(self) -> str:
        """The fastest tree, whether or not plain decoding was faster."""
        return next(each.name for each in self.ranking if each.name != PLAIN.name)

    def policy(self, situation: TreeSituation) -> Policy:
        """It at every step."""
        return tree_policy(self.name, situation)

    def describe(self) -> str:
        """The tree, and how it came out, in one line."""
        return (
            f"{both(self.name)}, the fastest of {len(self.ranking) - 1} raced on {self.num_prompts} prompts "
            f"of {self.source} on {self.day}; {finalists(self.ranking, self.contention)}"
        )


def entrants(exit_layers: Sequence[int]) -> list[str]:
    """Names of the trees that race. exit_layers: the model's candidates"""
    exits = sorted(layer for layer in exit_layers if layer != LOOKUP_EXIT)[:NUM_EXITS]
    return [*FREE_ENTRANTS, *(exit_tree_name(layer, size) for layer in exits for size in EXIT_SIZES)]


def choose_tree(search: StaticSearch, situation: TreeSituation, say: Callable[[str], None]) -> TreeChoice:
    """Races the trees on the prompts of a search for the best fixed setting."""
    level = search.loaded.compression
    decoder = SpecBoundDecoder(
        greedy_twin(search.loaded.model),
        None,
        level,
        record_steps=False,
        exactness=search.exactness,
        exits=search.loaded.exits,
    )
    names = entrants(search.exit_layers)
    methods = [policy_method(name, decoder, tree_policy(name, situation)) for name in names]
    plain, probe = policy_method(PLAIN.name, decoder, StaticPolicy(())), ContentionProbe()

    def on_round(num_methods: int, num_prompts: int) -> None:
        say(f"{level}: {num_methods} trees race on {num_prompts} tuning prompts")

    standings = successive_halving(methods, plain, search.prompts, probe, on_round)
    return TreeChoice(
        tuple(map(ranked, standings)), len(search.prompts), search.source, probe.slowdown, time.strftime("%Y-%m-%d")
    )
