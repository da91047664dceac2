"""The decoder: the output is the model's own, the work is bounded, the model is untouched."""

import copy
import math
import threading

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.evaluation.verify import RandomPolicy
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from specbound_controller.records import Decision, StepRecord
from tests.decoding.families import VARIANTS, random_model, random_prompt

NEW_TOKENS = 32


def policies(num_layers: int = 4) -> list[StaticPolicy | None]:
    return [
        None,
        StaticPolicy((2,), threshold=0.0, w_max=4),
        StaticPolicy((1, 2, 3), threshold=(0.3, 0.1, 0.05), w_max=6, alpha=0.5),
        StaticPolicy((1, 3), threshold=0.05, w_max=5, combine="product"),
        StaticPolicy((1, 3), threshold=0.05, w_max=5, d_max=1),
        RandomPolicy(num_layers, seed=0),
    ]


def plain(model: PreTrainedModel, prompt: torch.Tensor, **settings: object) -> torch.Tensor:
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0} | settings
    return model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)


@pytest.mark.parametrize("name", VARIANTS)
def test_greedy_output_equals_transformers_generate(name: str) -> None:
    model = random_model(name)
    drafted = accepted = 0
    for seed, length in enumerate((1, 9, 30)):
        prompt = random_prompt(seed, length)
        expected = plain(model, prompt)
        for policy in policies()[seed % 2 :: 2]:
            output = SpecBoundDecoder(model, policy).decode(prompt, max_new_tokens=NEW_TOKENS)
            assert torch.equal(output.sequences, expected), (name, seed, policy)
            drafted += output.stats.num_drafted
            accepted += output.stats.num_accepted
    assert 0 < accepted < drafted  # both ends of a step were exercised


@pytest.mark.parametrize("seed", range(4))
def test_random_decisions_at_every_step_change_nothing_in_fp64(seed: int) -> None:
    model = random_model("llama", seed, num_layers=6, dtype=torch.float64)
    prompt = random_prompt(seed, 5 + seed)
    expected = plain(model, prompt, max_new_tokens=100)
    output = SpecBoundDecoder(model, RandomPolicy(6, seed)).decode(prompt, max_new_tokens=100)
    assert torch.equal(output.sequences, expected)


def test_width_zero_is_plain_decoding_without_extra_work() -> None:
    model = random_model("llama")
    stats = SpecBoundDecoder(model).decode(random_prompt(0, 6), max_new_tokens=20).stats
    assert stats.tokens_per_step == 1.0
    assert stats.layer_calls_per_token == 4.0
    assert math.isnan(stats.acceptance_rate)
    for step in stats.steps:
        assert (step.layer_calls_by_rows, step.head_reads_by_rows) == ({1: 4}, {1: 1})
        assert (step.num_exit_tests, step.stop_reason) == (0, "off")


def test_layers_run_once_per_token_and_step() -> None:
    """Hooks count the rows that each layer really sees, and which token positions they are."""
    model = random_model("llama", num_layers=6)
    seen: list[list[tuple[int, int]]] = [[] for _ in range(6)]

    def count(layer: int):  # noqa: ANN202
        def hook(module: object, args: tuple, kwargs: dict) -> None:
            positions = kwargs["position_ids"][0]
            seen[layer].append((int(positions[0]), int(positions[-1]) + 1))

        return hook

    handles = [
        layer.register_forward_pre_hook(count(i), with_kwargs=True) for i, layer in enumerate(model.model.layers)
    ]
    ends: list[list[int]] = []
    decoder = SpecBoundDecoder(model, RandomPolicy(6, 3))
    stats = decoder.decode(
        random_prompt(1, 7), max_new_tokens=80, on_step=lambda record, row: ends.append([len(calls) for calls in seen])
    ).stats
    for handle in handles:
        handle.remove()

    begin = [1] * 6  # the prefill call
    assert all(calls[0] == (0, 7) for calls in seen)
    for record, end in zip(stats.steps, ends, strict=True):
        pending = range(record.context_length - 1, record.context_length + record.num_drafted)
        rows_by_layer = [[p for a, b in seen[i][begin[i] : end[i]] for p in range(a, b)] for i in range(6)]
        assert all(sorted(rows) == list(pending) for rows in rows_by_layer)  # every token once in every layer
        assert len(seen[5][begin[5] : end[5]]) == 1  # one deep pass
        assert record.num_layer_calls == sum(e - b for e, b in zip(end, begin, strict=True))
        assert record.num_layer_rows == 6 * (record.num_drafted + 1)
        begin = end


def test_work_of_a_fixed_draft_is_what_the_design_says() -> None:
    model = random_model("llama", num_layers=6)
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, w_max=3))
    stats = decoder.decode(random_prompt(0, 5), max_new_tokens=60).stats
    step = next(s for s in stats.steps if s.stop_reason == "width" and s.num_drafted == 3)
    assert step.layer_calls_by_rows == {1: 4 * 2, 4: 4}  # 3 drafts and the last token shallow, then 4 rows deep
    assert step.head_reads_by_rows == {1: 3, 4: 1}
    assert step.exit_layers == (2, 2, 2)


