"""Stage `micro`: where a step's time goes on the device, how often the host waits, and which kernels keep bits."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from specbound.bench.gpu.clock import call_seconds, device_seconds, free, order_seconds
from specbound.bench.gpu.finding import Cell, Finding, Part, Settings, Table
from specbound.bench.gpu.models import KINDS, LayerCalls, decoder_of, quantise_nf4, random_ids, shape_model
from specbound.bench.gpu.profiled import GRAPHS, LAUNCHES, TO_DEVICE, TO_HOST, WAITS, Seen, Watch, watched
from specbound.bench.gpu.row_bits import product_microseconds, runs_of_equal_bits, shown_runs
from specbound.bench.shapes import SHAPE_SIZES
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.row_blocks import MatrixProduct
from specbound.decoding.model.segments import StaticSegments
from specbound.decoding.noise import gumbel_noise
from specbound.decoding.request import Request
from specbound.decoding.sequence import Sequence as DecodedSequence
from specbound.decoding.signals import best_tokens, row_statistics
from specbound.decoding.step import read_signals
from specbound_controller.errors import UnsupportedModelError
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.records import StepRecord

SAMPLED = {"do_sample": True, "temperature": 0.8, "seed": 1}
FIRST_STEP = 3
"""Steps before it are not watched: there what is captured is captured."""
ROW_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is run."""

    shapes: tuple[str, ...]
    kinds: tuple[str, ...]
    """Whose synchronisations are counted."""
    weights: tuple[str, ...]
    """At which `bitwise` is tried."""
    num_calls: int
    num_prompts: int
    new_tokens: int
    num_steps: int
    """That the profiler watches."""
    context: int
    vocabularies: tuple[int, ...]
    counts: tuple[int, ...]
    products: tuple[tuple[str, int, int], ...]
    """Name, inputs, outputs."""


def products_of(name: str) -> tuple[tuple[str, int, int], ...]:
    """The matrix products of a shape. (name, inputs, outputs) each"""
    shape = SHAPE_SIZES[name]
    key_width = shape.hidden_size // shape.num_heads * shape.num_key_value_heads
    return (
        (f"{name} query, output", shape.hidden_size, shape.hidden_size),
        (f"{name} key, value", shape.hidden_size, key_width),
        (f"{name} gate, up", shape.hidden_size, shape.intermediate_size),
        (f"{name} down", shape.intermediate_size, shape.hidden_size),
        (f"{name} head", shape.hidden_size, shape.vocab_size),
    )


REAL = Sizes(
    shapes=("1b", "7b"),
    kinds=KINDS,
    weights=("bf16", "fp16", "fp32", "nf4"),
    num_calls=20,
    num_prompts=3,
    new_tokens=96,
    num_steps=16,
    context=128,
    vocabularies=(4096, 32768, 131072),
    counts=ROW_COUNTS,
    products=(*products_of("1b"), *products_of("7b")),
)
DRY = Sizes(
    shapes=("1b",),
    kinds=KINDS[1:],
    weights=("bf16",),
    num_calls=2,
    num_prompts=1,
    new_tokens=24,
    num_steps=2,
    context=16,
    vocabularies=(512,),
    counts=(1, 2, 8),
    products=products_of("tiny")[:2],
)


def parts(settings: Settings) -> Iterator[Part]:
    """Cheap ones first."""
    yield Part("launches", partial(launches, settings), 15.0)
    yield Part("synchronisations", partial(synchronisations, settings), 20.0)
    yield Part("bits by rows", partial(bits, settings), 20.0)
    yield Part("bitwise", partial(bitwise, settings), 40.0)
    yield Part("vocabulary", partial(vocabulary, settings), 10.0)
    yield Part("captured graphs", partial(graphs, settings), 20.0)


def sizes_of(settings: Settings) -> Sizes:
    return DRY if settings.is_dry else REAL


def launches(settings: Settings) -> Finding:
    """What the host does to order one layer, what the device does to run it, and how many kernels that are."""
    sizes, device, rows = sizes_of(settings), torch.device(settings.device), list[list[Cell]]()
    for name in sizes.shapes:
        model = shape_model(name, settings)
        for kind in KINDS:
            decoder = decoder_of(model, kind)
            num_layers = decoder.adapter.num_layers
            for num_rows in (1, 4):
                calls = LayerCalls(decoder, num_rows, sizes.context)
                (whole,) = call_seconds({"all": calls}, device, sizes.num_calls).values()
                times = (whole, order_seconds(calls, device, sizes.num_calls))
                on_device = device_seconds(calls, device, sizes.num_calls)
                seen = watched(calls, device)
                microseconds = [each / num_layers * 1e6 for each in (*times, on_device)]
                rows.append(
                    [name, kind, num_rows, *microseconds, seen.calls(LAUNCHES) / num_layers, seen.calls(GRAPHS)]
                )
            del decoder
        del model
        free()
    columns = (
        *("shape", "layers", "rows", "µs to the end", "µs of the host", "µs in a row of calls"),
        *("kernels launched", "graphs launched by all layers"),
    )
    return Finding([Table(f"One layer at context {sizes.context}", columns, rows)])


