"""Random models of a shape: sizes, damping, the search, refusals."""

import pytest
import torch

from specbound.bench import scaling
from specbound.bench.observe import peak_memory
from specbound.bench.shapes import SHAPE_SIZES, Damping, find_scale, random_model
from specbound.decoding.decoder import SpecBoundDecoder
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy

CPU = torch.device("cpu")


def test_parameters_are_those_of_the_model() -> None:
    assert random_model("tiny", CPU, 0).num_parameters() == SHAPE_SIZES["tiny"].num_parameters


@pytest.mark.parametrize(("name", "billions"), [("7b", 6.74), ("13b", 13.02)])
def test_published_shapes_have_their_published_sizes(name: str, billions: float) -> None:
    assert SHAPE_SIZES[name].num_parameters / 1e9 == pytest.approx(billions, abs=0.01)


def test_damping_sets_how_often_the_exit_agrees() -> None:
    model = random_model("tiny", CPU, 0)
    damping, policy = Damping(model, 2), StaticPolicy((2,), 0.0, 4)
    decoder = SpecBoundDecoder(model, policy, record_steps=False)
    weight = model.model.layers[5].mlp.down_proj.weight.clone()
    found = []
    for scale in (1.0, 0.05, 1e-6):
        damping.set(scale)
        found.append(decoder.decode(torch.tensor([[1, 2, 3]]), max_new_tokens=40).stats.acceptance_rate)
    assert found[0] < found[1] < found[2] == 1.0
    damping.set(1.0)
    assert torch.allclose(model.model.layers[5].mlp.down_proj.weight, weight, rtol=1e-4)


def test_the_search_ends_near_the_target() -> None:
    found = find_scale(lambda scale: 1.0 + 4.0 / (1.0 + scale / 0.02), 3.78)
    assert found.is_near(3.78) and found.num_trials < 14


def test_what_cannot_be_reached_ends_at_the_nearest() -> None:
    found = find_scale(lambda scale: 2.0, 3.0)
    assert found.value == 2.0 and not found.is_near(3.0) and found.num_trials == 14


def test_a_large_shape_needs_a_gpu() -> None:
    with pytest.raises(InputError, match="shape 7b needs a GPU, got device cpu"):
        random_model("7b", CPU, 0)


def test_too_little_memory_is_said_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specbound.bench.shapes.free_bytes", lambda device: 2**30)
    with pytest.raises(InputError, match=r"shape 1b needs .* GiB of memory on cpu, got 1.0 GiB free"):
        random_model("1b", CPU, 0)


def test_a_scaling_axis_is_measured_point_by_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scaling.VALUES, "prompts", (1, 2, 4))
    monkeypatch.setattr(scaling, "RECORDED_TOKENS", 8)
    said: list[str] = []
    profile, replay = scaling.measure_scaling(("prompts",), 0, said.append)
    assert said == ["scaling: prompts"] and (profile.name, replay.name) == ("profile", "replay")
    assert profile.values == (1, 2, 4) and profile.seconds[2] > profile.seconds[0] > 0.0
    assert replay.values == (64, 128, 256) and replay.seconds[2] > replay.seconds[0] > 0.0


def test_steps_of_every_width_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scaling.VALUES, "width", (0, 2, 8))
    (series,) = scaling.measure_scaling(("width",), 0, lambda line: None)
    assert series.seconds[2] > series.seconds[0] > 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_shape_on_a_gpu_is_bf16_and_its_memory_is_seen() -> None:
    device = torch.device("cuda")
    with peak_memory(device) as peak:
        model = random_model("small", device, 0)
    assert model.dtype == torch.bfloat16 and model.device.type == "cuda"
    assert (peak() or 0) >= 2 * SHAPE_SIZES["small"].num_parameters
