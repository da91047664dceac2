"""Rates of sources on held out answers: by hand, and shrunk to the priors where little was seen."""

import numpy as np
import pytest

from specbound.stores.rates import Answer, counted_rates
from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.trees.rates import PRIOR_WEIGHT, prior_rates

TABLE = BigramTable(np.array([[1, 2], [2, 0], [0, 1]], dtype=np.int32))
CYCLE = [0, 1, 2] * 20
IDS = [f"p{number}" for number in range(40)]


def answers(tokens: list[int]) -> list[Answer]:
    return [Answer(prompt_id, [0, 1, 2], tokens) for prompt_id in IDS]


def test_some_prompts_are_held_out() -> None:
    held = [answer for answer in answers(CYCLE) if answer.is_held_out]
    assert 0 < len(held) < len(IDS) / 2


def test_rates_are_hits_over_trials_of_the_held_out_answers() -> None:
    found, priors = counted_rates(answers(CYCLE), TABLE, 10**6), prior_rates()
    num_tokens = len(CYCLE) * sum(answer.is_held_out for answer in answers(CYCLE))
    first, second = found["bigrams"][:2]
    assert first == pytest.approx((num_tokens + PRIOR_WEIGHT * priors["bigrams"][0]) / (num_tokens + PRIOR_WEIGHT))
    assert second == pytest.approx(PRIOR_WEIGHT * priors["bigrams"][1] / (num_tokens + PRIOR_WEIGHT))
    assert found["bigrams"][2:] == pytest.approx(priors["bigrams"][2:])
    assert "recycled" not in found


def test_own_text_is_counted_on_other_answers_than_those_that_judge_it() -> None:
    tokens = np.random.default_rng(0).integers(0, 3, size=60).tolist()
    own = [Answer(i, [0], tokens if Answer(i, [], []).is_held_out else CYCLE) for i in IDS]
    found = counted_rates(own, TABLE, 10**6)
    assert max(found["own_text"]) < 0.6  # random text is not what the cycle says
    assert max(counted_rates(answers(CYCLE), TABLE, 10**6)["own_text"]) > 0.95
