"""The answer in words follows from the figures: what pays, how sure that is, where it comes from."""

from dataclasses import replace

import pytest

from specbound.fit.answer import NOTHING, Measured, answer

MEASURED = Measured(
    policy="static:lookup0.35_exit2_width2_annealed0.35_token",
    speedup=1.34,
    low=1.22,
    high=1.47,
    tokens_per_second=26.8,
    plain_tokens_per_second=20.0,
    reference="plain",
    outputs_equal=True,
    num_near_ties=0,
    num_prompts=16,
    num_tokens=900,
    accepted_by_source={"context": 61, "exit 2": 39},
    slowdown=0.02,
)
AGREEMENT = {0: 0.3, 1: 0.04, 2: 0.10}


def words(measured: Measured | None, finalists: dict[str, float] | None = None) -> str:
    return str(answer("SmolLM2", "bf16", "a CPU", measured, finalists or {"plain": 1.0}, AGREEMENT))


def test_gain_is_said_with_interval_setting_and_sources() -> None:
    text = words(MEASURED)
    assert text.startswith(
        "SmolLM2, bf16, this machine (a CPU): 1.34x plain decoding (1.22 to 1.47 over 16 prompts), same"
    )
    assert "context ≥ 0.35, else exit 2 ≥ 0.35, two tokens" in text
    assert "the context (61%) and exit 2 (39%)" in text.replace(" %", "%")
    assert "not used" not in text and "noise" not in text and "busy" not in text


def test_exits_that_nobody_uses_are_named_with_their_agreement() -> None:
    assert "agree 4 to 10 % (layers 1 to 2): not used. specbound train-exits may help" in words(
        replace(MEASURED, accepted_by_source={"context": 9})
    )


@pytest.mark.parametrize(
    "measured",
    [None, replace(MEASURED, speedup=1.01, low=0.98, high=1.05), replace(MEASURED, outputs_equal=False)],
)
def test_nothing_pays_where_plain_wins_or_the_gain_is_none_or_outputs_differ(measured: Measured | None) -> None:
    found = answer("m", "none", "a CPU", measured, {"plain": 1.0, "tree7": 0.9}, AGREEMENT)
    assert found.policy == "plain" and NOTHING in str(found)


def test_best_that_was_tried_is_named_where_nothing_pays() -> None:
    assert "tree of 7 drafts that cost no layer, reached 0.93x" in words(None, {"plain": 1.0, "tree7": 0.93})
    assert "measures 1.01x (0.98 to 1.05 over 16 prompts)" in words(
        replace(MEASURED, speedup=1.01, low=0.98, high=1.05)
    )


def test_doubts_are_said() -> None:
    text = words(replace(MEASURED, low=0.95, slowdown=0.4))
    assert "may be noise" in text and "slowed down by 40" in text
    assert "too few prompts, 4, for an interval" in words(replace(MEASURED, low=None, high=None, num_prompts=4))
    near = words(replace(MEASURED, outputs_equal=False, num_near_ties=1))
    assert "same output but for 1 near-ties" in near


def test_answer_says_what_trained_exits_brought() -> None:
    raced = {"static:exit2_width4": 1.31, "tree7": 1.25, "plain": 1.0}
    used = str(answer("m", "none", "a CPU", MEASURED, raced, AGREEMENT, has_trained=True))
    assert "The trained exits bring 4.8 %: 1.31x with them, 1.25x without" in used.replace("4.8%", "4.8 %")
    slow = str(answer("m", "none", "a CPU", None, {**raced, "static:exit2_width4": 1.2}, AGREEMENT, has_trained=True))
    assert "do not pay here: 1.20x with them, 1.25x without" in slow and "trained exits agree 4 to 10 %" in slow
    assert "train-exits" not in used + slow
