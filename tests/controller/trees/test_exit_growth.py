"""Which nodes run to the exit, and which others stand in the tree."""

import pytest

from specbound_controller.sources.source import Candidate
from specbound_controller.trees.exit_growth import EXIT, ExitGrowth
from specbound_controller.trees.plan import TreePlan

END = 99


class Table:
    """A source that always proposes the same."""

    name, num_cells = "table", 2

    def reset(self) -> None:
        """Nothing to forget."""

    def extend(self, tokens: object) -> None:
        """Nothing to learn."""

    def propose(self, tail: tuple[int, ...]) -> list[Candidate]:
        return [(50, 0), (51, 1)]


def growth(**settings: object) -> ExitGrowth:
    plan = TreePlan(**{"max_nodes": 8, "rates": {"table": [0.2, 0.1]}, "exit_layer": 2, **settings})  # type: ignore[arg-type]
    return ExitGrowth([7, 8], [Table()], plan, 5, frozenset([END]))


def test_the_best_nodes_of_a_depth_run_together_and_stand_first() -> None:
    tree = growth(exit_beam=2)
    assert tree.frontier == [0]
    tree.take([[(1, 0.6), (2, 0.35), (3, 0.05)]])
    assert [tree.tree.tokens[node] for node in tree.frontier] == [1, 2]
    tree.take([[(4, 0.9)], [(5, 0.2)]])
    assert [tree.tree.tokens[node] for node in tree.frontier] == [4]
    tree.take([[]])
    assert tree.frontier == []
    assert (tree.num_run, tree.tree.tokens[:4]) == (4, [8, 1, 2, 4])
    assert tree.tree.num_drafted == 8
    survivals = tree.tree.survivals[4:]
    assert survivals == sorted(survivals, reverse=True)


def test_the_best_score_of_a_token_counts_and_names_its_source() -> None:
    tree = growth(max_nodes=2)
    tree.take([[(50, 0.1), (51, 0.15)]])
    assert list(zip(tree.tree.tokens, tree.tree.sources, strict=True))[1:] == [(50, "table"), (51, EXIT)]
    assert tree.tree.cells[1:] == [0, -1]
    assert tree.tree.survivals[1:] == [0.2, 0.15]


def test_nodes_below_the_least_survival_do_not_run() -> None:
    tree = growth(exit_survival=0.5, exit_beam=4)
    tree.take([[(1, 0.6), (2, 0.4)]])
    assert [tree.tree.tokens[node] for node in tree.frontier] == [1]
    tree.take([[(3, 0.8)]])
    assert tree.frontier == []
    assert tree.num_run == 2


def test_an_end_token_is_a_leaf() -> None:
    tree = growth()
    tree.take([[(END, 0.9), (1, 0.05)]])
    assert tree.frontier == []
    end = tree.tree.tokens.index(END)
    assert end not in tree.tree.parents


def test_depth_and_number_of_nodes_are_bounds() -> None:
    tree = growth(max_depth=2, exit_beam=9, exit_survival=0.0)
    tree.take([[(1, 0.5), (2, 0.5)]])
    tree.take([[(3, 0.9)] for _ in tree.frontier])
    assert max(tree.tree.depths) == 2
    few = growth(max_nodes=1)
    few.take([[(1, 0.9)]])
    few.take([[(2, 0.9)]])
    assert few.tree.tokens == [8, 1]
    assert growth(max_nodes=0).frontier == []


def test_leaves_must_pay_and_nodes_that_have_run_stay() -> None:
    costs = [0.0, *(0.3 * count for count in range(1, 9))]
    tree = growth(node_costs=costs)
    tree.take([[(1, 0.29), (2, 0.5)]])
    tree.take([[(3, 0.1)]])
    assert tree.tree.tokens == [8, 2]
    cheap = growth(node_costs=[0.001 * count for count in range(9)])
    cheap.take([[(2, 0.5)]])
    cheap.take([[]])
    assert cheap.tree.num_drafted == 8


def test_an_exit_grows_best_first_only() -> None:
    with pytest.raises(ValueError, match="growth must be best_first where an exit drafts, got 'eagle2'"):
        TreePlan(4, exit_layer=1, growth="eagle2")
