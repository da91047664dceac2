"""What a draft vocabulary wins and what it costs: `python -m specbound.bench.micro draft-vocabulary`. Measures only."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from specbound.bench.micro.timing import demo_prompts, interleaved
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.stats import DecodeStats
from specbound.decoding.step import read_signals
from specbound.models.loading import LoadedModel
from specbound_controller.draft_vocabulary import DraftVocabulary, most_frequent
from specbound_controller.policy import DraftingFrom, Policy, StaticPolicy
from specbound_profiling.costs.stopwatch import step_clock
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.prompts.files import load_prompts
from specbound_profiling.prompts.tokenization import tokenize_prompts
from specbound_profiling.recording.frequent_tokens import token_shares
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.settings import RecordSettings

# V vocabulary, N tokens of a draft vocabulary, D hidden width

MOST_FP32_BYTES = 1 << 30
"""Largest head in 32 bits; larger ones are held in bf16."""
FEWEST = 1024
"""Tokens of the smallest draft vocabulary of the first table."""


def draft_vocabulary(
    vocab_sizes: Sequence[int] = (4096, 32768, 131072),
    widths: Sequence[int] = (320, 1024, 4096),
    num_rounds: int = 50,
    device: str = "cpu",
    model: str = "demo",
    exit_layers: Sequence[int] = (2, 4, 8),
    draft_width: int = 2,
    num_prompts: int = 12,
    max_new_tokens: int = 64,
) -> None:
    """Microseconds of one exit read over all tokens and over some; then a model's agreement and speed with both.

    A read is final norm, head, confidence, entropy and margin, as an exit test asks for them: random numbers, all sizes
    in turn, so that each finds its rows as far from the processor as a step would. The model's draft vocabularies are
    those of its profiling prompts; its tokens, agreement and speed are those of evaluation prompts.
    """
    head = " | ".join(["all", "V/2", "V/4", "V/8", f"{FEWEST:,}"])
    print(f"| vocabulary V | hidden width | weights | {head} |\n{'|---' * 8}|")
    for vocab_size in vocab_sizes:
        for width in widths:
            _print_reads(vocab_size, width, num_rounds, device)
    print()
    loaded, prompts = demo_prompts(model, num_prompts, max_new_tokens)
    _print_agreement(loaded, prompts, tuple(exit_layers), draft_width, max_new_tokens)


@torch.inference_mode()
def _print_reads(vocab_size: int, width: int, num_rounds: int, device: str) -> None:
    """One line of the first table."""
    dtype = torch.float32 if vocab_size * width * 4 <= MOST_FP32_BYTES else torch.bfloat16
    head = nn.Linear(width, vocab_size, bias=False, device="meta", dtype=dtype).to_empty(device=device)
    head.weight.normal_(std=width**-0.5)
    scale = torch.ones(width, device=device, dtype=dtype)
    hidden = torch.randn(1, 1, width, device=device, dtype=dtype)
    calls: dict[str, Callable[[], object]] = {"all": partial(_read, hidden, scale, head, None)}
    for size in (vocab_size // 2, vocab_size // 4, vocab_size // 8, FEWEST):
        ids = torch.arange(0, vocab_size, vocab_size // size)[:size]
        draft_head = DraftHead(head, DraftVocabulary(ids.numpy()), "a head of random numbers")
        calls[f"{len(calls)}: {size}"] = partial(_read, hidden, scale, draft_head, draft_head)
    medians = list(interleaved(calls, num_rounds, step_clock(hidden.device)).values())
    cells = [f"{medians[0] * 1e6:.0f} µs", *(f"{s * 1e6:.0f} µs ({s / medians[0]:.2f}x)" for s in medians[1:])]
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    print(f"| {vocab_size:,} | {width:,} | {name} | {' | '.join(cells)} |", flush=True)


def _read(hidden: Tensor, scale: Tensor, project: Callable[[Tensor], Tensor], head: DraftHead | None) -> object:
    """One exit read. hidden: (1, 1, D), scale of the norm: (D,)"""
    logits = project(torch.rms_norm(hidden, scale.shape, scale, 1e-6))[0]
    return read_signals(logits, 1, 0, 1.0, head=head)


def _print_agreement(
    loaded: LoadedModel, prompts: Sequence[Tensor], exit_layers: tuple[int, ...], draft_width: int, max_new_tokens: int
) -> None:
    """The second table."""
    adapter = ModelAdapter(loaded.model)
    profiled = tokenize_prompts(load_prompts("demo"), loaded, adapter, max_new_tokens)
    vocab_size = adapter.vocab_size
    shares = token_shares(adapter, profiled, max_new_tokens, {"do_sample": False})
    vocabularies: dict[str, DraftVocabulary | None] = {"all": None}
    for size in (vocab_size // 2, vocab_size // 4, vocab_size // 8):
        vocabularies[f"{size:,}"] = most_frequent(shares, size, adapter.eos_token_ids)
    print(
        f"{len(prompts)} prompts, at most {max_new_tokens} tokens each; draft vocabularies from {len(profiled)} others;"
    )
    print(f"tokens per step and second: {draft_width} fixed drafts at exit {exit_layers[0]}\n")
    columns = ["tokens read", "share of the model's tokens", *(f"agreement, exit {e}" for e in exit_layers)]
    print(f"| {' | '.join([*columns, 'tokens per step', 'tokens per second'])} |\n{'|---' * (len(columns) + 2)}|")
    twin = greedy_twin(loaded.model, has_end=False)
    fixed = StaticPolicy(exit_layers[:1], 0.0, draft_width)
    decoders = {}
    for name, vocabulary in vocabularies.items():
        policy: Policy = fixed if vocabulary is None else DraftingFrom(vocabulary, fixed)
        decoders[name] = SpecBoundDecoder(twin, policy)
    seconds = interleaved(
        {name: partial(_decode_all, decoder, prompts, max_new_tokens) for name, decoder in decoders.items()},
        num_rounds=5,
        clock=step_clock(adapter.device),
    )
    for name, vocabulary in vocabularies.items():
        settings = RecordSettings(exit_layers, max_new_tokens, draft_vocabulary=vocabulary)
        recorder = Recorder(adapter, settings)
        traces = [recorder.record(ids, index) for index, ids in enumerate(prompts)]
        runs = (decoders[name].decode([ids], max_new_tokens=max_new_tokens).stats for ids in prompts)
        per_step = sum(runs, DecodeStats()).tokens_per_step
        speed = len(prompts) * max_new_tokens / seconds[name]
        cells = [name, f"{_share(traces, vocabulary):.1%}", *(f"{share:.1%}" for share in _agreement(traces))]
        print(f"| {' | '.join(cells)} | {per_step:.2f} | {speed:.1f} |", flush=True)


def _decode_all(decoder: SpecBoundDecoder, prompts: Sequence[Tensor], max_new_tokens: int) -> None:
    for ids in prompts:
        decoder.generate([ids], max_new_tokens=max_new_tokens)


def _share(traces: Sequence[PromptTrace], vocabulary: DraftVocabulary | None) -> float:
    """Share of the full model's tokens that a draft vocabulary holds."""
    tokens = np.concatenate([trace.tokens for trace in traces])
    return 1.0 if vocabulary is None else vocabulary.share(np.bincount(tokens, minlength=vocabulary.ids[-1] + 1))


def _agreement(traces: Sequence[PromptTrace]) -> list[float]:
    """Share of the positions at which each exit drafts the full model's token."""
    num_positions = sum(trace.num_positions for trace in traces)
    return [float(sums) / num_positions for sums in sum(trace.is_accepted.sum(axis=0) for trace in traces)]