def test_a_token_without_an_exit_ends_the_draft_and_its_shallow_work_is_kept() -> None:
    model = random_model("llama", num_layers=6)
    policy = StaticPolicy((2, 4), threshold=2.0, w_max=5)  # no probability reaches 2
    stats = SpecBoundDecoder(model, policy).decode(random_prompt(0, 5), max_new_tokens=20).stats
    for step in stats.steps[:-1]:
        assert (step.num_drafted, step.stop_reason) == (0, "depth")
        assert step.layer_calls_by_rows == {1: 6}
        assert step.num_exit_tests == 2
    assert stats.tokens_per_step == 1.0


def test_eos_inside_a_draft_ends_where_plain_decoding_ends() -> None:
    model = random_model("llama")
    found = 0
    for seed in range(4):
        prompt = random_prompt(seed, 6)
        free = plain(model, prompt)[0, 6:].tolist()
        for index in (1, 3, 7, 20):
            eos = [free[index], free[index - 1]] if seed % 2 else free[index]
            expected = plain(model, prompt, eos_token_id=eos)
            for policy in (StaticPolicy((3,), 0.0, 6), StaticPolicy((2, 3), 0.05, 6), None):
                output = SpecBoundDecoder(model, policy).decode(prompt, max_new_tokens=NEW_TOKENS, eos_token_id=eos)
                assert torch.equal(output.sequences, expected)
                found += any(s.stop_reason == "eos" and s.num_accepted for s in output.stats.steps)
    assert found > 0


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3, 5, 11])
def test_the_limit_inside_a_draft_cuts_exactly(max_new_tokens: int) -> None:
    model = random_model("llama")
    prompt = random_prompt(4, 6)
    expected = plain(model, prompt, max_new_tokens=max_new_tokens)
    for policy in policies():
        output = SpecBoundDecoder(model, policy).decode(prompt, max_new_tokens=max_new_tokens)
        assert torch.equal(output.sequences, expected)
        assert output.stats.num_tokens == max_new_tokens
        assert all(s.num_drafted < max_new_tokens for s in output.stats.steps)


@pytest.mark.parametrize("exit_layer", [-1, 4, 5])
def test_an_exit_layer_outside_the_model_is_refused(exit_layer: int) -> None:
    for exits in ((exit_layer,), tuple(sorted((2, exit_layer)))):
        decoder = SpecBoundDecoder(random_model("llama"), StaticPolicy(exits, 0.0, 4))
        with pytest.raises(InputError, match=rf"exit_layer must be in \[0, 3\] for a 4-layer model, got {exit_layer}"):
            decoder.decode(random_prompt(0, 5), max_new_tokens=9)


def test_a_model_that_is_changed_after_the_decoder_was_built_is_decoded_rightly_or_refused() -> None:
    model = random_model("llama")
    prompt = random_prompt(0, 9)
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4))
    model.set_attn_implementation("eager")
    assert torch.equal(decoder.decode(prompt, max_new_tokens=30).sequences, plain(model, prompt, max_new_tokens=30))
    model.train()
    with pytest.raises(InputError, match="training mode"):
        decoder.decode(prompt, max_new_tokens=9)


def test_a_long_output_outgrows_the_first_cache() -> None:
    model = random_model("llama", num_layers=2)
    prompt = random_prompt(0, 4)
    output = SpecBoundDecoder(model, StaticPolicy((1,), 0.0, 3)).decode(prompt, max_new_tokens=330)
    assert torch.equal(output.sequences, plain(model, prompt, max_new_tokens=330))


def test_two_layer_model_and_one_token_prompt() -> None:
    model = random_model("llama", num_layers=2)
    prompt = random_prompt(5, 1)
    output = SpecBoundDecoder(model, StaticPolicy((1,), 0.0, 1)).decode(prompt, max_new_tokens=NEW_TOKENS)
    assert torch.equal(output.sequences, plain(model, prompt))


def test_inside_transformers_generate_the_same_decoder_gives_the_same_output() -> None:
    model = random_model("llama")
    prompt = random_prompt(6, 9)
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4))
    expected = plain(model, prompt, eos_token_id=5)
    assert torch.equal(plain(model, prompt, eos_token_id=5, custom_generate=decoder), expected)
    assert torch.equal(decoder.decode(prompt, max_new_tokens=NEW_TOKENS, eos_token_id=5).sequences, expected)


def test_the_models_generation_config_is_honoured() -> None:
    model = random_model("llama")
    prompt = random_prompt(7, 4)
    model.generation_config = GenerationConfig(max_new_tokens=9, eos_token_id=[11, 12], pad_token_id=0)
    output = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4)).decode(prompt)
    assert torch.equal(output.sequences, model.generate(prompt))


