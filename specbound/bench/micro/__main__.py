"""Small measurements behind the figures of the documentation: `python -m specbound.bench.micro <name>`, one table each.

Everything of one table is timed in one process, interleaved; medians, with the spread from the first to the third
quartile where it says so. Set OMP_NUM_THREADS=1 and keep the machine quiet.
"""

import resource
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from specbound.bench.micro.decoder import attention, cache, overhead, signals
from specbound.bench.micro.draft_vocabulary import draft_vocabulary
from specbound.bench.micro.replay import replay
from specbound.bench.micro.rollouts import rollouts
from specbound.bench.micro.segments import segments
from specbound.bench.micro.timing import demo_prompts, interleaved
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.noise import gumbel_noise
from specbound.decoding.request import Request
from specbound.decoding.sampling_config import SamplingConfig
from specbound.decoding.sequence import Sequence as DecodedSequence
from specbound.models.loading import load_model
from specbound_controller.policy import StaticPolicy
from specbound_profiling.costs.stopwatch import step_clock
from specbound_profiling.log.store import LogWriter
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.prompts.files import load_prompts
from specbound_profiling.prompts.loops import LOOP_NGRAM
from specbound_profiling.prompts.tokenization import tokenize_prompts
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.rollout import RolloutSettings
from specbound_profiling.recording.settings import RecordSettings

# n positions, V vocabulary, E exits

K = TypeVar("K", bound=Hashable)


def noise(vocab_sizes: Sequence[int] = (4096, 32768, 131072), num_rounds: int = 200) -> None:
    """Microseconds of the sampling noise of one position, and of choosing a token with it."""
    print("| vocabulary | noise of every token | choice | choice after top-k 50 | torch's softmax + multinomial |")
    print("|---|---|---|---|---|")
    for size in vocab_sizes:
        scores = torch.randn(1, size, generator=torch.Generator().manual_seed(0)) * 3
        token_ids = torch.arange(size)
        top = scores.masked_fill(scores < scores.topk(50).values[:, -1:], -torch.inf)

        medians = interleaved(
            {
                "noise": partial(gumbel_noise, 0, 7, token_ids),
                "choice": partial(_choose, scores),
                "top-k": partial(_choose, top),
                "multinomial": partial(_multinomial, scores),
            },
            num_rounds,
        )
        print(f"| {size:,} | " + " | ".join(f"{seconds * 1e6:.0f} µs" for seconds in medians.values()) + " |")


def _choose(scores: Tensor) -> int:
    """One sampled token by the noise, as the decoder chooses it. scores: (1, V)"""
    sequence = DecodedSequence(Request(prompt=(1,), max_new_tokens=9, do_sample=True), torch.device("cpu"))
    return sequence.commit_token(scores)


def _multinomial(scores: Tensor) -> int:
    """One sampled token as transformers draws it."""
    return int(torch.multinomial(scores.softmax(-1), 1))


def coupling(
    model: str = "demo",
    exit_layers: Sequence[int] = (2, 4, 8),
    temperature: float = 1.0,
    num_prompts: int = 24,
    max_new_tokens: int = 96,
) -> None:
    """Share of sampled tokens at which an exit's draft is accepted: shared noise against other ways to draft.

    Over the positions of sampled continuations, p being the full model's distribution and q the exit's: with the noise
    shared, with noise of its own (the sum of p q), drafting the exit's most probable token (p of it), and the most that
    any way to draft could reach (the sum of min(p, q), which the accept rule of speculative sampling attains).
    """
    loaded, prompts = demo_prompts(model, num_prompts, max_new_tokens)
    decoder = SpecBoundDecoder(greedy_twin(loaded.model, has_end=False))
    totals = torch.zeros(len(exit_layers), 4, dtype=torch.float64)
    num_positions = 0
    for seed, ids in enumerate(prompts):
        settings = {"do_sample": True, "temperature": temperature, "top_k": 0, "seed": seed}
        sequence = decoder.decode([ids], max_new_tokens=max_new_tokens, **settings).sequences
        totals += _accepted(decoder.adapter, sequence, ids.shape[1], exit_layers, temperature, seed)
        num_positions += max_new_tokens
    print(f"{num_positions} positions of {len(prompts)} prompts, temperature {temperature:g}\n")
    print("| exit layer | shared noise | noise of its own | most probable token | best possible |")
    print("|---|---|---|---|---|")
    for exit_layer, row in zip(exit_layers, (totals / num_positions).tolist(), strict=True):
        print(f"| {exit_layer} | " + " | ".join(f"{share:.3f}" for share in row) + " |")


