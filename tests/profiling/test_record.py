"""Recording against transformers: tokens, exits and signals of random small models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from specbound.decoding.adapter import ModelAdapter
from specbound_profiling import record
from specbound_profiling.record import exit_columns, record_continuation

EXITS = (1, 3)


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


def prompt(seed: int, length: int = 6) -> torch.Tensor:
    return torch.randint(2, 60, (1, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_trace_equals_a_plain_forward_pass(model: PreTrainedModel, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, ids = ModelAdapter(model), prompt(0)
    monkeypatch.setattr(record, "MAX_LOGITS", block * adapter.vocab_size * (len(EXITS) + 1))
    trace = record_continuation(adapter, ids, EXITS, 12, eos_token_ids=())
    expected = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)[0, ids.shape[1] :]
    assert trace.tokens.tolist() == expected[: trace.num_positions].tolist()
    whole = torch.cat((ids[0], torch.from_numpy(trace.tokens)))[None]
    with torch.no_grad():
        output = model(whole, output_hidden_states=True)
        rows = slice(ids.shape[1] - 1, whole.shape[1] - 1)
        for index, layer in enumerate(EXITS):
            logits = model.lm_head(model.model.norm(output.hidden_states[layer]))[0, rows]
            probabilities = logits.softmax(-1)
            assert trace.draft_token[:, index].tolist() == logits.argmax(-1).tolist()
            np.testing.assert_allclose(trace.confidence[:, index], probabilities.amax(-1), atol=1e-5)
            hot = (logits / 1.5).log_softmax(-1)
            at = trace.temperatures.index(1.5)
            np.testing.assert_allclose(trace.confidence_at[:, index, at], hot.amax(-1).exp(), atol=1e-5)
            labels = torch.from_numpy(trace.tokens)[:, None]
            np.testing.assert_allclose(trace.label_nll_at[:, index, at], -hot.gather(-1, labels)[:, 0], atol=1e-4)
    full = output.logits[0, rows].softmax(-1)
    np.testing.assert_allclose(trace.full_confidence, full.amax(-1), atol=1e-5)
    np.testing.assert_allclose(trace.full_entropy_nats, -(full * full.log()).sum(-1), atol=1e-4)
    assert (trace.is_accepted == (trace.draft_token == trace.tokens[:, None])).all()
    assert trace.prompt_length == ids.shape[1] and not trace.is_final_eos


def test_exit_columns_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    columns = exit_columns(logits, torch.tensor([1, 2]), (1.0, 2.0))
    assert columns["draft_token"].tolist() == [0, 2] and columns["is_accepted"].tolist() == [False, True]
    np.testing.assert_allclose(columns["confidence"], [0.5, 0.8], rtol=1e-6)
    np.testing.assert_allclose(columns["margin"], np.log([2, 8]), rtol=1e-5)
    np.testing.assert_allclose(columns["entropy_nats"][0], 0.5 * np.log(2) + 0.5 * np.log(4), rtol=1e-6)
    roots = np.sqrt([0.5, 0.25, 0.25])
    np.testing.assert_allclose(columns["confidence_at"][0], [0.5, roots[0] / roots.sum()], rtol=1e-6)
    np.testing.assert_allclose(columns["label_nll_at"][0], -np.log([0.25, roots[1] / roots.sum()]), rtol=1e-6)


def test_end_of_sequence_ends_the_trace_and_is_its_last_token(model: PreTrainedModel) -> None:
    adapter, ids = ModelAdapter(model), prompt(1)
    tokens = record_continuation(adapter, ids, EXITS, 12, eos_token_ids=()).tokens
    end = int(tokens[3])
    trace = record_continuation(adapter, ids, EXITS, 12, eos_token_ids=(end,))
    first = tokens.tolist().index(end)
    assert trace.tokens.tolist() == tokens[: first + 1].tolist()
    assert trace.is_final_eos and trace.length_limit == 12 and trace.eos_tokens == {end}


def test_looping_continuation_is_cut_and_says_so(model: PreTrainedModel) -> None:
    adapter = ModelAdapter(model)
    traces = [record_continuation(adapter, prompt(seed), EXITS, 200, eos_token_ids=()) for seed in range(3)]
    cut = [trace for trace in traces if trace.is_loop_cut]
    assert cut, "a random greedy model loops within 200 tokens"
    assert all(trace.length_limit == trace.num_positions < 200 for trace in cut)
