"""The shape benchmark: real cost of a published shape, acceptance as set, one damping for each draft length."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from specbound.bench.compare import Comparison, Group, conditions
from specbound.bench.config import BenchConfig
from specbound.bench.methods import OurMethod, new_decoder
from specbound.bench.result import BenchResult, Say, breakdowns_by_label
from specbound.bench.rows import BenchRow, Level
from specbound.bench.shapes import SHAPE_SIZES, USUAL_TOKENS_PER_STEP, Damping, find_scale, random_model
from specbound.bench.transformers_methods import TransformersMethod
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.timing import ContentionProbe, TimedPrompt
from specbound.models.loading import LoadedModel
from specbound.results.report import model_info
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError, UnsupportedModelError
from specbound_controller.policy import StaticPolicy
from specbound_profiling.costs.measure import measure_costs

PROMPT_TOKENS = 64
METHOD = "fixed_draft"
SEARCHED_PROMPTS = 4
"""Prompts that the damping is searched on: the first of those that are timed."""


class ShapeBench:
    """One run."""

    def __init__(self, config: BenchConfig, say: Say) -> None:
        """Raises InputError where the shape does not fit this machine."""
        assert config.shape is not None  # who asks for this run names a shape
        self.config, self.say, self.name = config, say, config.shape
        self.shape = SHAPE_SIZES[self.name]
        self.exit_layer = config.shape_exit_layer or max(1, round(self.shape.num_layers / 8))
        if self.exit_layer >= self.shape.num_layers:
            most = self.shape.num_layers - 1
            raise InputError(f"shape_exit_layer must be in [1, {most}] for shape {self.name}, got {self.exit_layer}")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        say(f"making a random model of shape {self.name}, {self.shape.num_parameters / 1e6:.4g} M parameters")
        model = random_model(self.name, torch.device(device if config.device == "auto" else config.device), config.seed)
        self.adapter, self.damping = ModelAdapter(model), Damping(model, self.exit_layer)
        level = "bf16" if self.adapter.dtype == torch.bfloat16 else "none"
        self.loaded = LoadedModel(model, None, self.name, level)
        self.notes = [
            f"synthetic: a random model of the shape of {self.shape.source}; its seconds are real, its acceptance is "
            f"set by damping the layers after exit {self.exit_layer}, and nothing is claimed about a trained model"
        ]

    def run(self) -> BenchResult:
        """Every draft length in turn."""
        config, probe, prompts = self.config, ContentionProbe(), self._prompts()
        decoders, costs = self._decoders(), {}
        for level in decoders:
            self.say(f"{level}: measuring costs")
            ids = [prompt.input_ids for prompt in prompts[:SEARCHED_PROMPTS]]
            costs[level] = measure_costs(self.loaded, ids, exit_layers=(self.exit_layer,), exactness=level)
        levels: list[Level] = []
        for width in config.shape_widths:
            levels += self._width(width, decoders, costs, prompts, probe)
        rows = [row for level in levels for row in level.rows() if row.task != "all"]
        is_quiet = probe.is_shown(config.allow_noise)
        rows = rows if is_quiet else [row.without_speedup() for row in rows]
        return BenchResult(
            model={**model_info(self.name, self.loaded.model), "is_synthetic": True, "shape_of": self.shape.source},
            rows=rows,
            notes=[*self.notes, *self._beside_the_paper(rows), *conditions(levels, probe, config.allow_noise)],
            is_trustworthy=is_quiet,
            breakdowns=breakdowns_by_label(levels),
            levels=levels,
        )

    def _decoders(self) -> dict[str, SpecBoundDecoder]:
        """One for each level that runs here."""
        found = {}
        for level in self.config.exactness:
            try:
                found[level] = new_decoder(self.loaded, level)
            except UnsupportedModelError as error:
                self.notes.append(f"{level} is left out: {error}")
        if not found:
            raise InputError(f"exactness must be a level that runs here, got {', '.join(self.config.exactness)}")
        return found

    def _prompts(self) -> list[TimedPrompt]:
        config, generator = self.config, torch.Generator().manual_seed(self.config.seed)
        size = (config.num_prompts, 1, PROMPT_TOKENS)
        ids = torch.randint(self.shape.vocab_size, size, generator=generator)
        return [TimedPrompt(f"random-{i}", "random", each, config.max_new_tokens) for i, each in enumerate(ids)]

    def _width(
        self,
        width: int,
        decoders: dict[str, SpecBoundDecoder],
        costs: dict[str, CostTable],
        prompts: Sequence[TimedPrompt],
        probe: ContentionProbe,
    ) -> list[Level]:
        """Finds the damping for one draft length, then times plain decoding and drafts with it."""
        task, policy = f"width {width}", StaticPolicy((self.exit_layer,), 0.0, width)
        searched = OurMethod(METHOD, next(iter(decoders.values())), policy)
        if not self._search(searched, width, prompts[:SEARCHED_PROMPTS]):
            return []
        self.say(f"timing {task}")
        setting = f"exit{self.exit_layer}_width{width}_damping{self.damping.scale:.3g}"
        groups = {
            level: Group([OurMethod("plain", each), OurMethod(METHOD, each, policy, setting)], costs[level])
            for level, each in decoders.items()
        }
        next(iter(groups.values())).theirs.append(TransformersMethod("transformers", self.loaded.model))
        config = self.config
        comparison = Comparison(
            self.adapter, self.loaded.compression, config.num_rounds, config.seed, is_synthetic=True
        )
        return comparison.run(groups, [replace(prompt, task=task) for prompt in prompts], probe)

    def _search(self, method: OurMethod, width: int, prompts: Sequence[TimedPrompt]) -> bool:
        """Damps the model; False, with a note, for a width that cannot emit as much as is asked."""
        config = self.config
        target = (
            config.acceptance or config.tokens_per_step or self.shape.paper_tokens_per_step or USUAL_TOKENS_PER_STEP
        )
        what = "acceptance" if config.acceptance is not None else "tokens per step"
        if config.acceptance is None and target >= width + 1:
            self.notes.append(f"width {width} is left out: it cannot emit {target:g} tokens per step")
            return False

        def measure(scale: float) -> float:
            self.damping.set(scale)
            total = sum((method.run(prompt)[1] or DecodeStats() for prompt in prompts), DecodeStats())
            return total.acceptance_rate if config.acceptance is not None else total.tokens_per_step

        self.say(f"width {width}: searching for {target:g} {what}")
        found = find_scale(measure, target)
        self.damping.set(found.scale)
        verdict = "" if found.is_near(target) else ", the nearest that was found"
        self.notes.append(f"width {width}: {found.value:.3g} {what} on the searched prompts, {target:g} asked{verdict}")
        return True

    def _beside_the_paper(self, rows: Sequence[BenchRow]) -> list[str]:
        """One line for each draft, where the paper has this shape."""
        if self.shape.paper_speedup is None:
            return []
        reported = f"{self.shape.paper_speedup}x at {self.shape.paper_tokens_per_step} for {self.shape.source}"
        return [
            f"{row.task}, {row.exactness}: {row.speed_ratio:.2f}x at {row.tokens_per_step:.2f} tokens per step, "
            f"synthetic; the paper reports {reported}"
            for row in rows
            if row.method == METHOD and not math.isnan(row.speed_ratio)
        ]


def run_shape(config: BenchConfig, say: Say) -> BenchResult:
    """Times a random model of a published shape. `say` gets a line as each stage begins."""
    return ShapeBench(config, say).run()