@torch.inference_mode()
def _accepted(
    adapter: ModelAdapter, sequence: Tensor, prompt_length: int, exits: Sequence[int], temperature: float, seed: int
) -> Tensor:
    """Sums over the new tokens of a sequence: accepted by each of four ways to draft. (E, 4) float64"""
    rows = slice(prompt_length - 1, sequence.shape[1] - 1)  # what predicts the new tokens
    cache = adapter.new_cache(sequence.shape[1])
    hidden, depth, exit_scores = adapter.embed(sequence, 0), 0, []
    for exit_layer in (*exits, adapter.num_layers):
        hidden = adapter.run_layers(hidden, depth, exit_layer, cache, 0)
        depth = exit_layer
        exit_scores.append(adapter.read_head(hidden[:, rows])[0].float() / temperature)
    token_ids = torch.arange(adapter.vocab_size)
    noised = [gumbel_noise(seed, position, token_ids) for position in range(prompt_length, sequence.shape[1])]
    shared = torch.stack(noised)
    p, tokens = exit_scores[-1].double().softmax(-1), sequence[0, prompt_length:]
    sums = []
    for scores in exit_scores[:-1]:
        q = scores.double().softmax(-1)
        with_shared = ((scores.double() + shared).argmax(-1) == tokens).double()
        of_best = p.gather(1, q.argmax(-1, keepdim=True))[:, 0]
        sums.append(torch.stack([with_shared, (p * q).sum(-1), of_best, torch.minimum(p, q).sum(-1)]).sum(-1))
    return torch.stack(sums)


def batches(
    model: str = "demo",
    sizes: Sequence[int] = (1, 2, 4, 8),
    exit_layer: int = 2,
    width: int = 2,
    max_new_tokens: int = 96,
    num_rounds: int = 5,
) -> None:
    """Tokens per second of a batch: transformers' generate, plain decoding in our loop, a fixed draft."""
    loaded, prompts = demo_prompts(model, max(sizes), max_new_tokens)
    twin = greedy_twin(loaded.model, has_end=False)
    twin.generation_config.pad_token_id = 0
    plain = SpecBoundDecoder(twin, record_steps=False)
    drafting = SpecBoundDecoder(twin, StaticPolicy((exit_layer,), 0.0, width), record_steps=False)
    print(f"fixed draft: exit layer {exit_layer}, width {width}; {max_new_tokens} tokens per row\n")
    print("| rows | transformers | plain | fixed draft | plain / transformers | fixed draft / plain |")
    print("|---|---|---|---|---|---|")
    for size in sizes:
        rows = [prompt[0].tolist() for prompt in prompts[:size]]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": max_new_tokens}
        seconds = interleaved(
            {
                "transformers": partial(twin.generate, **inputs),
                "plain": partial(plain.generate, **inputs),
                "fixed": partial(drafting.generate, **inputs),
            },
            num_rounds,
        )
        speeds = {name: size * max_new_tokens / each for name, each in seconds.items()}
        ratios = (speeds["plain"] / speeds["transformers"], speeds["fixed"] / speeds["plain"])
        cells = [f"{speed:.0f} tokens/s" for speed in speeds.values()] + [f"{ratio:.2f}" for ratio in ratios]
        print(f"| {size} | " + " | ".join(cells) + " |")


