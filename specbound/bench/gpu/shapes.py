"""Stage `shapes`: random models of published shapes, at the acceptance that the papers report. All of it synthetic.

What a layer costs does not depend on its weights, so the seconds are real; acceptance is set by damping the layers
after an exit (`specbound.bench.shapes`). In 16 bits at exactness `token` drafts and plain decoding may differ by
rounding: how many outputs are equal stands beside the speeds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from transformers import PreTrainedModel

from specbound.bench.gpu.clock import call_seconds, device_seconds, free
from specbound.bench.gpu.finding import Cell, Finding, Part, Settings, Table
from specbound.bench.gpu.models import (
    KINDS,
    LayerCalls,
    decoder_of,
    quantise_nf4,
    random_ids,
    shape_model,
    shape_run,
)
from specbound.bench.methods import OurMethod
from specbound.bench.shapes import SHAPE_SIZES, USUAL_TOKENS_PER_STEP, Damping, Found, find_scale
from specbound.bench.transformers_methods import TransformersMethod
from specbound.decoding.model.segments import ROW_BUCKETS
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.timing import ContentionProbe, Method, TimedPrompt, Timing, time_methods
from specbound.models.loading import LoadedModel
from specbound.pricing.local import PROMPT_LENGTHS
from specbound_controller.policy import StaticPolicy
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.policy import TreePolicy

EXIT_SHARE = 8
"""Drafts come after the depth over so much, as in `specbound bench --shape`."""
TREE_NODES, TREE_BEAM, TREE_BREADTH = 15, 2, 2
"""Of the draft trees: nodes, how many of a depth the exit goes on from, and how many tokens it proposes after each."""
AIM_OVER_TRANSFORMERS = 2.0
"""Plain decoding with graphs on the 1B shape, over transformers' eager generate."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is run."""

    num_prompts: int
    prompt_tokens: int
    new_tokens: int
    num_rounds: int
    widths: tuple[int, ...]
    """Draft lengths, each with a damping of its own."""
    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    num_calls: int
    """Of the layers, timed."""
    cost_seconds: float
    """To measure a cost table."""


REAL = Sizes(5, 64, 64, 2, (4, 6), (1, 2, 4, 8, 16, 32, 64), (128, 2048), 10, 15.0)
DRY = Sizes(1, 8, 8, 1, (4,), (1, 3, 20), (16, 40), 2, 0.5)


def parts(settings: Settings) -> Iterator[Part]:
    """The 7B shape first, because the papers report it."""
    yield Part("7b", partial(speeds, "7b", settings), 75.0)
    yield Part("1b", partial(speeds, "1b", settings), 45.0)
    yield Part("7b layers", partial(layer_table, "7b", settings), 25.0)
    yield Part("7b nf4", partial(speeds, "7b", settings, is_nf4=True), 75.0)
    yield Part("13b", partial(speeds, "13b", settings), 90.0)
    yield Part("1b layers", partial(layer_table, "1b", settings), 20.0)
    yield Part("1b compiled generate", partial(compiled_generate, "1b", settings), 120.0)
    yield Part("7b costs", partial(cost_tables, "7b", settings), 60.0)


def sizes_of(settings: Settings) -> Sizes:
    return DRY if settings.is_dry else REAL


