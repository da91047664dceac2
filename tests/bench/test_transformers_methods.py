"""transformers' methods: equal outputs, settings that take effect, nothing left behind, counts by hooks."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from specbound.bench.transformers_methods import Assistance, TransformersMethod, first_layers
from specbound.decoding.model.adapter import ModelAdapter
from specbound.evaluation.timing import TimedPrompt

ASSISTANCES = (
    Assistance("early_exit", 3, 2, 0.0),
    Assistance("early_exit", exit_layer=2),
    Assistance("early_exit", 2, 2, 0.0, "heuristic"),
    Assistance("draft_model", 3, 2),
    Assistance("prompt_lookup", 3),
)


@pytest.mark.parametrize("assistance", ASSISTANCES, ids=lambda a: f"{a.kind}-{a.name}")
def test_output_equals_generate_and_nothing_of_the_model_changes(
    llama: LlamaForCausalLM, timed_prompts: list[TimedPrompt], assistance: Assistance
) -> None:
    before = (llama.generation_config.to_dict(), llama.config.to_dict())
    plain, assisted = TransformersMethod("transformers", llama), TransformersMethod("assisted", llama, assistance)
    for prompt in timed_prompts:
        assert assisted.run(prompt)[0] == plain.run(prompt)[0]
        assert assisted.observe(prompt).tokens == plain.run(prompt)[0]
    assert (llama.generation_config.to_dict(), llama.config.to_dict()) == before
    assert not any(layer._forward_pre_hooks for layer in llama.model.layers)


def test_plain_generate_calls_every_layer_once_a_token(
    llama: LlamaForCausalLM, timed_prompts: list[TimedPrompt]
) -> None:
    seen = TransformersMethod("transformers", llama).observe(timed_prompts[0])
    assert seen.stats.tokens_per_step == 1.0 and seen.stats.num_drafted == 0
    assert seen.stats.layer_calls_per_token == 6.0 and seen.num_layer_rows == 6 * 19  # the first token is prefill's
    assert 0.0 < seen.first_token_s < 60.0


@pytest.mark.parametrize("length", [1, 3])
def test_draft_length_takes_effect_and_calls_are_counted(
    llama: LlamaForCausalLM, timed_prompts: list[TimedPrompt], length: int
) -> None:
    prompt = timed_prompts[1]
    seen = TransformersMethod("early_exit", llama, Assistance("early_exit", length, 2, 0.0)).observe(prompt)
    stats = seen.stats
    assert 0 < stats.num_accepted < stats.num_drafted <= length * stats.num_steps
    assert stats.num_drafted > (length - 1) * (stats.num_steps - 2)  # the last drafts are cut by the limit
    assert sum(seen.step_tokens) == len(seen.tokens) == stats.num_accepted + stats.num_steps
    # each draft token runs two layers and each step all six; the first draft token comes from its own prefill
    assert stats.num_layer_calls == 2 * stats.num_drafted - 2 + 6 * stats.num_steps


def test_prompt_lookup_without_a_match_is_plain(llama: LlamaForCausalLM, timed_prompts: list[TimedPrompt]) -> None:
    prompt = replace(timed_prompts[0], input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=2)
    stats = TransformersMethod("lookup", llama, Assistance("prompt_lookup", 4)).observe(prompt).stats
    assert (stats.num_steps, stats.num_step_tokens, stats.num_drafted) == (1, 1, 0)


def test_heuristic_schedule_begins_anew_at_every_prompt(
    llama: LlamaForCausalLM, timed_prompts: list[TimedPrompt]
) -> None:
    method = TransformersMethod("heuristic", llama, Assistance("early_exit", 4, 2, 0.0, "heuristic"))
    first, second = (method.observe(timed_prompts[2]).stats.num_drafted for _ in range(2))
    assert first == second
    constant = TransformersMethod("constant", llama, Assistance("early_exit", 4, 2, 0.0))
    assert constant.observe(timed_prompts[2]).stats.num_drafted != first


def test_an_exception_leaves_the_config_whole(llama: LlamaForCausalLM, timed_prompts: list[TimedPrompt]) -> None:
    method = TransformersMethod("early_exit", llama, Assistance("early_exit", 3, 2, 0.0))

    class Stop(RuntimeError):
        pass

    def stop(*_: object) -> None:
        raise Stop

    handle = llama.model.layers[1].register_forward_hook(stop)
    try:
        with pytest.raises(Stop):
            method.observe(timed_prompts[0])
    finally:
        handle.remove()
    assert llama.config.num_hidden_layers == 6
    assert not any(layer._forward_pre_hooks for layer in llama.model.layers)


def test_sampling_repeats_with_the_prompts_seed_and_leaves_the_generator(
    llama: LlamaForCausalLM, timed_prompts: list[TimedPrompt]
) -> None:
    method = TransformersMethod("early_exit", llama, Assistance("early_exit", 2, 2, 0.0))
    prompt = replace(timed_prompts[0], sampling={"do_sample": True, "temperature": 1.0, "top_k": 0, "seed": 3})
    state = torch.get_rng_state()
    first, again = method.run(prompt)[0], method.run(prompt)[0]
    other = method.run(replace(prompt, sampling={**prompt.sampling, "seed": 4}))[0]
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_first_layers_are_the_exit_and_share_all_weights(llama: LlamaForCausalLM) -> None:
    draft, adapter = first_layers(llama, 2), ModelAdapter(llama)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.inference_mode():
        hidden = adapter.run_layers(adapter.embed(ids, 0), 0, 2, adapter.new_cache(8), 0)
        assert torch.allclose(draft(ids).logits, adapter.read_head(hidden), atol=1e-5)
    assert draft.config.num_hidden_layers == 2 and llama.config.num_hidden_layers == 6
    assert len(llama.model.layers) == 6
    own = {parameter.data_ptr() for parameter in llama.parameters()}
    assert {parameter.data_ptr() for parameter in draft.parameters()} < own
