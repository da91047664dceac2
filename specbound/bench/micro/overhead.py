"""Where a step's time goes: a measurement of `specbound.bench.micro`."""

import statistics
import time
from collections.abc import Sequence

from torch import Tensor

from specbound.bench.micro.timing import demo_prompts, interleaved
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.models.controllers import load_controller
from specbound.models.fingerprint import model_fingerprint
from specbound.models.names import chosen_controller
from specbound.pricing.local import choose_costs
from specbound_controller.policy import Policy, StaticPolicy
from specbound_profiling.costs.stopwatch import inside_seconds


class FullSignals(StaticPolicy):
    """A fixed draft that also asks for the full model's signals, as adaptive policies do."""

    needs_full_signals = True


def overhead(
    model: str = "demo",
    controller: str | None = None,
    costs: str = "auto",
    max_new_tokens: int = 96,
    num_prompts: int = 4,
    num_rounds: int = 5,
) -> None:
    """Milliseconds of a step with layers run as modules and lean, and the share that is neither layers nor head."""
    loaded, prompts = demo_prompts(model, num_prompts, max_new_tokens)
    trained = load_controller(chosen_controller(controller, model))
    twin = greedy_twin(loaded.model, has_end=False)
    policies: dict[str, Policy | None] = {
        "plain": None,
        "exit 2, 2 fixed drafts": StaticPolicy((2,), 0.0, 2),
        "the same, full signals": FullSignals((2,), 0.0, 2),
        "exit 4, at most 4 drafts, tested": StaticPolicy((4,), 0.5, 4),
    }
    if trained is not None:
        trained.check_model(model_fingerprint(loaded.model), len(loaded.model.get_decoder().layers))
        policies["controller"] = trained.policy(choose_costs(costs, trained, loaded)[0], loaded.compression)
    runs = {}
    for name, policy in policies.items():
        decoder = SpecBoundDecoder(twin, policy, record_steps=False)
        runs[name, "modules"] = StepTimes(decoder, prompts, max_new_tokens, as_modules=True)
        runs[name, "lean"] = StepTimes(decoder, prompts, max_new_tokens, as_modules=False)
    interleaved({key: run.measure for key, run in runs.items()}, num_rounds)
    print("| step | layers as modules | lean layers | neither layers nor head | share |\n|---|---|---|---|---|")
    for name in policies:
        before, after = runs[name, "modules"], runs[name, "lean"]
        step, outside = statistics.median(after.steps), statistics.median(after.outside)
        cells = f"{statistics.median(before.steps) * 1e3:.2f} ms | {step * 1e3:.2f} ms | {outside * 1e6:.0f} µs"
        print(f"| {name} | {cells} | {outside / step:.1%} |")


class StepTimes:
    """Seconds of the steps of a decoder, and of what is neither layers nor head in them."""

    def __init__(
        self, decoder: SpecBoundDecoder, prompts: Sequence[Tensor], max_new_tokens: int, as_modules: bool
    ) -> None:
        self.decoder, self.prompts, self.max_new_tokens = decoder, prompts, max_new_tokens
        self.as_modules = as_modules
        self.steps: list[float] = []
        """Mean seconds of a step, prompt by prompt and round by round."""
        self.outside: list[float] = []

    def measure(self) -> None:
        """Decodes all prompts once."""
        layer = self.decoder.adapter.layers[0]
        for prompt in self.prompts:
            hook = layer.register_forward_hook(_do_nothing) if self.as_modules else None
            try:
                with inside_seconds(self.decoder.adapter, time.perf_counter) as inside:
                    stats = self.decoder.decode([prompt], max_new_tokens=self.max_new_tokens).stats
            finally:
                if hook is not None:
                    hook.remove()
            seconds = stats.seconds - stats.prefill_seconds
            self.steps.append(seconds / stats.num_steps)
            self.outside.append((seconds - sum(inside[2:])) / stats.num_steps)  # prefill runs layers and head once


def _do_nothing(*_: object) -> None:
    """A hook: its presence alone makes layers run as modules."""