def test_an_argument_of_the_call_wins_over_a_sampling_generation_config() -> None:
    model = random_model("llama")
    prompt = random_prompt(7, 4)
    expected = plain(model, prompt, max_new_tokens=9)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, pad_token_id=0)
    decoder = SpecBoundDecoder(model, StaticPolicy((2,), 0.0, 4))
    assert torch.equal(decoder.generate(prompt, max_new_tokens=9, do_sample=False), expected)
    model.generation_config.repetition_penalty = 1.3
    twin = greedy_twin(model)
    assert torch.equal(SpecBoundDecoder(twin).generate(prompt, max_new_tokens=9), expected)
    assert torch.equal(twin.generate(prompt, max_new_tokens=9), expected)
    assert model.generation_config.do_sample and twin.lm_head.weight is model.lm_head.weight


class Interruption(KeyboardInterrupt):
    """Raised on purpose."""


@pytest.mark.parametrize("kind", [RuntimeError, Interruption])
def test_an_exception_at_any_layer_call_leaves_model_and_decoder_usable(kind: type[BaseException]) -> None:
    model = random_model("qwen3-sliding")
    prompt = random_prompt(8, 14)
    expected = plain(model, prompt, max_new_tokens=12)
    config, state = copy.deepcopy(model.config.to_dict()), copy.deepcopy(model.state_dict())
    decoder = SpecBoundDecoder(model, StaticPolicy((1, 3), 0.05, 4))
    calls = 0

    def fail_at(target: int):  # noqa: ANN202
        def hook(module: object, args: tuple) -> None:
            nonlocal calls
            calls += 1
            if calls == target:
                raise kind("on purpose")

        return hook

    target = 0
    while True:
        target, calls = target + 1, 0
        handles = [layer.register_forward_pre_hook(fail_at(target)) for layer in model.model.layers]
        try:
            output = decoder.decode(prompt, max_new_tokens=12)
        except kind:
            continue
        finally:
            for handle in handles:
                handle.remove()
        break
    assert target > 30  # prefill, drafts and verification were all interrupted once
    assert torch.equal(output.sequences, expected)
    assert model.config.to_dict() == config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))
    assert torch.equal(plain(model, prompt, max_new_tokens=12), expected)


def test_two_decoders_in_two_threads_share_one_model() -> None:
    model = random_model("llama")
    prompts = [random_prompt(seed, 5) for seed in (0, 1)]
    expected = [plain(model, prompt) for prompt in prompts]
    results: dict[int, list[bool]] = {0: [], 1: []}

    def work(index: int) -> None:
        decoder = SpecBoundDecoder(model, policies()[index + 1])
        for _ in range(5):
            sequences = decoder.decode(prompts[index], max_new_tokens=NEW_TOKENS).sequences
            results[index].append(torch.equal(sequences, expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {0: [True] * 5, 1: [True] * 5}


class Collector:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.values: list[list[int]] = []
        self.num_ends = 0

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value.flatten().tolist())

    def end(self) -> None:
        self.num_ends += 1


def test_a_streamer_gets_the_prompt_and_then_every_token_once_in_order() -> None:
    model = random_model("llama")
    streamer = Collector()
    output = SpecBoundDecoder(model, StaticPolicy((3,), 0.0, 5)).decode(
        random_prompt(0, 6), max_new_tokens=30, streamer=streamer
    )
    assert [len(v) for v in streamer.values] == [6] + [1] * 30
    assert [t for v in streamer.values for t in v] == output.sequences[0].tolist()
    assert streamer.num_ends == 1


def test_step_records_can_be_switched_off_and_counts_stay() -> None:
    model = random_model("llama")
    policy = StaticPolicy((2,), 0.0, 4)
    kept = SpecBoundDecoder(model, policy).decode(random_prompt(0, 6), max_new_tokens=30).stats
    dropped = SpecBoundDecoder(model, policy, record_steps=False).decode(random_prompt(0, 6), max_new_tokens=30).stats
    assert dropped.steps == [] and len(kept.steps) == kept.num_steps
    assert dropped.accepted_histogram == kept.accepted_histogram


class NeedyPolicy(StaticPolicy):
    """Fixed decision, but asks for everything that a learned policy may see."""

    needs_features = True
    needs_full_signals = True

    def __init__(self) -> None:
        super().__init__((2,), 0.01, 4)
        self.vectors: list[np.ndarray] = []
        self.records: list[StepRecord] = []

    def decide(self, features: np.ndarray | None) -> Decision:
        assert features is not None
        self.vectors.append(features.copy())
        return super().decide(features)

    def observe(self, record: StepRecord) -> None:
        self.records.append(record)


def test_full_signals_are_those_of_the_last_committed_position() -> None:
    model = random_model("llama")
    policy = NeedyPolicy()
    output = SpecBoundDecoder(model, policy).decode(random_prompt(0, 6), max_new_tokens=24)
    logits = model(output.sequences).logits[0].double()
    for record in policy.records:
        row = logits[record.context_length + record.num_emitted - 2].log_softmax(-1)
        top = row.topk(2).values
        assert record.full_confidence == pytest.approx(top[0].exp().item(), abs=1e-4)
        assert record.full_entropy_nats == pytest.approx(-(row.exp() * row).sum().item(), abs=1e-4)
        assert record.full_margin == pytest.approx((top[0] - top[1]).item(), abs=1e-4)
    assert len(policy.vectors) == len(policy.records)
