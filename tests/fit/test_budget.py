"""Sizes: as much as the time allows, never fewer prompts than say anything, never more than say more."""

import pytest

from specbound.fit.budget import BOUNDS, OVERDRAFT, Plan, Speed, choose_sizes

SLOW = Speed(per_token_s=0.06, per_prompt_s=0.4, recorded_token_s=0.1)


def sizes_at(minutes: float, speed: Speed = SLOW, has_bigrams: bool = True) -> dict[str, int]:
    sizes = choose_sizes(speed, minutes, 64, has_bigrams)
    return {name: getattr(sizes, name) for name in BOUNDS}


def test_fast_models_get_the_most_of_everything_and_slow_ones_the_least() -> None:
    assert sizes_at(20, Speed(1e-4, 1e-4, 2e-4)) == {name: most for name, (_, most) in BOUNDS.items()}
    assert sizes_at(2, Speed(1.0, 1.0, 2.0)) == {name: least for name, (least, _) in BOUNDS.items()}


def test_more_minutes_never_mean_fewer_prompts_and_estimates_keep_to_the_time() -> None:
    before = sizes_at(2)
    for minutes in (5, 10, 20, 40, 80):
        after = sizes_at(minutes)
        assert all(after[name] >= before[name] for name in BOUNDS)
        sizes = choose_sizes(SLOW, minutes, 64, True)
        is_least = any(after[name] == BOUNDS[name][0] for name in BOUNDS)
        assert is_least or sizes.seconds <= minutes * 60
        before = after
    assert after["profile"] > sizes_at(2)["profile"]


def test_estimates_name_every_stage() -> None:
    sizes = choose_sizes(SLOW, 20, 64, has_bigrams=False)
    assert {"profile", "race", "train", "final", "measure", "costs", "bigrams"} <= set(sizes.estimates)
    assert sizes.seconds == pytest.approx(sum(sizes.estimates.values()))
    assert choose_sizes(SLOW, 20, 64, has_bigrams=True).estimates["bigrams"] == 0


def test_where_the_fewest_prompts_take_too_long_they_get_fewer_tokens() -> None:
    busy = Speed(per_token_s=0.35, per_prompt_s=1.5, recorded_token_s=0.5)
    sizes = choose_sizes(busy, 30, 64, True)
    assert 16 <= sizes.max_new_tokens < 64 and sizes.seconds <= 1800 * (1 + OVERDRAFT)
    assert choose_sizes(busy, 2, 64, True).max_new_tokens == 16  # nothing fits: the least that says anything
    assert choose_sizes(Speed(1e-3, 1e-3, 2e-3), 20, 64, True).max_new_tokens == 64
    assert choose_sizes(busy, 30, 20, True).max_new_tokens <= 20


def test_time_left_follows_how_the_estimates_have_held() -> None:
    plan = Plan({"profile": 100.0, "race": 100.0, "measure": 50.0})
    assert plan.left_s(30.0) == 220.0
    plan.end("profile", 200.0)
    assert plan.left_s(50.0) == 250.0  # everything takes twice as long here
    assert plan.left_s(201.0) is None
    plan.end("race", 0.1)  # an earlier run had ended it
    assert plan.left_s(10.0) == 90.0
