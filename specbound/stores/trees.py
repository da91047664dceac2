"""Fixed tree settings by name, and what plays when nobody chose: a guarded tree of everything that is free."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedModel

from specbound.decoding.model.families import num_layers_of
from specbound.models.fingerprint import model_fingerprint
from specbound.stores.bigrams import local_bigrams
from specbound.stores.own_text import load_own_text
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.policy import Policy
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.names import EXIT_TREE, TREE_NAMES, is_tree_name, without
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.policy import TreePolicy
from specbound_controller.trees.priced import PricedTreePolicy
from specbound_controller.trees.rates import usable_rates
from specbound_controller.trees.settings import TreeSources

EXIT_SURVIVAL = 0.6
"""Least survival of a node that runs to the exit of an `exitE_treeN`."""
MOST_NODES = 31
"""Draft tokens of the largest tree of `free_tree`: prices decide how many of them stand."""
RECYCLING_TREE = ((8,), (4, 2, 1, 1), (3, 2, 1, 1), (2, 1, 1), (1, 1))
"""A fixed shape after Token Recycling (arXiv 2408.08696): many children for the first, few for later ones."""


@dataclass(frozen=True, slots=True)
class TreeSituation:
    """What a tree policy may need."""

    stores: Stores
    costs: CostTable
    """Of this machine, at the level and exactness that steps run on."""
    num_layers: int
    counted: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Acceptance rates of some sources that were counted on text; those of the others are priors."""
    left_out: str | None = None
    """A source that is not asked."""

    def rates(self) -> dict[str, list[float]]:
        """Acceptance rates of the sources that are asked."""
        found = usable_rates(self.stores, self.counted)
        return {name: rates for name, rates in found.items() if name != self.left_out}

    def sources(self) -> TreeSources:
        """What a stored setting of a tree is made a policy with."""
        return TreeSources(self.stores, self.rates())


def local_situation(
    model: PreTrainedModel, costs: CostTable, say: Callable[[str], None], own_text: str | None = None
) -> TreeSituation:
    """What trees of a model need on this machine. Its bigrams are made at the first call for it, and kept.

    own_text: folder that `specbound write` left for the model. Raises InputError where it holds no text of it.
    """
    text, rates = None, dict[str, list[float]]()
    if own_text is not None:
        text, rates = load_own_text(Path(own_text).expanduser(), model_fingerprint(model))
    return TreeSituation(Stores(local_bigrams(model, say), text), costs, num_layers_of(model), rates)


def free_tree(situation: TreeSituation) -> PricedTreePolicy:
    """A guarded tree of the free sources, each of whose nodes is expected to pay its row here."""
    plan = TreePlan(MOST_NODES, situation.rates(), stores=situation.stores)
    return PricedTreePolicy(plan, situation.costs, situation.num_layers)


def _fixed(num_nodes: int, breadth: int = 8) -> Callable[[TreeSituation], Policy]:
    def make(situation: TreeSituation) -> Policy:
        return TreePolicy(TreePlan(num_nodes, situation.rates(), stores=situation.stores, breadth=breadth))

    return make


def _eagle2(situation: TreeSituation) -> Policy:
    plan = TreePlan(MOST_NODES, situation.rates(), stores=situation.stores, growth="eagle2", max_depth=6)
    return TreePolicy(plan)


def _token_recycling(situation: TreeSituation) -> Policy:
    rates = {name: rates for name, rates in situation.rates().items() if name in ("recycled", "bigrams")}
    most = sum(map(sum, RECYCLING_TREE))
    return TreePolicy(TreePlan(most, rates, stores=situation.stores, growth="fixed", children=RECYCLING_TREE))


TREE_POLICIES: dict[str, Callable[[TreeSituation], Policy]] = {
    "free_tree": free_tree,
    **{f"chain{size}": _fixed(size, breadth=1) for size in (4, 8)},
    **{f"tree{size}": _fixed(size) for size in (2, 3, 5, 7, 15, 31, 63)},
    "eagle2": _eagle2,
    "token_recycling": _token_recycling,
}
"""Name -> policy."""
assert tuple(TREE_POLICIES) == TREE_NAMES


def exit_tree_name(exit_layer: int, num_nodes: int) -> str:
    """Of a tree that an exit drafts too."""
    return f"exit{exit_layer}_tree{num_nodes}"


def _exit_tree(exit_layer: int, num_nodes: int, situation: TreeSituation) -> Policy:
    plan = TreePlan(
        num_nodes, situation.rates(), stores=situation.stores, exit_layer=exit_layer, exit_survival=EXIT_SURVIVAL
    )
    return TreePolicy(plan)


def tree_policy(name: str, situation: TreeSituation) -> Policy:
    """The tree policy of a name; `exit3_tree7` is a tree of 7 nodes that exit layer 3 drafts too, and
    `tree7_without_context` one that does not ask a source.

    Raises InputError where there is none.
    """
    whole, left_out = without(name)
    if left_out is not None and is_tree_name(name):
        return tree_policy(whole, replace(situation, left_out=left_out))
    found = EXIT_TREE.fullmatch(name)
    if found is not None:
        return _exit_tree(int(found[1]), int(found[2]), situation)
    if name not in TREE_POLICIES:
        raise InputError(
            f"policy must be one of {', '.join(TREE_POLICIES)}, exitE_treeN, or TREE_without_SOURCE, got {name!r}"
        )
    return TREE_POLICIES[name](situation)
