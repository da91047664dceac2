"""Where a repeating continuation is cut."""

import random

from specbound_profiling.prompts.loops import LoopDetector, loop_cut


def test_cut_stands_where_the_third_standing_of_an_8_gram_begins() -> None:
    piece = [1, 2, 3, 4, 5, 6, 7, 8]
    assert loop_cut([*piece, 0, *piece, 9, *piece, 7]) == 18
    assert loop_cut([*piece, 0, *piece, 9, *piece[:-1]]) is None


def test_standings_may_overlap() -> None:
    assert loop_cut([5] * 9) is None
    assert loop_cut([5] * 10) == 2
    assert loop_cut([1, 2, 3] * 10) == 6


def test_detector_says_so_at_the_first_token_that_completes_the_third_standing() -> None:
    detector = LoopDetector()
    assert [detector.add(5) for _ in range(10)] == [None] * 9 + [2]


def test_random_text_is_not_cut() -> None:
    rng = random.Random(0)
    assert loop_cut(rng.randrange(50) for _ in range(2000)) is None
    assert loop_cut([]) is None
