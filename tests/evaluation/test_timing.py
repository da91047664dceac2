"""Timing: order, medians, equality, near-ties, the contention probe."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.evaluation.timing import (
    ContentionProbe,
    Method,
    TimedPrompt,
    Timing,
    find_differences,
    policy_method,
    time_methods,
    transformers_method,
)
from specbound_controller.policy import StaticPolicy
from specbound_profiling.replay.bootstrap import bootstrap_ratio
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama()


def prompts(number: int, limit: int = 12) -> list[TimedPrompt]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(2, 50, (1, 5), generator=generator) for _ in range(number)]
    return [TimedPrompt(f"p{i}", "even" if i % 2 == 0 else "odd", x, limit) for i, x in enumerate(ids)]


def decoder_of(model: LlamaForCausalLM) -> SpecBoundDecoder:
    return SpecBoundDecoder(greedy_twin(model), record_steps=False)


def counting_methods(names: str, calls: list[str]) -> list[Method]:
    def method(name: str) -> Method:
        def run(prompt: TimedPrompt) -> tuple[list[int], None]:
            calls.append(name)
            return [1] * prompt.max_new_tokens, None

        return Method(name, run)

    return [method(name) for name in names]


def test_every_method_runs_once_per_prompt_and_round_and_each_goes_first_equally_often() -> None:
    calls: list[str] = []
    timings = time_methods(counting_methods("abc", calls), prompts(3), 2, ContentionProbe(16, 1))
    timed = calls[3:]  # the first three warm up
    assert Counter(timed) == {"a": 6, "b": 6, "c": 6}
    assert Counter(timed[::3]) == {"a": 2, "b": 2, "c": 2}
    assert all(len(timing.runs_s) == 2 for of_method in timings.values() for timing in of_method)


def test_seconds_are_the_median_over_rounds() -> None:
    assert Timing(runs_s=[0.1, 9.0, 0.2]).seconds == 0.2


def test_a_method_whose_runs_differ_is_found_out() -> None:
    answers = iter(([0], [1], [2], [1]))  # the first one warms up
    method = Method("moody", lambda prompt: (next(answers), None))
    (timing,) = time_methods([method], prompts(1), 3, ContentionProbe(16, 1))["moody"]
    assert (timing.tokens, timing.num_deviating_runs) == ([1], 1)


def test_sampled_prompts_take_their_own_seed(model: LlamaForCausalLM) -> None:
    decoder = decoder_of(model)
    sampled = [
        replace(p, sampling={"do_sample": True, "temperature": 2.0, "seed": 5 + i}) for i, p in enumerate(prompts(2))
    ]
    sampled.append(replace(sampled[0], sampling={"do_sample": True, "temperature": 2.0, "seed": 9}))
    methods = [
        transformers_method(model),
        policy_method("plain", decoder, StaticPolicy(())),
        policy_method("fixed", decoder, StaticPolicy((2,), 0.0, 3)),
    ]
    timings = time_methods(methods, sampled, 2, ContentionProbe(16, 1))
    assert all(timing.num_deviating_runs == 0 for of_method in timings.values() for timing in of_method)
    plain = [timing.tokens for timing in timings["plain"]]
    assert plain == [timing.tokens for timing in timings["fixed"]]
    assert plain[0] != plain[2] and plain[0] != timings["transformers"][0].tokens


def test_the_probe_samples_before_between_and_after() -> None:
    probe = ContentionProbe(16, 1)
    time_methods(counting_methods("a", []), prompts(3), 2, probe)
    assert len(probe.seconds) == 1 + 3 * 2


def test_a_slowdown_above_ten_per_cent_is_noise() -> None:
    probe = ContentionProbe(16, 1)
    probe.seconds = [1.0, 1.09]
    assert probe.is_quiet
    probe.seconds = [1.0, 1.0, 1.11]
    assert not probe.is_quiet and probe.slowdown == pytest.approx(0.11)


def test_all_methods_give_the_same_tokens(model: LlamaForCausalLM) -> None:
    decoder = decoder_of(model)
    methods = [
        transformers_method(model),
        policy_method("plain", decoder, StaticPolicy(())),
        policy_method("fixed", decoder, StaticPolicy((2,), 0.0, 3)),
    ]
    asked = prompts(3)
    timings = time_methods(methods, asked, 1, ContentionProbe(16, 1))
    assert find_differences(timings, asked, ModelAdapter(model)) == []
    assert [t.tokens for t in timings["transformers"]] == [t.tokens for t in timings["plain"]]
    assert timings["transformers"][0].stats is None and timings["fixed"][0].stats is not None


def test_no_setting_of_the_generation_config_reaches_a_method(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = prompts(1)[0]
    expected = policy_method("plain", decoder_of(model), StaticPolicy(())).run(prompt)[0]
    asked = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        repetition_penalty=2.0,
        no_repeat_ngram_size=1,
        suppress_tokens=expected[:2],
        bad_words_ids=[[expected[0]]],
        sequence_bias=[[[expected[0]], -9.0]],
        forced_eos_token_id=3,
        exponential_decay_length_penalty=(1, 2.0),
        max_length=7,
    )
    monkeypatch.setattr(model, "generation_config", asked)
    assert transformers_method(model).run(prompt)[0] == expected
    assert policy_method("plain", decoder_of(model), StaticPolicy(())).run(prompt)[0] == expected
    assert model.generation_config is asked


def test_a_wrong_token_is_found_and_is_no_near_tie(model: LlamaForCausalLM) -> None:
    asked = prompts(1)
    plain = policy_method("plain", decoder_of(model), StaticPolicy(())).run(asked[0])[0]
    wrong = [*plain[:6], (plain[6] + 1) % 50, *plain[7:]]
    timings = {"plain": [Timing(plain)], "broken": [Timing(wrong)], "short": [Timing(plain[:4])]}
    broken, short = find_differences(timings, asked, ModelAdapter(model))
    assert (broken.method, broken.position, short.method, short.position) == ("broken", 6, "short", 4)
    assert not broken.is_near_tie
    assert "broken differs from plain decoding at new token 6 of p0: bug" in broken.describe()


def test_bootstrap_interval_holds_the_ratio_and_is_a_point_where_prompts_agree() -> None:
    rng = np.random.default_rng(0)
    denominator = rng.uniform(1, 2, 30)
    low, high = bootstrap_ratio(denominator * rng.uniform(1.0, 2.0, 30), denominator, seed=0)
    assert 1.0 < low < 1.5 < high < 2.0
    assert bootstrap_ratio(2 * denominator, denominator, seed=0) == pytest.approx((2.0, 2.0))


def test_too_few_prompts_give_no_interval() -> None:
    assert all(np.isnan(bootstrap_ratio(np.ones(2), np.ones(2), seed=0)))
