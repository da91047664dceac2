"""Segments: layers on static buffers give the tokens of plain decoding, captured or not, for whichever cache runs."""

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, LlamaForCausalLM, PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model import segments as module
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.graph_capture import GraphCapture, first_reason
from specbound.decoding.model.segments import Capture, Segment, StaticSegments, key_bucket, row_bucket
from specbound_controller.errors import InputError, UnsupportedModelError
from specbound_controller.policy import Policy, StaticPolicy
from tests.decoding.families import VARIANTS, random_model, random_prompt, save_llama_with_outliers
from tests.decoding.tape import tape_capture

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
POLICIES = (None, StaticPolicy((2,), 0.0, 4), StaticPolicy((1, 3), (0.05, 0.02), 5, combine="product"))


def with_segments(
    model: PreTrainedModel, policy: Policy | None = None, capture: Capture | None = None
) -> tuple[SpecBoundDecoder, StaticSegments]:
    """A decoder that runs segments on any device."""
    decoder = SpecBoundDecoder(model, policy)
    decoder.adapter.segments = segments = StaticSegments(decoder.adapter, capture)
    return decoder, segments


def segments_of(decoder: SpecBoundDecoder) -> list[Segment]:
    assert decoder.adapter.segments is not None
    return list(decoder.adapter.segments.segments.values())


@pytest.mark.parametrize(
    ("name", "capture"), [*((name, tape_capture) for name in VARIANTS), ("llama", None), ("gemma2", None)]
)
def test_output_equals_transformers(name: str, capture: Capture | None) -> None:
    model, prompt = random_model(name, dtype=torch.float64), random_prompt(0, 9)
    expected = model.generate(prompt, max_new_tokens=20, do_sample=False)
    for policy in POLICIES:
        decoder, segments = with_segments(model, policy, capture)
        assert torch.equal(decoder.generate(prompt, max_new_tokens=20), expected)
        assert any(each.is_captured for each in segments.segments.values()) == (capture is not None)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral-sliding"])
def test_output_equals_transformers_when_a_context_outgrows_its_buffers(name: str) -> None:
    model, prompt = random_model(name, dtype=torch.float64), random_prompt(0, 235)
    expected = model.generate(prompt, max_new_tokens=50, do_sample=False)
    decoder, segments = with_segments(model, POLICIES[1], tape_capture)
    assert torch.equal(decoder.generate(prompt, max_new_tokens=50), expected)
    assert segments.buffers.capacity == 512 == max(shape.num_keys for shape in segments.segments)
    assert torch.equal(decoder.generate(prompt, max_new_tokens=50), expected)
    assert {shape.num_keys for shape in segments.segments} == {256, 512}


@torch.inference_mode()
def test_any_number_of_rows_gets_the_numbers_of_the_layers() -> None:
    adapter = ModelAdapter(random_model("llama", dtype=torch.float64))
    segments, token_ids = StaticSegments(adapter), random_prompt(1, 160)
    cache, position = adapter.new_cache(), 0
    adapter.embed(token_ids, 0)
    expected = adapter.run_layers(adapter.embed(token_ids, 0), 0, 4, adapter.new_cache(), 0)
    for count in (5, *range(1, 18)):
        hidden = adapter.embed(token_ids[:, position : position + count], position)
        adapter.segments = segments
        hidden = adapter.run_layers(adapter.run_layers(hidden, 0, 1, cache, position), 1, 4, cache, position)
        torch.testing.assert_close(hidden, expected[:, position : position + count], atol=1e-9, rtol=1e-9)
        position += count
        assert cache.lengths() == [position] * 4
    assert {shape.num_rows for shape in segments.segments} == {1, 2, 4, 8, 16, 32}  # prefill runs without


def test_positions_beyond_the_tables_of_the_first_call_are_known_to_what_was_captured() -> None:
    model, prompt = random_model("gemma", dtype=torch.float64), random_prompt(0, 290)
    decoder, _ = with_segments(model, None, tape_capture)
    decoder.generate(random_prompt(1, 300), max_new_tokens=1)  # leaves tables of 300 positions
    expected = model.generate(prompt, max_new_tokens=30, do_sample=False)
    assert torch.equal(decoder.generate(prompt, max_new_tokens=30), expected)


