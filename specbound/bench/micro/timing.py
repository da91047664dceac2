"""What the measurements of `specbound.bench.micro` share: calls in turn, and prompts of the demonstration."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.loading import LoadedModel, load_model
from specbound_profiling.prompts.files import load_prompts
from specbound_profiling.prompts.tokenization import tokenize_prompts

K = TypeVar("K", bound=Hashable)


def interleaved(
    calls: Mapping[K, Callable[[], object]], num_rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[K, float]:
    """Median seconds of each call, one after the other, again and again, each once before the clock counts."""
    for call in calls.values():
        call()
    seconds: dict[K, list[float]] = {name: [] for name in calls}
    for _ in range(num_rounds):
        for name, call in calls.items():
            started = clock()
            call()
            seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def demo_prompts(
    model: str, num_prompts: int, max_new_tokens: int, compression: str = "none"
) -> tuple[LoadedModel, list[Tensor]]:
    """A model and evaluation prompts of the demonstration, (1, T) each."""
    loaded = load_model(model, compression)
    texts = load_prompts("demo:evaluate", num_prompts)
    return loaded, tokenize_prompts(texts, loaded, ModelAdapter(loaded.model), max_new_tokens)
