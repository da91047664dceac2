"""Batches: every row is decoded as it is alone, in shared layer calls that only rows with work take part in."""

import copy
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.cache import PreallocatedLayer
from specbound.decoding.output import GenerateOutput
from specbound.evaluation.verify import RandomPolicy
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.records import Decision, StepRecord
from tests.decoding.families import VARIANTS, random_model, random_prompt
from tests.step_fields import EXACT_FIELDS

LENGTHS = (9, 1, 30, 14)
"""Prompts of one token, and up to past the sliding window of 12."""
NEW_TOKENS = 12


class FollowingPolicy(StaticPolicy):
    """Decides by features, and asks for the full model's signals: each row must see its own."""

    needs_features = True
    needs_full_signals = True

    def decide(self, features: np.ndarray | None) -> Decision:
        assert features is not None
        return replace(super().decide(None), w_max=1 + int(features[1]) % 4)  # the last step's accepted drafts


class ScatteredPolicy(RandomPolicy):
    """Random decisions that depend on the place in the sequence, so that the rows of a step differ in theirs."""

    def observe(self, record: StepRecord) -> None:
        self.random.seed(record.context_length + record.num_emitted)


POLICIES: dict[str, Policy | None] = {
    "plain": None,
    "fixed": StaticPolicy((2,), threshold=0.0, w_max=4),
    "several exits": StaticPolicy((1, 2, 3), threshold=(0.3, 0.1, 0.05), w_max=6, alpha=0.5),
    "product": StaticPolicy((1, 3), threshold=0.05, w_max=5, combine="product"),
    "shallow": StaticPolicy((1, 3), threshold=0.05, w_max=5, d_max=1),
    "random": ScatteredPolicy(4, seed=0),
    "following": FollowingPolicy((1, 3), threshold=0.03),
}