def exactness(
    model: str = "demo",
    compressions: Sequence[str] = ("none", "bf16", "fp16", "int8", "nf4"),
    exit_layer: int = 2,
    width: int = 2,
    max_new_tokens: int = 64,
    num_prompts: int = 3,
    num_rounds: int = 5,
) -> None:
    """Tokens per second of both levels of exactness, plain and with a fixed draft, at every compression level."""
    print(f"fixed draft: exit layer {exit_layer}, width {width}\n")
    print("| compression | plain, token | plain, bitwise | draft, token | draft, bitwise | draft / plain, bitwise |")
    print("|---|---|---|---|---|---|")
    for compression in compressions:
        loaded, prompts = demo_prompts(model, num_prompts, max_new_tokens, compression)
        twin = greedy_twin(loaded.model, has_end=False)
        calls = {}
        for policy_name, policy in (("plain", None), ("draft", StaticPolicy((exit_layer,), 0.0, width))):
            for level in ("token", "bitwise"):
                decoder = SpecBoundDecoder(twin, policy, compression, record_steps=False, exactness=level)
                calls[policy_name, level] = partial(_decode_all, decoder, prompts, max_new_tokens)
        seconds = interleaved(calls, num_rounds)
        speeds = {name: len(prompts) * max_new_tokens / each for name, each in seconds.items()}
        ratio = speeds["draft", "bitwise"] / speeds["plain", "bitwise"]
        print(
            f"| {compression} | "
            + " | ".join(f"{speed:.0f} tokens/s" for speed in speeds.values())
            + f" | {ratio:.2f} |"
        )


def _decode_all(decoder: SpecBoundDecoder, prompts: Sequence[Tensor], max_new_tokens: int) -> None:
    for prompt in prompts:
        decoder.generate([prompt], max_new_tokens=max_new_tokens)


