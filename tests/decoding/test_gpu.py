"""On a GPU: the same promises as on the CPU. Run with `pytest -m gpu` where there is one."""

import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.noise import gumbel_noise, random_bits
from specbound_controller.errors import UnsupportedModelError
from specbound_controller.policy import StaticPolicy
from tests.decoding.families import VARIANTS, random_model, random_prompt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
POLICIES = (StaticPolicy((2,), 0.0, 4), StaticPolicy((1, 3), (0.05, 0.02), 5, combine="product"))


def test_noise_has_the_same_bits_on_every_device() -> None:
    ids = torch.arange(100_000)
    assert torch.equal(random_bits(3, 17, ids), random_bits(3, 17, ids.cuda()).cpu())
    torch.testing.assert_close(gumbel_noise(3, 17, ids), gumbel_noise(3, 17, ids.cuda()).cpu(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "seed": 5, "temperature": 0.8, "top_p": 0.9}])
def test_output_equals_plain_decoding_in_fp64(name: str, sampling: dict) -> None:
    model = random_model(name, dtype=torch.float64).cuda()
    prompt = random_prompt(0, 9).cuda()
    expected = SpecBoundDecoder(model).generate(prompt, max_new_tokens=48, **sampling)
    if not sampling:
        assert torch.equal(model.generate(prompt, max_new_tokens=48, do_sample=False), expected)
    for policy in POLICIES:
        assert torch.equal(SpecBoundDecoder(model, policy).generate(prompt, max_new_tokens=48, **sampling), expected)


def test_rows_of_a_batch_equal_their_single_runs() -> None:
    model = random_model("llama", dtype=torch.float64).cuda()
    rows = [random_prompt(seed, 3 + 5 * seed)[0].tolist() for seed in range(3)]
    decoder = SpecBoundDecoder(model, POLICIES[0])
    batch = decoder.decode(rows, max_new_tokens=30).sequences
    for row, tokens in zip(rows, batch.tolist(), strict=True):
        assert tokens[-30:] == decoder.generate([row], max_new_tokens=30)[0, -30:].tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bitwise_is_exact_or_refused_by_name(dtype: torch.dtype) -> None:
    model = random_model("llama").to(dtype).cuda()
    try:
        plain = SpecBoundDecoder(model, exactness="bitwise")
    except UnsupportedModelError as error:
        assert "bitwise" in str(error) and "cuda" in str(error)
        return
    for seed in range(4):
        prompt = random_prompt(seed, 9).cuda()
        expected = plain.generate(prompt, max_new_tokens=100)
        decoder = SpecBoundDecoder(model, POLICIES[0], exactness="bitwise")
        assert torch.equal(decoder.generate(prompt, max_new_tokens=100), expected)