def prompts_of(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[list[int]]:
    return [random_prompt(seed + index, length)[0].tolist() for index, length in enumerate(lengths)]


def padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    """The prompts as a left-padded tensor with its mask."""
    longest = max(len(prompt) for prompt in prompts)
    missing = [longest - len(prompt) for prompt in prompts]
    ids = [[0] * k + prompt for k, prompt in zip(missing, prompts, strict=True)]
    mask = [[0] * k + [1] * len(prompt) for k, prompt in zip(missing, prompts, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def plain(model: PreTrainedModel, prompts: list[list[int]], **settings: Any) -> torch.Tensor:
    """transformers' own batch; with eager attention row by row, because it takes the softmax in float32, where its
    float64 mask is -inf, so that padding becomes nan."""
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0} | settings
    if model.config._attn_implementation != "eager":
        return model.generate(**padded(prompts), **settings)
    rows = [model.generate(**padded([prompt]), **settings)[0, len(prompt) :] for prompt in prompts]
    return torch.cat([padded(prompts)["input_ids"], torch.stack(rows)], dim=1)


def alone(
    model: PreTrainedModel, policy: Policy | None, prompt: list[int], exactness: str = "token", **settings: Any
) -> GenerateOutput:
    decoder = SpecBoundDecoder(model, copy.deepcopy(policy), exactness=exactness)
    return decoder.decode([prompt], **{"max_new_tokens": NEW_TOKENS, "pad_token_id": 0} | settings)


def together(
    model: PreTrainedModel,
    policy: Policy | None,
    prompts: list[list[int]],
    exactness: str = "token",
    **settings: Any,
) -> GenerateOutput:
    decoder = SpecBoundDecoder(model, copy.deepcopy(policy), exactness=exactness)
    return decoder.decode(prompts, **{"max_new_tokens": NEW_TOKENS, "pad_token_id": 0} | settings)


def assert_same_steps(batch: list[StepRecord], single: list[StepRecord]) -> None:
    assert len(batch) == len(single)
    for ours, theirs in zip(batch, single, strict=True):
        assert [getattr(ours, name) for name in EXACT_FIELDS] == [getattr(theirs, name) for name in EXACT_FIELDS]
        for name in ("scores", "confidences", "entropies_nats"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-4, nan_ok=True)
        assert ours.full_margin == pytest.approx(theirs.full_margin, abs=1e-4, nan_ok=True)


def assert_rows_are_single_runs(batch: GenerateOutput, singles: list[GenerateOutput]) -> None:
    """Tokens and step records; what follows a row's end is padding (token 0)."""
    for row, single in enumerate(singles):
        num_tokens = single.stats.num_tokens
        begin = batch.sequences.shape[1] - max(each.stats.num_tokens for each in singles)
        new_tokens = batch.sequences[row, begin:].tolist()
        assert new_tokens[:num_tokens] == single.sequences[0, -num_tokens:].tolist(), row
        assert set(new_tokens[num_tokens:]) <= {0}
        assert batch.row_stats[row].num_tokens == num_tokens
        assert_same_steps(batch.row_stats[row].steps, single.stats.steps)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_equals_its_single_run_and_transformers_batch(name: str) -> None:
    model = random_model(name, dtype=torch.float64)
    prompts = prompts_of()
    expected = plain(model, prompts)
    drafted = accepted = 0
    for policy in ("plain", "several exits", "product", "following"):
        batch = together(model, POLICIES[policy], prompts)
        assert torch.equal(batch.sequences, expected)
        drafted, accepted = drafted + batch.stats.num_drafted, accepted + batch.stats.num_accepted
    assert 0 < accepted < drafted  # both ends of a step were exercised
    singles = [alone(model, POLICIES["random"], prompt) for prompt in prompts]
    assert_rows_are_single_runs(together(model, POLICIES["random"], prompts), singles)


@pytest.mark.parametrize("policy", POLICIES)
def test_step_records_of_every_row_are_those_of_its_single_run(policy: str) -> None:
    for dtype in (torch.float64, torch.float32):
        model = random_model("qwen3-sliding", num_layers=5, dtype=dtype)
        prompts = prompts_of((17, 5, 5, 40))
        singles = [alone(model, POLICIES[policy], prompt) for prompt in prompts]
        batch = together(model, POLICIES[policy], prompts)
        assert_rows_are_single_runs(batch, singles)


@pytest.mark.parametrize("seed", range(2))
def test_other_decisions_in_every_row_change_nothing(seed: int) -> None:
    model = random_model("llama", seed, num_layers=7, dtype=torch.float64)
    prompts = prompts_of((3 + seed, 8, 1, 21, 8, 13), seed)
    eos = plain(model, prompts, max_new_tokens=40)[1, -15].item()  # rows leave at different steps
    singles = [alone(model, ScatteredPolicy(7, seed), p, max_new_tokens=40, eos_token_id=eos) for p in prompts]
    batch = together(model, ScatteredPolicy(7, seed), prompts, max_new_tokens=40, eos_token_id=eos)
    assert torch.equal(batch.sequences, plain(model, prompts, max_new_tokens=40, eos_token_id=eos))
    assert_rows_are_single_runs(batch, singles)


@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_eager_attention_decodes_batches_too(name: str) -> None:
    model = random_model(name, dtype=torch.float64)
    model.set_attn_implementation("eager")
    prompts = prompts_of()
    for policy in (None, POLICIES["several exits"]):
        assert torch.equal(together(model, policy, prompts).sequences, plain(model, prompts))


def test_lists_padded_tensors_and_transformers_generate_give_the_same() -> None:
    model = random_model("llama", dtype=torch.float64)
    prompts = prompts_of()
    decoder = SpecBoundDecoder(model, POLICIES["several exits"])
    expected = plain(model, prompts, eos_token_id=5)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, "eos_token_id": 5}
    assert torch.equal(decoder.generate(prompts, **settings), expected)
    assert torch.equal(decoder.generate(**padded(prompts), **settings), expected)
    assert torch.equal(model.generate(**padded(prompts), **settings, custom_generate=decoder), expected)


def test_prompts_of_one_length_take_the_unpadded_path_and_give_the_same() -> None:
    model = random_model("mistral-sliding", dtype=torch.float64)
    prompts = prompts_of((14, 14, 14))
    for policy in POLICIES.values():
        singles = [alone(model, policy, prompt) for prompt in prompts]
        assert_rows_are_single_runs(together(model, policy, prompts), singles)


def test_rows_at_one_position_run_without_mask_and_index() -> None:
    model = random_model("llama")
    seen = []
    handle = model.model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((kwargs["attention_mask"], kwargs["position_ids"].shape)),
        with_kwargs=True,
    )
    together(model, None, prompts_of((7, 7)))
    handle.remove()
    assert seen == [(None, (1, 7))] * 2 + [(None, (1, 1))] * (NEW_TOKENS - 1)


def test_rows_end_at_their_own_end_tokens() -> None:
    model = random_model("llama", dtype=torch.float64)
    found = 0
    for seed in range(4):
        prompts = prompts_of((6, 11, 2, 6), seed)
        free = plain(model, prompts)[:, -NEW_TOKENS:]
        eos = [int(free[0, 0]), int(free[1, 9])] if seed % 2 else [int(free[2, 5])]
        expected = plain(model, prompts, eos_token_id=eos)
        for policy in (None, StaticPolicy((3,), 0.0, 6), POLICIES["random"]):
            batch = together(model, policy, prompts, eos_token_id=eos)
            assert torch.equal(batch.sequences, expected)
            found += len({stats.num_tokens for stats in batch.row_stats}) > 1
    assert found > 4


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3, 7])
def test_the_limit_ends_every_row(max_new_tokens: int) -> None:
    model = random_model("llama", dtype=torch.float64)
    prompts = prompts_of()
    expected = plain(model, prompts, max_new_tokens=max_new_tokens)
    for policy in POLICIES.values():
        batch = together(model, policy, prompts, max_new_tokens=max_new_tokens)
        assert torch.equal(batch.sequences, expected)
        assert [stats.num_tokens for stats in batch.row_stats] == [max_new_tokens] * 4


