"""Hand-made traces and cost tables."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specbound_controller.costs import WORK_NAMES, CostTable, with_all_calls
from specbound_profiling.log.branches import Branches
from specbound_profiling.log.later import Later
from specbound_profiling.log.trace import DEFAULT_TEMPERATURES, PromptTrace


def make_trace(
    accepted: Sequence[Sequence[int]],
    exit_layers: tuple[int, ...] = (2,),
    confidence: Sequence[Sequence[float]] | None = None,
    prompt_length: int = 5,
    prompt_id: str = "p",
    **changes: object,
) -> PromptTrace:
    """A trace of which only acceptance (P, E) and confidence (P, E) matter; tokens are 10, 11, 12, ..."""
    is_accepted = np.array(accepted, dtype=bool)
    shape = is_accepted.shape
    tokens = 10 + np.arange(shape[0])
    values = np.full(shape, 0.5) if confidence is None else np.array(confidence)
    values = values.astype(np.float32)
    cooled = np.stack([values ** (1 / t) for t in DEFAULT_TEMPERATURES], axis=-1) * values[..., None]
    cooled[..., 0] = values
    fields: dict[str, object] = {
        "prompt_id": prompt_id,
        "task": "prose",
        "compression": "none",
        "prompt_length": prompt_length,
        "tokens": tokens,
        "exit_layers": exit_layers,
        "temperatures": DEFAULT_TEMPERATURES,
        "draft_token": np.where(is_accepted, tokens[:, None], 9),
        "is_accepted": is_accepted,
        "confidence": values,
        "entropy_nats": (1 - values).astype(np.float32),
        "margin": (3 * values).astype(np.float32),
        "noised_margin": (3 * values).astype(np.float32),
        "draft_probability": values,
        "confidence_at": cooled.astype(np.float32),
        "label_nll_at": -np.log(cooled + 1e-6).astype(np.float32),
        "full_confidence": np.linspace(0.5, 0.9, shape[0], dtype=np.float32),
        "full_entropy_nats": np.linspace(2, 1, shape[0], dtype=np.float32),
        "full_margin": np.linspace(1, 2, shape[0], dtype=np.float32),
        "is_final_eos": False,
        "is_loop_cut": False,
    }
    return PromptTrace(**{**fields, **changes})


def random_trace(rng: np.random.Generator, exit_layers: tuple[int, ...], prompt_id: str = "p") -> PromptTrace:
    """Random acceptance and confidence, 2 to 30 positions, sometimes ended by EOS."""
    shape = (int(rng.integers(2, 31)), len(exit_layers))
    accepted = rng.random(shape) < rng.random()
    eos = rng.random() < 0.5
    return make_trace(
        accepted.tolist(),
        exit_layers,
        rng.random(shape).tolist(),
        prompt_length=int(rng.integers(1, 20)),
        prompt_id=prompt_id,
        task=str(rng.choice(["prose", "code"])),
        is_final_eos=eos,
        eos_token_ids=(9,) if rng.random() < 0.3 else (),
        token_limit=64 if eos else None,
    )


def with_branches(rng: np.random.Generator, trace: PromptTrace, width: int, share: float = 1.0) -> PromptTrace:
    """The trace with made-up roll-outs after a share of its wrong drafts; some of their drafts are token 9."""
    exits, temperatures = trace.exit_layers, trace.temperatures
    places = []
    for position, index in np.argwhere(~trace.is_accepted):
        length = min(width - 1, trace.length_limit - 2 - position)
        if (
            position > 0
            and length > 0
            and rng.random() < share
            and trace.draft_token[position, index] not in (trace.eos_tokens)
        ):
            places += [(position, exits[index], position + 1 + k) for k in range(length)]
    if not places:
        return trace
    branch_position, branch_exit_layer, position = np.array(places).T
    shape = (len(places), len(exits))
    tokens = rng.choice([9, 30, 31], shape, p=[0.2, 0.4, 0.4])
    floats = {
        name: rng.random(shape).astype(np.float32)
        for name in ("confidence", "entropy_nats", "margin", "noised_margin", "draft_probability")
    }
    cooled = np.stack([floats["confidence"] ** t for t in temperatures], axis=-1).astype(np.float32)
    if exits[0] == 0:  # about half of the wrong lookups were followed along lookups alone
        is_bare = (branch_exit_layer == 0) & (branch_position % 2 == 0)
        tokens[is_bare, 1:] = -1
        for values in (*floats.values(), cooled):
            values[is_bare, 1:] = np.nan
    branches = Branches(
        branch_position, branch_exit_layer, position, tokens, tokens + 1, **floats, confidence_at=cooled
    )
    return replace(trace, branches=branches)


def with_later(rng: np.random.Generator, trace: PromptTrace, num_later: int) -> PromptTrace:
    """The trace with made-up later drafts of its exits; what the context says stays."""

    def made_up() -> Later:
        shape, first = trace.draft_token.shape, int(trace.exit_layers[0] == 0)
        wrong = rng.choice([9, 30, 31], shape, p=[0.2, 0.4, 0.4])
        tokens = np.where(rng.random(shape) < 0.6, trace.tokens[:, None], wrong)
        tokens[:, :first] = trace.draft_token[:, :first]
        floats = {}
        for name in ("confidence", "entropy_nats", "margin", "noised_margin", "draft_probability"):
            floats[name] = rng.random(shape).astype(np.float32)
            floats[name][:, :first] = getattr(trace, name)[:, :first]
        cooled = np.stack([floats["confidence"] ** t for t in trace.temperatures], axis=-1).astype(np.float32)
        cooled[:, :first] = trace.confidence_at[:, :first]
        return Later(
            tokens,
            tokens == trace.tokens[:, None],
            **floats,
            confidence_at=cooled,
            candidates=rng.integers(0, 40, (*shape, 4)),
            candidate_chances=-np.sort(-rng.random((*shape, 4)).astype(np.float32)),
        )

    return replace(trace, later=tuple(made_up() for _ in range(num_later)))


@pytest.fixture
def with_later_of() -> Callable[..., PromptTrace]:
    return with_later


@pytest.fixture
def with_branches_of() -> Callable[..., PromptTrace]:
    return with_branches


@pytest.fixture
def trace_of() -> Callable[..., PromptTrace]:
    return make_trace


@pytest.fixture
def random_trace_of() -> Callable[..., PromptTrace]:
    return random_trace


@pytest.fixture
def costs() -> CostTable:
    """Seconds for counts by hand: a layer call 1 + 0.1 for each doubling of its rows, a head read 0.5, a step 0.25."""
    seconds = dict.fromkeys(WORK_NAMES, 0.0)
    seconds |= with_all_calls({f"layer_calls_rows_{2**i}": 1.0 + 0.1 * i for i in range(6)})
    seconds |= {"layer_rows_times_context": 0.01, "head_reads": 0.5, "head_rows": 0.05}
    seconds |= {"exit_tests": 0.125, "decisions": 0.0625, "steps": 0.25}
    return CostTable(seconds, "none", "test machine", 0.0, 300)


@pytest.fixture(scope="session")
def sharp_model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A saved random Llama of 4 layers that is sure of its tokens, and wide enough for blocks of 4-bit weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("models") / "sharp-llama"
    config = AutoConfig.from_pretrained(tiny_model_dir)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0.0, 0.15, generator=generator)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder
