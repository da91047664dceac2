"""What recording costs, in time and in memory: two measurements of `specbound.bench.micro`."""

import resource
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from specbound.bench.micro.timing import demo_prompts, interleaved
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.request import greedy_twin
from specbound.decoding.sampling_config import SamplingConfig
from specbound.models.loading import load_model
from specbound_profiling.costs.stopwatch import step_clock
from specbound_profiling.log.store import LogWriter
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.prompts.files import load_prompts
from specbound_profiling.prompts.loops import LOOP_NGRAM
from specbound_profiling.prompts.tokenization import tokenize_prompts
from specbound_profiling.recording.config import ProfileConfig
from specbound_profiling.recording.profile import new_manifest, record_missing
from specbound_profiling.recording.record import Recorder, RecordSettings
from specbound_profiling.recording.rollout import RolloutSettings


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
    prompts = load_prompts("demo", max(sizes))
    loaded = load_model(model)
    adapter = ModelAdapter(loaded.model)
    prompt_ids = tokenize_prompts(prompts, loaded, adapter, max_new_tokens)
    print("| prompts | resident memory |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in sorted(sizes):
            config = ProfileConfig(out=f"{folder}/{size}", model=model, max_new_tokens=max_new_tokens, rollout_rate=1.0)
            manifest = new_manifest(config, prompts[:size], loaded, adapter)
            record_missing(LogWriter(Path(config.out), manifest), adapter, prompts[:size], prompt_ids, "none")
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"| {size} | {pages * resource.getpagesize() / 2**20:.0f} MiB |", flush=True)