def test_rows_that_end_at_once_take_no_step() -> None:
    model = random_model("llama", dtype=torch.float64)
    prompts = prompts_of()
    free = plain(model, prompts)[:, -NEW_TOKENS:]
    for ended in ([0], [2], [1, 3], [0, 1, 2], [0, 1, 2, 3]):
        eos = [int(free[row, 0]) for row in ended]
        batch = together(model, POLICIES["fixed"], prompts, eos_token_id=eos)
        assert torch.equal(batch.sequences, plain(model, prompts, eos_token_id=eos))
        assert all(batch.row_stats[row].num_steps == 0 for row in ended)


SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 30}


def test_row_r_samples_with_seed_plus_r() -> None:
    model = random_model("llama", dtype=torch.float64)
    prompts = prompts_of()
    outputs = []
    for policy in (None, *(POLICIES[name] for name in ("several exits", "random", "following"))):
        singles = [alone(model, policy, p, seed=5 + row, **SAMPLING) for row, p in enumerate(prompts)]
        batch = together(model, policy, prompts, seed=5, **SAMPLING)
        assert_rows_are_single_runs(batch, singles)
        outputs.append(batch.sequences)
    assert all(torch.equal(sequences, outputs[0]) for sequences in outputs)
    assert not torch.equal(outputs[0], plain(model, prompts))


