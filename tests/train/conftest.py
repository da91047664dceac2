"""Synthetic logs whose drafts get easier and harder along the text, so that there is something to learn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specbound_controller.costs import ROW_KNOTS, WORK_NAMES, CostTable
from specbound_profiling.log.store import LogWriter, Manifest
from specbound_profiling.log.trace import DEFAULT_TEMPERATURES, PromptTrace

EXIT_LAYERS = (2, 4)
NUM_LAYERS = 12
TASKS = ("prose", "code", "math")


def synthetic_trace(
    rng: np.random.Generator,
    index: int,
    num_positions: int,
    exit_layers: tuple[int, ...] = EXIT_LAYERS,
    compression: str = "none",
) -> PromptTrace:
    """Acceptance follows a slowly moving difficulty that the full model's entropy and the exits' confidence show."""
    exits, shape = len(exit_layers), (num_positions, len(exit_layers))
    ease = np.empty(num_positions)
    ease[0] = rng.normal()
    for position in range(1, num_positions):
        ease[position] = 0.9 * ease[position - 1] + 0.6 * rng.normal()
    logit = 0.5 + 1.5 * ease[:, None] + np.linspace(0.0, 0.7, exits) + rng.normal(size=shape)
    is_accepted = rng.random(shape) < 1 / (1 + np.exp(-logit))
    confidence = (1 / (1 + np.exp(-(logit + 0.7 * rng.normal(size=shape))))).astype(np.float32)
    confidence = np.clip(confidence, 0.02, 0.999)
    tokens = rng.integers(10, 100, size=num_positions)
    cooled = np.stack([confidence ** (1 + 0.3 * (t - 1)) for t in DEFAULT_TEMPERATURES], axis=-1).astype(np.float32)
    full = (1 / (1 + np.exp(-(1 + ease)))).astype(np.float32)
    return PromptTrace(
        prompt_id=f"prompt-{index}",
        task=TASKS[index % len(TASKS)],
        compression=compression,
        prompt_length=20 + index % 7,
        tokens=tokens,
        exit_layers=exit_layers,
        temperatures=DEFAULT_TEMPERATURES,
        draft_token=np.where(is_accepted, tokens[:, None], 5),
        is_accepted=is_accepted,
        confidence=confidence,
        entropy_nats=(2 * (1 - confidence)).astype(np.float32),
        margin=(4 * confidence).astype(np.float32),
        noised_margin=(4 * confidence).astype(np.float32),
        draft_probability=confidence,
        confidence_at=cooled,
        label_nll_at=-np.log(cooled),
        full_confidence=full,
        full_entropy_nats=(2 * (1 - full)).astype(np.float32),
        full_margin=(4 * full).astype(np.float32),
        is_final_eos=False,
        is_loop_cut=False,
    )


def synthetic_traces(
    seed: int, num_prompts: int, num_positions: int, compression: str = "none", **changes: object
) -> list[PromptTrace]:
    rng = np.random.default_rng(seed)
    return [
        synthetic_trace(rng, index, num_positions, compression=compression, **changes)  # type: ignore[arg-type]
        for index in range(num_prompts)
    ]


def synthetic_costs(row_slope: float = 0.1, head: float = 1.2, layer_s: float = 1e-3) -> CostTable:
    """A layer call with r rows costs 1 + row_slope * (r - 1) units, a head read `head` of them."""
    seconds = dict.fromkeys(WORK_NAMES, 0.0)
    for rows in ROW_KNOTS:
        seconds[f"layer_calls_rows_{rows}"] = layer_s * (1 + row_slope * (rows - 1))
    seconds |= {"head_reads": head * layer_s, "exit_tests": 0.1 * layer_s, "decisions": 0.05 * layer_s}
    return CostTable(seconds, "none", "synthetic", 0.0, 300)


def write_log(root: Path, traces_by_level: dict[str, list[PromptTrace]], costs: CostTable, **changes: object) -> Path:
    """A finished log directory. changes: to the manifest."""
    first = next(iter(traces_by_level.values()))
    manifest = Manifest(
        model="synthetic",
        model_fingerprint="f" * 64,
        num_layers=NUM_LAYERS,
        vocab_size=128,
        eos_token_ids=(),
        prompts="synthetic",
        prompts_hash="0" * 64,
        num_prompts=len(first),
        shard_prompts=8,
        exit_layers=first[0].exit_layers,
        temperatures=DEFAULT_TEMPERATURES,
        compressions=tuple(traces_by_level),
        max_new_tokens=max(trace.num_positions for trace in first),
        seed=0,
    )
    manifest = replace(manifest, **changes)  # type: ignore[arg-type]
    writer = LogWriter(root, manifest)
    for level, traces in traces_by_level.items():
        for shard in range(manifest.num_shards):
            writer.write_shard(level, shard, traces[shard * 8 : (shard + 1) * 8])
        writer.write_costs(level, costs)
    return root


@pytest.fixture(scope="session")
def traces_of() -> Callable[..., list[PromptTrace]]:
    return synthetic_traces


@pytest.fixture(scope="session")
def costs_of() -> Callable[..., CostTable]:
    return synthetic_costs


@pytest.fixture(scope="session")
def log_of() -> Callable[..., Path]:
    return write_log


@pytest.fixture(scope="session")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 prompts x 60 tokens, one level."""
    return write_log(tmp_path_factory.mktemp("logs") / "log", {"none": synthetic_traces(0, 24, 60)}, synthetic_costs())


@pytest.fixture(scope="session")
def small_log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 prompts x 24 tokens, one level."""
    return write_log(tmp_path_factory.mktemp("logs") / "log", {"none": synthetic_traces(1, 5, 24)}, synthetic_costs())
