"""Who enters the last race: the winners, and with trained exits the best with and without them, wherever they stand."""

from specbound.fit.entrants import finalists, raced

SPEEDS = {
    "static:exit1_width2": 1.2,
    "static:lookup_width4_annealed0.1,alpha0.5": 1.1,
    "tree7": 0.9,
    "exit1_tree7": 0.8,
}


def test_names_are_those_that_a_decoder_takes() -> None:
    ranking = [
        {"name": name, "over_plain": over}
        for name, over in (("lookup_width4_annealed0.1", 1.1), ("plain", 1.0), ("exit1_width2", 0.9))
    ]
    trees = [{"name": "plain", "over_plain": 1.0}, {"name": "tree7", "over_plain": 0.8}]
    found = {"static": {"alpha": 0.5, "exit_layers": [0, 1], "ranking": ranking}, "tree": {"ranking": trees}}
    expected = {"static:lookup_width4_annealed0.1,alpha0.5": 1.1, "static:exit1_width2": 0.9, "tree7": 0.8}
    assert raced(found) == expected


def test_winners_that_are_not_far_behind_enter() -> None:
    assert finalists(SPEEDS, has_trained=False) == ["static:exit1_width2"]
    assert finalists({**SPEEDS, "tree7": 0.98}, has_trained=False) == ["static:exit1_width2", "tree7", "free_tree"]
    assert finalists(dict.fromkeys(SPEEDS, 0.5), has_trained=False) == []


def test_with_trained_exits_the_best_of_both_kinds_enter_in_any_case() -> None:
    assert finalists(SPEEDS, has_trained=True) == ["static:exit1_width2", "static:lookup_width4_annealed0.1,alpha0.5"]
    assert finalists({"tree7": 0.9, "exit1_tree7": 0.8}, has_trained=True) == ["exit1_tree7", "tree7"]