def test_several_samples_of_each_prompt_are_rows_with_seeds_of_their_own() -> None:
    model = random_model("llama", dtype=torch.float64)
    prompts = prompts_of((4, 9))
    settings = {"num_return_sequences": 3, **SAMPLING}
    for policy in (None, POLICIES["several exits"]):
        batch = together(model, policy, prompts, seed=5, **settings)
        singles = [alone(model, policy, prompts[row // 3], seed=5 + row, **SAMPLING) for row in range(6)]
        assert_rows_are_single_runs(batch, singles)
        assert torch.unique(batch.sequences, dim=0).shape[0] > 2


def test_processors_see_their_own_row() -> None:
    model = random_model("llama", dtype=torch.float64)
    prompts = prompts_of()
    settings = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3}
    for policy in (None, POLICIES["several exits"], POLICIES["random"]):
        singles = [alone(model, policy, prompt, **settings) for prompt in prompts]
        assert_rows_are_single_runs(together(model, policy, prompts, **settings), singles)
    assert not torch.equal(together(model, None, prompts, **settings).sequences, plain(model, prompts))


def test_layers_run_only_on_rows_that_have_work_and_once_for_verification() -> None:
    """Hooks count the rows of every layer call: exactly those that the rows' records claim, and no layer twice."""
    model = random_model("llama", num_layers=6, dtype=torch.float64)
    prompts = prompts_of((5, 9, 2, 30))
    eos = int(plain(model, prompts, max_new_tokens=40)[1, -25])
    policy = StaticPolicy((2, 4), threshold=(0.1, 0.02), w_max=5)
    num_rows: list[list[int]] = [[] for _ in range(6)]

    def count(layer: int):  # noqa: ANN202
        return lambda module, args: num_rows[layer].append(args[0].shape[0])

    handles = [layer.register_forward_pre_hook(count(index)) for index, layer in enumerate(model.model.layers)]
    stats = together(model, policy, prompts, max_new_tokens=40, eos_token_id=eos).row_stats
    for handle in handles:
        handle.remove()
    assert len({each.num_tokens for each in stats}) > 1  # rows left at different times
    num_prefills, num_steps = len(prompts), max(each.num_steps for each in stats)
    claimed = sum(each.num_layer_calls for each in stats)
    assert sum(map(sum, num_rows)) == claimed + num_prefills * 6
    assert len(num_rows[5]) == num_steps + num_prefills  # one deep pass for all rows of a step
    assert sum(map(len, num_rows)) < 0.6 * claimed  # calls are shared
    assert sum(num_rows[5]) == sum(each.num_steps for each in stats) + num_prefills


def test_finished_rows_leave_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    layers: weakref.WeakSet[PreallocatedLayer] = weakref.WeakSet()
    init = PreallocatedLayer.__init__

    def tracked(self: PreallocatedLayer, *args: Any) -> None:
        init(self, *args)
        layers.add(self)

    def held_bytes() -> int:
        buffers = [buffer for layer in layers if layer.is_initialized for buffer in (layer.keys, layer.values)]
        return sum(buffer.untyped_storage().nbytes() for buffer in buffers)

    monkeypatch.setattr(PreallocatedLayer, "__init__", tracked)
    model = random_model("llama", num_layers=2, dtype=torch.float64)
    prompts = prompts_of((6, 11, 2, 6, 9))
    free = plain(model, prompts, max_new_tokens=40)[:, -40:].tolist()
    eos = next(token for token in free[0] if 0 < sum(token in row for row in free) < 4)
    held: list[int] = []
    settings = {"max_new_tokens": 40, "eos_token_id": eos, "on_step": lambda record, row: held.append(held_bytes())}
    stats = together(model, None, prompts, **settings).row_stats
    num_rows = [sum(each.num_steps > step for each in stats) for step in range(max(each.num_steps for each in stats))]
    assert num_rows[-1] < num_rows[0]
    of_one = held[0] // num_rows[0]
    assert held == [rows * of_one for rows in num_rows for _ in range(rows)]


def test_statistics_of_the_batch_are_the_sum_of_its_rows() -> None:
    model = random_model("llama")
    seen: list[int] = []
    decoder = SpecBoundDecoder(model, POLICIES["several exits"])
    output = decoder.decode(prompts_of(), max_new_tokens=NEW_TOKENS, on_step=lambda record, row: seen.append(row))
    stats = output.stats
    assert stats.num_tokens == 4 * NEW_TOKENS
    for name in ("num_steps", "num_drafted", "num_accepted", "num_layer_calls", "num_step_tokens"):
        assert getattr(stats, name) == sum(getattr(row, name) for row in output.row_stats)
    assert stats.seconds == max(row.seconds for row in output.row_stats)
    assert [seen.count(row) for row in range(4)] == [row.num_steps for row in output.row_stats]
    assert seen[:4] == [0, 1, 2, 3]
    assert output.past_key_values is None


def test_scores_of_a_batch_are_those_of_its_rows() -> None:
    model = random_model("llama", dtype=torch.float64)
    prompts = prompts_of()
    settings = {"return_dict_in_generate": True, "output_scores": True}
    batch = together(model, POLICIES["fixed"], prompts, **settings)
    for row, prompt in enumerate(prompts):
        single = alone(model, POLICIES["fixed"], prompt, **settings)
        for ours, theirs in zip(batch.scores, single.scores, strict=True):
            torch.testing.assert_close(ours[row : row + 1], theirs)


@pytest.fixture
def new_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("new_memory_is_nan")
def test_no_row_reads_memory_that_it_has_not_written() -> None:
    model = random_model("qwen2-sliding", dtype=torch.float64)
    prompts = prompts_of((3, 1, 250, 14))  # the cache doubles on the way
    for policy in (None, POLICIES["several exits"]):
        batch = together(model, policy, prompts, max_new_tokens=12)
        assert torch.equal(batch.sequences, plain(model, prompts, max_new_tokens=12))


def test_a_long_batch_outgrows_its_first_cache() -> None:
    model = random_model("llama", num_layers=2, dtype=torch.float64)
    prompts = prompts_of((4, 40))
    batch = together(model, StaticPolicy((1,), 0.0, 3), prompts, max_new_tokens=300)
    assert torch.equal(batch.sequences, plain(model, prompts, max_new_tokens=300))


def test_bitwise_rows_equal_their_single_runs_in_bf16() -> None:
    model = random_model("qwen3-sliding", dtype=torch.bfloat16)
    prompts = prompts_of()
    outputs = []
    for policy in (None, POLICIES["random"]):
        singles = [alone(model, policy, prompt, "bitwise") for prompt in prompts]
        batch = together(model, policy, prompts, "bitwise")
        assert_rows_are_single_runs(batch, singles)
        outputs.append(batch.sequences)
    assert all(torch.equal(sequences, outputs[0]) for sequences in outputs)


def test_an_exception_in_a_batch_leaves_model_and_decoder_usable() -> None:
    model = random_model("llama", dtype=torch.float64)
    prompts = prompts_of((4, 9))
    decoder = SpecBoundDecoder(model, POLICIES["fixed"])
    for target in (1, 5, 9, 14):
        calls = 0

        def fail(module: object, args: tuple, last: int = target) -> None:
            nonlocal calls
            calls += 1
            if calls == last:
                raise KeyboardInterrupt

        handle = model.model.layers[1].register_forward_pre_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            decoder.generate(prompts, max_new_tokens=NEW_TOKENS)
        handle.remove()
        assert torch.equal(decoder.generate(prompts, max_new_tokens=NEW_TOKENS), plain(model, prompts))
