"""Hand-made traces and cost tables."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_profiling.trace import DEFAULT_TEMPERATURES, PromptTrace


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


@pytest.fixture
def trace_of() -> Callable[..., PromptTrace]:
    return make_trace


@pytest.fixture
def random_trace_of() -> Callable[..., PromptTrace]:
    return random_trace


@pytest.fixture
def costs() -> CostTable:
    """Seconds that make hand counts easy: a layer call 1 + 0.1 per row bucket index, a head read 0.5, a step 0.25."""
    seconds = dict.fromkeys(WORK_NAMES, 0.0)
    seconds |= {name: 1.0 + 0.1 * i for i, name in enumerate(WORK_NAMES[:6])}
    seconds |= {"layer_rows_times_context": 0.01, "head_reads": 0.5, "head_rows": 0.05}
    seconds |= {"exit_tests": 0.125, "decisions": 0.0625, "steps": 0.25}
    return CostTable(seconds, "none", "test machine", 0.0, 300)
