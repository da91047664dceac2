"""Made-up traces of any size: for measurements of speed, which need many positions and no truth. Knows no model."""

# P positions, E exit layers, K temperatures

from collections.abc import Sequence

import numpy as np

from specbound_profiling.log.trace import DEFAULT_TEMPERATURES, PromptTrace


def synthetic_traces(
    num_prompts: int, num_positions: int, exit_layers: Sequence[int], seed: int = 0
) -> list[PromptTrace]:
    """Prompts whose exits are accepted as often as their confidence says, deeper ones more often."""
    rng = np.random.default_rng(seed)
    return [_trace(rng, f"synthetic-{index}", num_positions, tuple(exit_layers)) for index in range(num_prompts)]


def _trace(rng: np.random.Generator, prompt_id: str, num_positions: int, exit_layers: tuple[int, ...]) -> PromptTrace:
    num_exits = len(exit_layers)
    depth = np.arange(1, num_exits + 1) / num_exits
    confidence = rng.beta(1.0 + 2.0 * depth, 1.0, (num_positions, num_exits)).astype(np.float32)
    is_accepted = rng.random(confidence.shape) < confidence
    tokens = rng.integers(10, 4000, num_positions)
    cooled = [confidence ** np.float32(1.0 / t) * confidence ** np.float32(t - 1.0) for t in DEFAULT_TEMPERATURES]
    confidence_at = np.stack(cooled, axis=-1)
    return PromptTrace(
        prompt_id=prompt_id,
        task="synthetic",
        compression="none",
        prompt_length=40,
        tokens=tokens,
        exit_layers=exit_layers,
        temperatures=DEFAULT_TEMPERATURES,
        draft_token=np.where(is_accepted, tokens[:, None], 9),
        is_accepted=is_accepted,
        confidence=confidence,
        entropy_nats=3.0 * (1.0 - confidence),
        margin=3.0 * confidence,
        noised_margin=3.0 * confidence,
        draft_probability=confidence,
        confidence_at=confidence_at,
        label_nll_at=-np.log(np.maximum(confidence_at, 1e-6)),
        full_confidence=confidence[:, -1],
        full_entropy_nats=3.0 * (1.0 - confidence[:, -1]),
        full_margin=3.0 * confidence[:, -1],
        is_final_eos=False,
        is_loop_cut=False,
    )