def test_buckets_hold_what_they_are_asked_for() -> None:
    assert [row_bucket(n) for n in (1, 2, 3, 5, 9, 16, 33)] == [1, 2, 4, 8, 16, 16, 64]
    assert [key_bucket(n) for n in (1, 256, 257, 512, 513)] == [256, 256, 512, 512, 1024]


def test_what_later_tokens_left_behind_is_not_seen() -> None:
    model, prompt = random_model("qwen3", dtype=torch.float64), random_prompt(0, 9)
    decoder, segments = with_segments(model, POLICIES[1])
    expected = decoder.generate(prompt, max_new_tokens=30)
    with torch.inference_mode():
        for index in range(4):
            for buffer in segments.buffers.of(index):
                buffer.fill_(1e6)
    assert torch.equal(decoder.generate(prompt, max_new_tokens=30), expected)


def test_a_cache_keeps_its_keys_while_another_generation_uses_the_buffers() -> None:
    model = random_model("llama", dtype=torch.float64)
    decoder, _ = with_segments(model, POLICIES[1], tape_capture)
    first = decoder.decode(random_prompt(0, 9), max_new_tokens=20)
    longer = torch.cat((first.sequences, random_prompt(5, 4)), dim=1)
    expected = model.generate(longer, max_new_tokens=20, do_sample=False)
    decoder.generate(random_prompt(1, 30), max_new_tokens=20)
    held = first.past_key_values.layers[0].keys[:, :, :20].clone()
    decoder.generate(random_prompt(2, 30), max_new_tokens=20)
    assert torch.equal(first.past_key_values.layers[0].keys[:, :, :20], held)
    again = decoder.decode(longer, max_new_tokens=20, past_key_values=first.past_key_values)
    assert torch.equal(again.sequences, expected)
    both = torch.cat((again.sequences, random_prompt(6, 4)), dim=1)  # the buffers are still its own
    assert torch.equal(
        decoder.generate(both, max_new_tokens=20, past_key_values=again.past_key_values),
        model.generate(both, max_new_tokens=20, do_sample=False),
    )


def test_rows_of_a_batch_equal_their_single_runs() -> None:
    model = random_model("llama", dtype=torch.float64)
    rows = [random_prompt(seed, 3 + 5 * seed)[0].tolist() for seed in range(3)]
    decoder, _ = with_segments(model, POLICIES[1], tape_capture)
    single = [decoder.generate([row], max_new_tokens=30)[0, -30:].tolist() for row in rows]
    assert [tokens[-30:] for tokens in decoder.generate(rows, max_new_tokens=30).tolist()] == single
    assert single == [SpecBoundDecoder(model).generate([row], max_new_tokens=30)[0, -30:].tolist() for row in rows]