def speeds(name: str, settings: Settings, is_nf4: bool = False) -> Finding:
    """Plain decoding, a fixed draft and a draft tree, eager and with graphs, beside transformers' generate."""
    sizes, paper = sizes_of(settings), SHAPE_SIZES[name]
    target = paper.paper_tokens_per_step or USUAL_TOKENS_PER_STEP
    finding, rows = Finding(), list[list[Cell]]()
    for width in sizes.widths[:1] if is_nf4 else sizes.widths:
        model = shape_model(name, settings)
        exit_layer = max(1, shape_run(name, settings).num_layers // EXIT_SHARE)
        policy, prompts = StaticPolicy((exit_layer,), 0.0, width), prompts_of(model, sizes)
        found = damped(model, policy, prompts[:2], target)
        if is_nf4:
            free()
            quantise_nf4(model)
        timings = timed(methods_of(model, policy, tree_like(exit_layer, width), is_nf4), prompts, sizes)
        of_width = speed_rows(timings, f"exit {exit_layer}, width {width}")
        rows += of_width
        finding.notes += notes_of(name, found, target, width, of_width)
        del model
        free()
    weights = "nf4" if is_nf4 else "bf16"
    columns = (
        *("method", "draft", "tokens/s", "over its plain", "over transformers"),
        *("tokens per step", "acceptance", "outputs as its plain's"),
    )
    finding.tables.append(Table(f"{name} ({paper.source}), {weights}, synthetic", columns, rows))
    return finding


def prompts_of(model: PreTrainedModel, sizes: Sizes) -> list[TimedPrompt]:
    ids = [random_ids(model.config.vocab_size, sizes.prompt_tokens, seed) for seed in range(sizes.num_prompts)]
    return [TimedPrompt(f"random-{index}", "random", each, sizes.new_tokens) for index, each in enumerate(ids)]


def damped(model: PreTrainedModel, policy: StaticPolicy, prompts: Sequence[TimedPrompt], target: float) -> Found:
    """Damps the layers after the exit until a step emits as many tokens as are asked for."""
    damping, method = Damping(model, policy.exit_layers[0]), OurMethod("search", decoder_of(model, "graphs"), policy)

    def measure(scale: float) -> float:
        damping.set(scale)
        return sum((method.run(prompt)[1] or DecodeStats() for prompt in prompts), DecodeStats()).tokens_per_step

    found = find_scale(measure, target)
    damping.set(found.scale)
    return found


def methods_of(model: PreTrainedModel, policy: StaticPolicy, tree: TreePolicy, is_nf4: bool) -> list[Method]:
    compression = "nf4" if is_nf4 else "bf16"
    generate = TransformersMethod("transformers", model)
    methods = [Method("transformers", generate.run)]
    for kind in KINDS:
        decoder = decoder_of(model, kind, compression=compression)
        for name, own in (("plain", StaticPolicy(())), ("draft", policy), ("tree", tree)):
            methods.append(Method(f"{name}, {kind}", OurMethod(name, decoder, own).run))
    return methods


def tree_like(exit_layer: int, width: int) -> TreePolicy:
    """A tree as deep as a fixed draft is long, by the same exit."""
    plan = TreePlan(
        max_nodes=TREE_NODES,
        max_depth=width,
        exit_layer=exit_layer,
        exit_beam=TREE_BEAM,
        exit_breadth=TREE_BREADTH,
        exit_survival=0.0,
    )
    return TreePolicy(plan)


def timed(methods: Sequence[Method], prompts: Sequence[TimedPrompt], sizes: Sizes) -> dict[str, list[Timing]]:
    """All methods interleaved, after each has seen every prompt: what is captured is captured by then."""
    for method in methods:
        if "graphs" in method.name:
            for prompt in prompts:
                method.run(prompt)
    return time_methods(methods, prompts, sizes.num_rounds, ContentionProbe())


def speed_rows(timings: dict[str, list[Timing]], draft: str) -> list[list[Cell]]:
    speeds = {
        name: sum(len(each.tokens) for each in of_method) / sum(each.seconds for each in of_method)
        for name, of_method in timings.items()
    }
    drafts = {"draft": draft, "tree": f"{draft}, {TREE_NODES} nodes"}
    rows: list[list[Cell]] = []
    for name, of_method in timings.items():
        plain = f"plain, {name.split(', ')[1]}" if ", " in name else name
        stats = sum((each.stats for each in of_method if each.stats is not None), DecodeStats())
        kind = name.split(", ")[0]
        is_draft = kind in drafts
        equal = sum(a.tokens == b.tokens for a, b in zip(of_method, timings[plain], strict=True))
        rows.append(
            [
                name,
                drafts.get(kind, "–"),
                speeds[name],
                speeds[name] / speeds[plain],
                speeds[name] / speeds["transformers"],
                stats.tokens_per_step if is_draft else None,
                stats.acceptance_rate if is_draft else None,
                f"{equal} of {len(of_method)}" if is_draft else "–",
            ]
        )
    return rows


def notes_of(name: str, found: Found, target: float, width: int, rows: Sequence[Sequence[Cell]]) -> list[str]:
    """What was asked for and reached, and how that stands beside the paper."""
    paper, by_method = SHAPE_SIZES[name], {str(row[0]): row for row in rows}
    verdict = "" if found.is_near(target) else ", the nearest that was found"
    notes = [f"width {width}: {found.value:.3g} tokens per step on two prompts, {target:g} asked{verdict}"]
    draft, plain = by_method["draft, graphs"], by_method["plain, graphs"]
    if paper.paper_speedup is not None:
        notes.append(
            f"width {width}: {draft[3]:.2f}x plain decoding at {draft[5]:.2f} tokens per step, both with graphs; the "
            f"paper reports {paper.paper_speedup}x at {paper.paper_tokens_per_step} for {paper.source}"
        )
    notes.append(f"width {width}: plain decoding with graphs is {plain[4]:.2f}x transformers' eager generate")
    if name == "1b":
        notes[-1] += f", the aim being {AIM_OVER_TRANSFORMERS:g}x"
    return notes


def layer_table(name: str, settings: Settings) -> Finding:
    """Milliseconds of one layer by rows and context, eager and with graphs."""
    sizes, device = sizes_of(settings), torch.device(settings.device)
    model = shape_model(name, settings)
    decoders = {kind: decoder_of(model, kind) for kind in KINDS}
    num_layers = decoders["eager"].adapter.num_layers
    rows: list[list[Cell]] = []
    for context in sizes.contexts:
        for num_rows in sizes.rows:
            cells: list[Cell] = [context, num_rows]
            for decoder in decoders.values():
                if num_rows > ROW_BUCKETS[-1] and decoder.adapter.segments is not None:
                    cells += [None, None]
                    continue
                calls = LayerCalls(decoder, num_rows, context)
                (seconds,) = call_seconds({"all": calls}, device, sizes.num_calls).values()
                on_device = device_seconds(calls, device, sizes.num_calls)
                cells += [seconds / num_layers * 1e3, on_device / num_layers * 1e3]
            rows.append(cells)
    columns = ("context", "rows", *(f"{kind}, {what}" for kind in KINDS for what in ("ms", "ms in a row of calls")))
    note = (
        f"of all {num_layers} layers together; graphs see a bucket of keys, the next power of two, and pad their rows"
    )
    return Finding([Table(f"{name}: milliseconds of one layer", columns, rows)], [note])


def compiled_generate(name: str, settings: Settings) -> Finding:
    """Plain decoding beside transformers' generate, eager and with its own compiled static cache."""
    sizes = sizes_of(settings)
    model = shape_model(name, settings)
    prompts, generate = prompts_of(model, sizes), TransformersMethod("transformers", model)
    static = {"do_sample": False, "cache_implementation": "static", "disable_compile": settings.is_dry}

    def run_static(prompt: TimedPrompt) -> tuple[list[int], None]:
        return generate.run(replace(prompt, sampling=static))

    (first_s,) = call_seconds({"first": partial(run_static, prompts[0])}, model.device, 1, 0).values()
    methods = [Method("transformers", generate.run), Method("transformers, compiled static cache", run_static)]
    for kind in KINDS:
        methods.append(Method(f"plain, {kind}", OurMethod("plain", decoder_of(model, kind)).run))
    timings = timed([*methods[1:], methods[0]], prompts, sizes)
    speeds = {
        method: sum(len(each.tokens) for each in found) / sum(each.seconds for each in found)
        for method, found in timings.items()
    }
    rows = [(method, speed, speed / speeds["transformers"]) for method, speed in speeds.items()]
    table = Table(f"{name}: plain decoding", ("method", "tokens/s", "over transformers, eager"), rows)
    return Finding([table], [f"the first call with a compiled static cache took {first_s:.1f} s"])


def cost_tables(name: str, settings: Settings) -> Finding:
    """The cost table that controllers are priced by, eager and with graphs."""
    from specbound_profiling.costs.measure import cost_measurement

    sizes = sizes_of(settings)
    model = shape_model(name, settings)
    loaded = LoadedModel(model, None, name, "none" if settings.is_dry else "bf16")
    exits = (max(1, shape_run(name, settings).num_layers // EXIT_SHARE),)
    prompts = [random_ids(model.config.vocab_size, length, length) for length in PROMPT_LENGTHS]
    tables = {}
    for kind in KINDS[:1] if settings.is_dry else KINDS:
        measured = cost_measurement(
            loaded, prompts, max_seconds=sizes.cost_seconds, exit_layers=exits, is_compiled=kind == "graphs"
        )
        tables[kind] = measured.table
    names = list(tables["eager"].coefficients)
    rows: list[list[Cell]] = [[work, *(each.coefficients[work] * 1e3 for each in tables.values())] for work in names]
    rows.append(["error on steps held out", *(table.held_out_error for table in tables.values())])
    rows.append(["steps", *(table.num_steps for table in tables.values())])
    return Finding([Table(f"{name}: prices", ("work", *(f"{kind}, ms" for kind in tables)), rows)])