def long_run(model: str = "demo", exit_layer: int = 2, width: int = 2, room: int = 0) -> None:
    """Milliseconds per token and cache size as the context grows to the model's maximum length."""
    loaded, prompts = demo_prompts(model, 1, 8)
    decoder = SpecBoundDecoder(
        greedy_twin(loaded.model, has_end=False), StaticPolicy((exit_layer,), 0.0, width), record_steps=False
    )
    limit = room or decoder.adapter.max_positions or 4096
    marks: list[tuple[int, float]] = []
    output = decoder.decode(
        [prompts[0]],
        max_new_tokens=limit - prompts[0].shape[1],
        on_step=lambda record, row: marks.append((record.context_length, time.perf_counter())),
    )
    print("| context | ms per token |")
    print("|---|---|")
    for first in range(0, len(marks) - 1, max(1, len(marks) // 8)):
        last = min(first + max(1, len(marks) // 8), len(marks) - 1)
        tokens = marks[last][0] - marks[first][0]
        print(
            f"| {marks[first][0]}–{marks[last][0]} | {(marks[last][1] - marks[first][1]) / max(1, tokens) * 1e3:.2f} |"
        )
    cache = output.past_key_values
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    print(f"\n{output.stats.num_tokens} tokens; cache {size / 2**20:.1f} MiB for {cache.get_seq_length()} tokens")


def recording(
    model: str = "demo",
    compressions: Sequence[str] = ("none", "bf16", "fp16", "int8", "nf4"),
    exit_layers: Sequence[int] = (2, 4, 6, 8),
    temperature: float = 0.7,
    rollout_rates: Sequence[float] = (0.02, 1.0),
    max_new_tokens: int = 64,
    num_prompts: int = 3,
    num_rounds: int = 5,
) -> None:
    """What recording costs over plain decoding of the same tokens at the same exactness, greedy and sampled.

    Without roll-outs, and with them at some rates (draft width 8). On one CPU thread processor seconds, which other
    programs on the machine hardly lengthen.
    """
    print(f"exit layers {', '.join(map(str, exit_layers))}; ratios of seconds to plain decoding's\n")
    header = ["compression", "exactness", "tokens", "plain", "recording", *(f"roll-outs {r:g}" for r in rollout_rates)]
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    for compression in compressions:
        loaded, prompts = demo_prompts(model, num_prompts, max_new_tokens, compression)
        level = "token" if compression == "none" else "bitwise"
        plain = SpecBoundDecoder(greedy_twin(loaded.model), None, compression, record_steps=False, exactness=level)
        for is_sampled in (False, True):
            sampling = SamplingConfig(sample=True, temperature=temperature) if is_sampled else SamplingConfig()
            arguments = sampling.generate_arguments()
            settings = RecordSettings(tuple(exit_layers), max_new_tokens, sampling=arguments)
            recorder = Recorder(plain.adapter, settings, level)
            lengths = [_recorded_length(recorder.record(ids, index)) for index, ids in enumerate(prompts)]
            calls: dict[str, Callable[[], object]] = {
                "plain": partial(_decode_lengths, plain, prompts, lengths, arguments)
            }
            for rate in (0.0, *rollout_rates):
                calls[f"{rate:g}"] = partial(_record_all, recorder, prompts, RolloutSettings(rate, 8))
            first, *others = interleaved(calls, num_rounds, step_clock(plain.adapter.device)).values()
            cells = [compression, level, "sampled" if is_sampled else "greedy", f"{sum(lengths) / first:.0f} tokens/s"]
            print(f"| {' | '.join([*cells, *(f'{each / first:.2f}x' for each in others)])} |", flush=True)


def _recorded_length(trace: PromptTrace) -> int:
    """Tokens that were decoded for a trace, those of a loop that is cut included."""
    return trace.num_positions + (LOOP_NGRAM if trace.is_loop_cut else 0)


def _decode_lengths(
    decoder: SpecBoundDecoder, prompts: Sequence[Tensor], lengths: Sequence[int], arguments: Mapping[str, Any]
) -> None:
    for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        own = dict(arguments, seed=arguments["seed"] + index) if "seed" in arguments else arguments
        decoder.generate([prompt], max_new_tokens=length, **own)


def _record_all(recorder: Recorder, prompts: Sequence[Tensor], rollouts: RolloutSettings) -> None:
    recorder.settings = replace(recorder.settings, rollouts=rollouts)
    for index, prompt in enumerate(prompts):
        recorder.record(prompt, index)


def recording_memory(model: str = "demo", max_new_tokens: int = 32, sizes: Sequence[int] = (10, 100)) -> None:
    """Resident memory after so many prompts are recorded, one run of `profile`'s recording in one process."""
    import tempfile
    from pathlib import Path

    from specbound_profiling.recording import profile as stage
    from specbound_profiling.recording.config import ProfileConfig

    prompts = load_prompts("demo", max(sizes))
    loaded = load_model(model)
    adapter = ModelAdapter(loaded.model)
    prompt_ids = tokenize_prompts(prompts, loaded, adapter, max_new_tokens)
    print("| prompts | resident memory |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in sorted(sizes):
            config = ProfileConfig(out=f"{folder}/{size}", model=model, max_new_tokens=max_new_tokens, rollout_rate=1.0)
            manifest = stage.new_manifest(config, prompts[:size], loaded, adapter)
            stage.record_missing(LogWriter(Path(config.out), manifest), adapter, prompts[:size], prompt_ids, "none")
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"| {size} | {pages * resource.getpagesize() / 2**20:.0f} MiB |", flush=True)


MEASUREMENTS: dict[str, Any] = {
    "noise": noise,
    "coupling": coupling,
    "batches": batches,
    "exactness": exactness,
    "long-run": long_run,
    "recording": recording,
    "recording-memory": recording_memory,
    "rollouts": rollouts,
    "replay": replay,
    "draft-vocabulary": draft_vocabulary,
    "overhead": overhead,
    "signals": signals,
    "attention": attention,
    "cache": cache,
    "segments": segments,
}

if __name__ == "__main__":
    from jsonargparse import auto_cli

    torch.set_num_threads(1)
    auto_cli(MEASUREMENTS)
