"""Fixtures shared by all tests: small random models with real structure, built offline."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = "the a cat dog sat ran on under mat tree and then it was that one two . , def return ( ) :".split()  # noqa: SIM905


@pytest.fixture(scope="session", autouse=True)
def kept_costs_are_left_alone() -> Iterator[object]:
    """Logs are priced by what they measure, or by what a test makes up, not by what another test has kept for a user.

    Gives what they are priced by otherwise.
    """
    from specbound.pricing.local import measured_once
    from specbound_profiling.recording.profile import measured_anew

    with pytest.MonkeyPatch.context() as patch:
        for place in ("pricing.local", "demo.run", "fit.run"):
            patch.setattr(f"specbound.{place}.measured_once", measured_anew)
        yield measured_once


@pytest.fixture(scope="session")
def save_tiny_model() -> Callable[..., Path]:
    """A function that saves a random model with a word tokenizer and returns its folder."""

    def save(folder: Path, family: str = "llama", num_layers: int = 4, template: str | None = None) -> Path:
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

        vocabulary = {word: index for index, word in enumerate(["<unk>", "<eos>", *WORDS])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>")
        config = AutoConfig.for_model(
            family,
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=None,
        )
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        fast.chat_template = template
        fast.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory, save_tiny_model: Callable[..., Path]) -> Path:
    """A saved random Llama of 4 layers."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama", "llama", 4)


@pytest.fixture(scope="module")
def short_search() -> Iterator[None]:
    """Training tries a few corrections of the step policy's choice instead of a hundred, which take most of its time.

    For tests that look at something else of a training run; the search itself has tests of its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("NUM_ITERATIONS", 1), ("NUM_CANDIDATES", 4), ("NUM_BEST", 2)):
            patch.setattr(f"specbound_train.policy_search.{name}", value)
        yield


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ 'the' if message['role'] == 'user' else 'that' }} {{ message['content'] }} . "
    "{% endfor %}{% if add_generation_prompt %}: {% endif %}"
)
"""Messages in words that the tiny model knows."""


@pytest.fixture(scope="session")
def chat_model_dir(tmp_path_factory: pytest.TempPathFactory, save_tiny_model: Callable[..., Path]) -> Path:
    """The same Llama with a chat template."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-chat", "llama", 4, CHAT_TEMPLATE)