def synchronisations(settings: Settings) -> Finding:
    """How often the host waits for the device in a step, by policy, against the heads that it reads."""
    sizes, rows = sizes_of(settings), list[list[Cell]]()
    model = shape_model("1b", settings)
    exit_layer = 2
    policies: dict[str, Policy] = {
        "plain": StaticPolicy(()),
        "fixed, 3 drafts": StaticPolicy((exit_layer,), 0.0, 3),
        "tested, at most 3": StaticPolicy((exit_layer,), 1e-6, 3),
        "tested, the full model's signals": FullSignals((exit_layer,), 1e-6, 3),
    }
    for kind in sizes.kinds:
        for name, policy in policies.items():
            for sampling in ({}, SAMPLED):
                decoder = decoder_of(model, kind, policy)
                decoder.generate([random_ids(model.config.vocab_size, 16, 0)], max_new_tokens=sizes.new_tokens)
                seen, records = steps_seen(decoder, sizes, sampling)
                rows.append([name, kind, "sampled" if sampling else "greedy", *per_step(seen, records)])
    columns = (
        *("policy", "layers", "tokens", "steps", "exit tests and verifications per step", "waits per step"),
        *("copies to the host per step", "copies to the device per step", "kernels launched per step"),
    )
    note = "promised: one wait for each exit test and one for the verification, and no copy to the device"
    return Finding([Table("What torch's profiler saw of steps, 1b", columns, rows)], [note])


class FullSignals(StaticPolicy):
    """A fixed draft that also asks for the full model's signals, as adaptive policies do."""

    needs_full_signals = True


def steps_seen(decoder: SpecBoundDecoder, sizes: Sizes, sampling: dict) -> tuple[Seen, list[StepRecord]]:
    """What the profiler sees of some steps in the middle of a generation, and their records."""
    watch, records, seen = Watch(decoder.adapter.device), list[StepRecord](), list[Seen]()

    def on_step(record: StepRecord, _: int) -> None:
        records.append(record)
        if len(records) == FIRST_STEP:
            watch.start()
        if len(records) == FIRST_STEP + sizes.num_steps:
            seen.append(watch.stop())

    prompt = random_ids(decoder.adapter.vocab_size, 16, 0)
    decoder.decode([prompt], max_new_tokens=sizes.new_tokens, on_step=on_step, **sampling)
    return seen[0], records[FIRST_STEP : FIRST_STEP + sizes.num_steps]


def per_step(seen: Seen, records: list[StepRecord]) -> list[Cell]:
    """Counts over the number of steps."""
    num_steps = len(records)
    counts = (
        sum(sum(record.head_reads_by_rows.values()) for record in records),
        seen.calls(WAITS),
        seen.copies(TO_HOST),
        seen.copies(TO_DEVICE),
        seen.calls(LAUNCHES),
    )
    return [num_steps, *(count / num_steps for count in counts)]


def bits(settings: Settings) -> Finding:
    """Which row counts give a row equal bits, by dtype, and what they cost."""
    sizes, device, tables = sizes_of(settings), torch.device(settings.device), list[Table]()
    rows: list[list[Cell]] = []
    costs: list[list[Cell]] = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        kind = str(dtype).removeprefix("torch.")
        for name, inputs, outputs in sizes.products:
            product = MatrixProduct(inputs, outputs, dtype, device, False, False, torch.get_num_threads())
            rows.append([name, kind, shown_runs(runs_of_equal_bits(product, sizes.counts))])
            if dtype == torch.bfloat16:
                costs.append([name, *product_microseconds(product, sizes.counts, sizes.num_calls)])
            free()
    tables.append(Table("Row counts with equal bits", ("product", "dtype", "groups"), rows))
    tables.append(Table("Microseconds of a product in bf16, by rows", ("product", *map(str, sizes.counts)), costs))
    return Finding(tables)


