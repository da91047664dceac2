"""On a device: the host waits for it once for every head that it reads, and for nothing else."""

import warnings
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from specbound.decoding import live_model as module
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.segments import StaticSegments
from specbound.decoding.step import read_signals
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.records import StepRecord
from tests.decoding.families import random_model, random_prompt
from tests.decoding.simulated_device import OnDevice, SimulatedDevice, move_to_device, to_device

NEW_TOKENS = 20
POLICIES = {
    "plain": None,
    "fixed": StaticPolicy((2,), 0.0, 3),
    "tested": StaticPolicy((1, 3), (0.05, 0.02), 5, combine="product"),
}


@pytest.mark.parametrize("name", ["llama", "qwen3-sliding", "gemma2", "gpt2", "opt"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_greedy_step_reads_one_result_of_each_head_and_sends_nothing(
    name: str, policy: Policy | None, is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "refuse_offloaded", lambda _: None)  # the simulated device is called as that of such
    model, prompt = random_model(name, dtype=torch.float64), random_prompt(0, 9)[0].tolist()
    expected = SpecBoundDecoder(model).decode([prompt], max_new_tokens=NEW_TOKENS).sequences
    model.config._attn_implementation = "eager"  # sdpa asks the device for its kernels
    move_to_device(model)
    seen: list[tuple[Counter[str], int]] = []

    def on_step(record: StepRecord, _: int) -> None:
        seen.append((+OnDevice.crossings, sum(record.head_reads_by_rows.values())))
        OnDevice.crossings.clear()

    with torch.inference_mode(), SimulatedDevice():
        decoder = SpecBoundDecoder(model, policy)
        if is_compiled:
            decoder.adapter.segments = StaticSegments(decoder.adapter)
        output = decoder.decode([prompt], max_new_tokens=NEW_TOKENS, on_step=on_step)
        assert isinstance(output.sequences, OnDevice)
        assert torch.equal(output.sequences.host, expected)
    assert len(seen) > 3
    for crossings, num_head_reads in seen[1:]:  # the first holds the prompt's
        assert crossings == Counter(read=num_head_reads)


@pytest.mark.parametrize(
    ("crossing", "call"),
    [
        ("read", lambda x: x[0].item()),
        ("read", lambda x: bool(x[0] > 0)),
        ("read", lambda x: x.tolist()),
        ("read", lambda x: x.cpu()),
        ("written", lambda x: torch.tensor([1.0], device=x.device)),
        ("written", lambda x: x.copy_(torch.ones(3))),
        ("sized", lambda x: x.nonzero()),
        ("sized", lambda x: x[x > 0]),
    ],
)
def test_whatever_waits_is_counted(crossing: str, call: Callable[[Tensor], object]) -> None:
    with torch.inference_mode(), SimulatedDevice():
        x = to_device(torch.tensor([1.0, -2.0, 3.0]))
        OnDevice.crossings.clear()
        (x * 2 + torch.zeros(3, device=x.device)).sum()
        assert not +OnDevice.crossings
        call(x)
        assert +OnDevice.crossings == Counter({crossing: 1})


def test_exit_signals_on_a_device_are_those_of_the_host_in_one_transfer() -> None:
    logits = torch.randn(1, 97, generator=torch.Generator().manual_seed(0)) * 3
    expected = read_signals(logits, 2, 0, 1.3)
    with torch.inference_mode(), SimulatedDevice():
        on_device = to_device(logits)
        OnDevice.crossings.clear()
        signals = read_signals(on_device, 2, 0, 1.3)
        assert +OnDevice.crossings == Counter(read=1)
    assert signals.draft_token == expected.draft_token
    for field in ("confidence", "annealed_confidence", "entropy_nats", "margin", "draft_probability"):
        assert getattr(signals, field) == pytest.approx(getattr(expected, field), abs=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_on_a_gpu_torch_sees_one_wait_for_each_head(policy: Policy | None, is_compiled: bool) -> None:
    decoder = SpecBoundDecoder(random_model("llama").cuda(), policy, compile=is_compiled)
    prompt = random_prompt(0, 9)[0].tolist()
    decoder.decode([prompt], max_new_tokens=30)  # captures what it captures
    seen: list[tuple[int, int]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def on_step(record: StepRecord, _: int) -> None:
            waits = sum("synchroniz" in str(warning.message) for warning in caught)
            seen.append((waits, sum(record.head_reads_by_rows.values())))
            caught.clear()

        torch.cuda.set_sync_debug_mode("warn")
        try:
            decoder.decode([prompt], max_new_tokens=30, on_step=on_step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(seen) > 3
    for waits, num_head_reads in seen[1:]:
        assert waits == num_head_reads
