"""Where a step's time goes, and what its parts cost beside the plain way: measurements of `specbound.bench.micro`."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from specbound.bench.micro.timing import demo_prompts, interleaved
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.cache import DecodeCache, causal_mask
from specbound.decoding.model.lean import pack_mask, packed_attention
from specbound.decoding.signals import best_tokens, row_statistics
from specbound.models.controllers import load_controller
from specbound.models.fingerprint import model_fingerprint
from specbound.models.names import chosen_controller
from specbound.pricing.local import choose_costs
from specbound_controller.policy import Policy, StaticPolicy
from specbound_profiling.costs.stopwatch import inside_seconds

# V vocabulary, n new tokens, H query heads, G key-value heads, d width of a head, K keys


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


def signals(vocab_sizes: Sequence[int] = (2048, 4096, 32768, 131072), num_rounds: int = 200) -> None:
    """Microseconds of a row's confidence, entropy and margin, and of its most probable token, beside plain torch."""
    print("| vocabulary | statistics, torch | statistics | most probable token, torch | most probable token |")
    print("|---|---|---|---|---|")
    for size in vocab_sizes:
        logits = torch.randn(1, size, generator=torch.Generator().manual_seed(0)) * 3
        calls: dict[str, Callable[[], object]] = {
            "torch": partial(_torch_statistics, logits),
            "ours": partial(row_statistics, logits),
            "torch's arg max": partial(_torch_best, logits),
            "arg max": partial(best_tokens, logits),
        }
        medians = interleaved(calls, num_rounds)
        print(f"| {size:,} | " + " | ".join(f"{seconds * 1e6:.0f} µs" for seconds in medians.values()) + " |")


def _torch_best(logits: Tensor) -> int:
    return int(logits.argmax(-1))


def _torch_statistics(logits: Tensor) -> list[float]:
    """The statistics of one row by torch's operations. (1, V) -> 4"""
    top = logits.topk(2, dim=-1).values[0]
    log_normaliser = logits.logsumexp(-1)
    probabilities = (logits - log_normaliser).exp_()
    entropy = log_normaliser - torch.linalg.vecdot(probabilities, logits)
    parts = logits.argmax(-1), (top[:1] - log_normaliser).exp(), entropy, top[:1] - top[1:]
    return torch.cat([part.double() for part in parts]).tolist()


@torch.inference_mode()
def attention(
    contexts: Sequence[int] = (150, 300, 1000, 4000),
    num_new: int = 3,
    width: int = 64,
    heads: Sequence[tuple[int, int]] = ((5, 1), (8, 2), (32, 8)),
    num_rounds: int = 200,
) -> None:
    """Microseconds of one masked attention call: transformers', which repeats keys and values, and ours."""
    print(f"{num_new} rows, heads of {width}\n")
    print("| query / key-value heads | context | transformers | packed |\n|---|---|---|---|")
    for num_heads, num_key_heads in heads:
        module = SimpleNamespace(num_key_value_groups=num_heads // num_key_heads, is_causal=True)
        for context in contexts:
            query = torch.randn(1, num_new, num_heads, width)
            keys, values = torch.randn(2, 1, num_key_heads, context + 64, width)[:, :, :, :context].unbind(0)
            mask = causal_mask(num_new, context, None, torch.float32, torch.device("cpu"))[None, None]
            packed_mask = pack_mask(mask, num_heads // num_key_heads)
            theirs = partial(sdpa_attention_forward, module, query.transpose(1, 2), keys, values, mask)
            ours = partial(packed_attention, query, keys, values, packed_mask, width**-0.5)
            torch.testing.assert_close(theirs()[0], ours().flatten(2, 3))
            medians = interleaved({"transformers": theirs, "packed": ours}, num_rounds)
            cells = " | ".join(f"{seconds * 1e6:.0f} µs" for seconds in medians.values())
            print(f"| {num_heads} / {num_key_heads} | {context} | {cells} |")


@torch.inference_mode()
def cache(
    contexts: Sequence[int] = (256, 2048, 8192), num_key_heads: int = 8, width: int = 64, num_rounds: int = 100
) -> None:
    """One layer of a cache beside a DynamicCache: 3 tokens appended and rolled back, and the memory held."""
    print(f"{num_key_heads} key-value heads of {width}, fp32; capacity: context + 256\n")
    print("| context | DynamicCache | ours | DynamicCache | ours |\n|---|---|---|---|---|")
    for context in contexts:
        states = torch.randn(2, 1, num_key_heads, context, width)
        new = torch.randn(2, 1, num_key_heads, 3, width)
        theirs, ours = DynamicCache(), DecodeCache([None], context + 256)
        theirs.update(*states, 0)
        ours.update(*states, 0)
        calls = {"theirs": partial(_append, theirs, new), "ours": partial(_append_ours, ours, new, context)}
        cells = [f"{seconds * 1e6:.0f} µs" for seconds in interleaved(calls, num_rounds).values()]
        for each in (theirs, ours):
            cells.append(f"{(each.layers[0].keys.nbytes + each.layers[0].values.nbytes) / 2**20:.1f} MiB")
        print(f"| {context:,} | {' | '.join(cells)} |")


def _append(cache: DynamicCache, new: Tensor) -> None:
    cache.update(*new, 0)
    cache.layers[0].crop(-new.shape[-2])


def _append_ours(cache: DecodeCache, new: Tensor, context: int) -> None:
    cache.update(*new, 0)
    cache.truncate(context)