def bitwise(settings: Settings) -> Finding:
    """Whether `bitwise` holds on this device, by dtype and weights, and what it costs beside `token`."""
    sizes, rows, notes = sizes_of(settings), list[list[Cell]](), list[str]()
    prompts = None
    for weights in sizes.weights:
        model = shape_model("1b", settings)
        if weights == "nf4":
            quantise_nf4(model)
        else:
            model = model.to({"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[weights])
        vocab_size = model.config.vocab_size
        prompts = prompts or [random_ids(vocab_size, 16, seed) for seed in range(sizes.num_prompts)]
        cells: list[Cell] = [weights]
        try:
            decoder = decoder_of(model, "eager", exactness="bitwise")
        except UnsupportedModelError as error:
            notes.append(f"{weights}: refused: {error}")
            cells += ["refused", None, None, None]
        else:
            calls = {
                "token": partial(decode_all, decoder_of(model, "eager"), prompts, sizes.new_tokens),
                "bitwise": partial(decode_all, decoder, prompts, sizes.new_tokens),
            }
            draft = decoder_of(model, "eager", StaticPolicy((2,), 0.0, 4), "bitwise")
            seconds = call_seconds(calls, model.device, 1, 1)
            equal = decode_all(draft, prompts, sizes.new_tokens) == calls["bitwise"]()
            speeds = [len(prompts) * sizes.new_tokens / each for each in seconds.values()]
            cells += ["equal" if equal else "DIFFERS", *speeds, speeds[0] / speeds[1]]
        rows.append(cells)
        del model
        free()
    columns = ("weights", "drafts against plain", "plain token, tokens/s", "plain bitwise, tokens/s", "cost")
    finding = Finding([Table("Exactness bitwise, 1b, eager", columns, rows)], notes)
    if any(row[1] == "DIFFERS" for row in rows):
        finding.failure = "bitwise was not refused, and drafts differ from plain decoding: a broken promise"
    return finding


def decode_all(decoder: SpecBoundDecoder, prompts: list[Tensor], new_tokens: int) -> list[list[int]]:
    """The output of each prompt."""
    return [decoder.generate([prompt], max_new_tokens=new_tokens)[0].tolist() for prompt in prompts]


def vocabulary(settings: Settings) -> Finding:
    """Microseconds of what is done with one row of logits, by size of the vocabulary."""
    sizes, device, rows = sizes_of(settings), torch.device(settings.device), list[list[Cell]]()
    names: tuple[str, ...] = ()
    for size in sizes.vocabularies:
        logits = (torch.randn(1, size, generator=torch.Generator().manual_seed(0)) * 3).to(device)
        token_ids = torch.arange(size, device=device)
        sequence = DecodedSequence(Request(prompt=(1,), max_new_tokens=10**6, do_sample=True), device)
        calls: dict[str, Callable[[], object]] = {
            "most probable token": partial(best_tokens, logits),
            "statistics": partial(row_statistics, logits),
            "exit test": partial(read_signals, logits, 2, 0, 1.0),
            "exit test, annealed": partial(read_signals, logits, 2, 0, 1.3),
            "noise of every token": partial(gumbel_noise, 0, 7, token_ids),
            "sampled token": partial(sequence.draft_token, logits, []),
            "torch's softmax and multinomial": partial(multinomial, logits),
        }
        names = tuple(calls)
        seconds = call_seconds(calls, device, sizes.num_calls)
        rows.append([size, *(each * 1e6 for each in seconds.values())])
    return Finding([Table("Microseconds of one row of logits", ("vocabulary", *names), rows)])


def multinomial(logits: Tensor) -> int:
    """One sampled token as transformers draws it. logits: (1, V)"""
    return int(torch.multinomial(logits.softmax(-1), 1))


def graphs(settings: Settings) -> Finding:
    """Memory and time of captured graphs, and what is left when their decoder is gone."""
    sizes, rows = sizes_of(settings), list[list[Cell]]()
    for name in sizes.shapes:
        model = shape_model(name, settings)
        free()
        before = held(model.device)
        decoder = decoder_of(model, "graphs", StaticPolicy((2, 4), (1e-6, 0.0), 4))
        started = time.perf_counter()
        decoder.generate([random_ids(model.config.vocab_size, 200, 0)], max_new_tokens=3 * sizes.new_tokens)
        first_s = time.perf_counter() - started
        segments = decoder.adapter.segments
        assert isinstance(segments, StaticSegments)  # of graphs
        captured = [each for each in segments.segments.values() if each.is_captured]
        seconds = [each.capture_seconds for each in captured]
        during = held(model.device)
        started = time.perf_counter()
        decoder.generate([random_ids(model.config.vocab_size, 200, 0)], max_new_tokens=3 * sizes.new_tokens)
        cells: list[Cell] = [name, len(segments.segments), len(captured), sum(seconds), first_s]
        cells += [time.perf_counter() - started, during - before]
        del decoder, segments, captured
        free()
        rows.append([*cells, held(model.device) - before])
        del model
        free()
    columns = (
        *("shape", "segments", "captured", "s to capture", "s of the first generation", "s of the second"),
        *("MiB held", "MiB held when the decoder is gone"),
    )
    return Finding([Table("Captured graphs", columns, rows)])


def held(device: torch.device) -> float:
    """MiB of the device that are not free, whoever holds them; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize(device)
    free_bytes, all_bytes = torch.cuda.mem_get_info(device)
    return (all_bytes - free_bytes) / 2**20