def test_only_segments_that_repeat_are_captured_once() -> None:
    captured: list[object] = []

    def counting(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        captured.append(compute)
        return compute

    decoder, segments = with_segments(random_model("llama"), None, counting)
    decoder.generate(random_prompt(0, 9), max_new_tokens=module.CALLS_BEFORE_CAPTURE)  # the first comes from prefill
    assert not captured
    decoder.generate(random_prompt(0, 9), max_new_tokens=30)
    assert len(captured) == 1 == len(segments.segments)


def test_new_weights_and_new_kernels_drop_what_was_captured_and_hooks_are_called() -> None:
    model, prompt, calls = random_model("llama", dtype=torch.float64), random_prompt(0, 9), []
    decoder, segments = with_segments(model, POLICIES[1], tape_capture)
    decoder.generate(prompt, max_new_tokens=20)
    projection = model.model.layers[1].mlp.up_proj
    projection.weight = nn.Parameter(projection.weight.detach() * -1.5)
    assert torch.equal(
        decoder.generate(prompt, max_new_tokens=20), model.generate(prompt, max_new_tokens=20, do_sample=False)
    )
    before = dict(segments.segments)
    model.config._attn_implementation = "eager"
    decoder.generate(prompt, max_new_tokens=20)
    assert segments.segments and not any(segments.segments[key] is before.get(key) for key in segments.segments)
    handle = model.model.layers[3].register_forward_hook(lambda *_: calls.append(1))
    decoder.generate(prompt, max_new_tokens=20)
    assert len(calls) > 1 and not segments.segments
    handle.remove()
    decoder.generate(prompt, max_new_tokens=20)
    assert segments.segments


@pytest.mark.parametrize("arguments", [{}, {"exactness": "bitwise"}])
def test_compile_is_refused_in_one_line_where_it_does_not_hold(arguments: dict) -> None:
    with pytest.raises(InputError, match="compile must be False") as error:
        SpecBoundDecoder(random_model("llama"), compile=True, **arguments)
    assert ("bitwise" in str(error.value)) == bool(arguments) and "\n" not in str(error.value)


def test_models_whose_layers_cannot_be_replayed_are_refused_by_name() -> None:
    model = random_model("llama")
    projection = model.model.layers[2].mlp.up_proj
    projection.__class__ = type("Linear8bitLt", (nn.Linear,), {})
    projection.state = type("State", (), {"threshold": 6.0})()
    with pytest.raises(UnsupportedModelError, match="llm_int8_threshold=0"):
        StaticSegments(ModelAdapter(model))
    projection.state.threshold = 0.0
    decoder, _ = with_segments(model)
    projection.__class__ = type("Linear", (nn.Linear,), {"__module__": "peft.tuners.lora.layer"})
    with pytest.raises(UnsupportedModelError, match="PEFT"):
        decoder.generate(random_prompt(0, 5), max_new_tokens=3)


def test_segments_beyond_the_most_that_are_kept_run_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SEGMENTS", 1)
    model, prompt = random_model("qwen3-sliding", dtype=torch.float64), random_prompt(0, 9)
    decoder, segments = with_segments(model, POLICIES[1], tape_capture)
    expected = model.generate(prompt, max_new_tokens=40, do_sample=False)
    for _ in range(2):
        assert torch.equal(decoder.generate(prompt, max_new_tokens=40), expected)
    assert len(segments.segments) == 1


def test_where_no_graph_fits_any_more_calls_run_without_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    captured: list[object] = []

    def one_fits(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if captured:
            raise torch.OutOfMemoryError("CUDA out of memory")
        captured.append(compute)
        return tape_capture(compute)

    model, prompt = random_model("llama", dtype=torch.float64), random_prompt(0, 9)
    decoder, segments = with_segments(model, POLICIES[1], one_fits)
    expected = model.generate(prompt, max_new_tokens=40, do_sample=False)
    for _ in range(2):
        assert torch.equal(decoder.generate(prompt, max_new_tokens=40), expected)
    (line,) = caplog.messages
    assert "no room for more than" in line
    assert sum(each.is_captured for each in segments.segments.values()) == 1


def test_keys_of_another_format_get_new_buffers() -> None:
    model, prompt = random_model("llama", dtype=torch.float64), random_prompt(0, 9)
    decoder, _ = with_segments(model, POLICIES[1], tape_capture)
    decoder.generate(prompt, max_new_tokens=20)
    model.float()
    output = decoder.decode(prompt, max_new_tokens=20)
    assert torch.equal(output.sequences, model.generate(prompt, max_new_tokens=20, do_sample=False))
    assert output.past_key_values.layers[0].keys.dtype == torch.float32


def test_what_segments_hold_is_free_when_their_decoder_is_gone() -> None:
    decoder, segments = with_segments(random_model("llama"), POLICIES[1], tape_capture)
    decoder.generate(random_prompt(0, 9), max_new_tokens=20)
    buffers = weakref.ref(segments.buffers)
    del decoder, segments  # by counting references: no collector runs because a device is full
    assert buffers() is None


def test_graphs_are_refused_in_an_autocast_region_by_name() -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(UnsupportedModelError, match="autocast region"):
        StaticSegments(ModelAdapter(random_model("llama")))


def test_the_reason_of_a_failed_capture_is_what_failed_first() -> None:
    try:
        try:
            raise RuntimeError("operation not permitted\nwhen capturing")
        finally:
            raise RuntimeError("capture invalidated")
    except RuntimeError as error:
        assert first_reason(error) == "operation not permitted"


class TestOnGpu:
    """With CUDA graphs."""

    pytestmark = on_gpu

    @pytest.mark.parametrize("name", VARIANTS)
    def test_output_equals_transformers(self, name: str) -> None:
        model, prompt = random_model(name, dtype=torch.float64).cuda(), random_prompt(0, 235).cuda()
        expected = model.generate(prompt, max_new_tokens=60, do_sample=False)
        for policy in POLICIES:
            decoder = SpecBoundDecoder(model, policy, compile=True)
            for _ in range(2):  # from a context that outgrows its buffers, then from larger ones
                assert torch.equal(decoder.generate(prompt, max_new_tokens=60), expected)
            assert any(each.is_captured for each in segments_of(decoder))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_a_replayed_segment_has_the_bits_of_the_computation(self, dtype: torch.dtype) -> None:
        check_replay(random_model("llama", dtype=dtype).cuda())

    @pytest.mark.parametrize(
        "settings",
        [
            {"load_in_8bit": True, "llm_int8_threshold": 0.0},
            {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float16},
        ],
    )
    def test_quantised_segments_are_replayed(self, settings: dict, tmp_path: object) -> None:
        pytest.importorskip("bitsandbytes")
        check_replay(quantised(tmp_path, settings))

    def test_int8_with_outliers_is_refused(self, tmp_path: object) -> None:
        pytest.importorskip("bitsandbytes")
        with pytest.raises(UnsupportedModelError, match="llm_int8_threshold=0"):
            SpecBoundDecoder(quantised(tmp_path, {"load_in_8bit": True}), compile=True)

    def test_a_segment_that_waits_for_the_device_is_refused_and_the_device_goes_on(self) -> None:
        capture, stream = GraphCapture("model", torch.device("cuda")), torch.cuda.current_stream()
        with pytest.raises(UnsupportedModelError, match="capture"):
            capture(lambda: torch.ones(1, device="cuda").cpu())
        assert float(torch.ones(2, device="cuda").sum()) == 2.0
        assert torch.cuda.current_stream() == stream
        assert torch.isfinite(torch.randn(3, device="cuda")).all()  # the generator is not left as if captured

    def test_graphs_are_captured_again_when_all_earlier_ones_are_gone(self) -> None:
        capture, x = GraphCapture("model", torch.device("cuda")), torch.ones(2**20, device="cuda")
        for factor in (2.0, 3.0):
            replays = [capture(lambda factor=factor: x * factor + x) for _ in range(2)]
            assert all(float(replay().mean()) == factor + 1.0 for replay in replays)
            del replays

    def test_memory_of_graphs_is_free_when_their_decoder_is_gone(self) -> None:
        model, prompt = random_model("llama").cuda(), random_prompt(0, 20).cuda()
        SpecBoundDecoder(model, POLICIES[1], compile=True).generate(prompt, max_new_tokens=40)  # libraries' own
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        decoder = SpecBoundDecoder(model, POLICIES[1], compile=True)
        decoder.generate(prompt, max_new_tokens=40)
        assert torch.cuda.memory_reserved() > before
        del decoder
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() <= before

    def test_two_threads_capture_side_by_side(self) -> None:
        model, prompt = random_model("llama", dtype=torch.float64).cuda(), random_prompt(0, 20).cuda()
        expected = model.generate(prompt, max_new_tokens=60, do_sample=False)
        with ThreadPoolExecutor(2) as pool:
            decoders = [SpecBoundDecoder(model, POLICIES[1], compile=True) for _ in range(2)]
            for output in pool.map(lambda decoder: decoder.generate(prompt, max_new_tokens=60), decoders):
                assert torch.equal(output, expected)


def quantised(folder: object, settings: dict) -> PreTrainedModel:
    save_llama_with_outliers(str(folder), 4)
    config = BitsAndBytesConfig(**settings)
    model = LlamaForCausalLM.from_pretrained(
        str(folder), quantization_config=config, dtype=torch.float16, device_map="cuda"
    )
    return model.eval()


@torch.inference_mode()
def check_replay(model: PreTrainedModel) -> None:
    """Every segment of two generations: a replay has the bits that its computation has without a graph."""
    decoder = SpecBoundDecoder(model, POLICIES[1], compile=True)
    device = decoder.adapter.device
    expected = decoder.generate(random_prompt(0, 20).to(device), max_new_tokens=40)
    captured = [each for each in segments_of(decoder) if each.is_captured]
    assert captured
    for segment in captured:
        assert segment._captured is not None
        assert torch.equal(segment._captured().clone(), segment.compute())
    assert torch.equal(decoder.generate(random_prompt(0, 20).to(device), max_new_tokens=40), expected)
