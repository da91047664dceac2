"""Successive halving: who leaves when, on which prompts, and what a standing counts. Time is a fake clock's."""

from collections import Counter

import pytest
import torch

from specbound.evaluation import timing
from specbound.evaluation.timing import ContentionProbe, Method, TimedPrompt
from specbound.evaluation.tournament import successive_halving

PROMPTS = [TimedPrompt(f"p{i}", "ab"[i % 2], torch.ones(1, 3, dtype=torch.int64), 8) for i in range(8)]


class Clock:
    """Stands still but when a method decodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.runs = 0.0, list[tuple[str, str]]()
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def method(self, name: str, seconds: float, num_tokens: int = 10) -> Method:
        def run(prompt: TimedPrompt) -> tuple[list[int], None]:
            self.now += seconds
            self.runs.append((name, prompt.prompt_id))
            return [1] * num_tokens, None

        return Method(name, run)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def quiet_probe(monkeypatch: pytest.MonkeyPatch) -> ContentionProbe:
    monkeypatch.setattr(ContentionProbe, "sample", lambda self: None)
    return ContentionProbe()


def test_the_slower_half_leaves_and_rounds_grow(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [clock.method(f"m{i}", 1.0 + i) for i in (5, 2, 7, 0, 3, 6, 1, 4)]
    rounds: list[tuple[int, int]] = []
    standings = successive_halving(
        methods, clock.method("plain", 20.0), PROMPTS, quiet_probe(monkeypatch), lambda *each: rounds.append(each)
    )
    assert rounds == [(8, 2), (4, 4), (2, 8)]
    assert [standing.name for standing in standings] == [*(f"m{i}" for i in range(8)), "plain"]
    runs = {standing.name: standing.num_runs for standing in standings}
    assert runs == {"m0": 14, "m1": 14, "m2": 6, "m3": 6, **dict.fromkeys(("m4", "m5", "m6", "m7"), 2), "plain": 14}
    best = standings[0]
    assert best.tokens_per_second == pytest.approx(10.0) and best.over_reference == pytest.approx(20.0)
    assert standings[2].over_reference == pytest.approx(20 / 3)


def test_rounds_are_even_over_the_kinds_of_content(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [clock.method(f"m{i}", 1.0 + i) for i in range(4)]
    successive_halving(methods, clock.method("plain", 9.0), PROMPTS, quiet_probe(monkeypatch))
    seen = Counter(prompt for name, prompt in clock.runs if name == "m3")
    assert set(seen) == {"p0", "p1", "p2", "p3"}  # two of each kind; the first one also warms up


def test_plain_decoding_wins_where_nothing_is_faster(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [clock.method(f"m{i}", 2.0 + i) for i in range(3)]
    standings = successive_halving(methods, clock.method("plain", 1.0), PROMPTS, quiet_probe(monkeypatch))
    assert [standing.name for standing in standings] == ["plain", "m0", "m1", "m2"]
    assert standings[1].over_reference == pytest.approx(0.5)


def test_speed_is_of_sums_over_all_rounds(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is fast on its first prompt only is caught up with."""
    calls = Counter[str]()

    def tiring(prompt: TimedPrompt) -> tuple[list[int], None]:
        calls["tiring"] += 1
        clock.now += 1.0 if calls["tiring"] <= 3 else 5.0
        return [1] * 10, None

    methods = [
        Method("tiring", tiring),
        clock.method("steady", 2.0),
        clock.method("slow", 8.0),
        clock.method("slower", 9.0),
    ]
    standings = successive_halving(methods, clock.method("plain", 20.0), PROMPTS, quiet_probe(monkeypatch))
    assert [standing.name for standing in standings[:2]] == ["steady", "tiring"]


def test_one_method_and_one_prompt_are_enough(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    standings = successive_halving(
        [clock.method("m", 1.0)], clock.method("plain", 2.0), PROMPTS[:1], quiet_probe(monkeypatch)
    )
    assert [standing.name for standing in standings] == ["m", "plain"]
