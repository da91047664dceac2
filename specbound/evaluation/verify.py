"""Whether decoding with drafts gives plain decoding's output, token by token: what `specbound verify` does.

Knows no command line. Speed is not its business: no claim is made with the figures of a verification.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from specbound.decoding.decoder import SpecBoundDecoder, request_of
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.differences import Difference, find_difference
from specbound.evaluation.verify_config import VerifyConfig
from specbound.exits.trained import with_exits
from specbound.models.controllers import load_controller
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel, load_model, require_compression
from specbound.policies import controller_policy
from specbound.results.report import model_info
from specbound.results.rows import Row
from specbound.stores.trees import local_situation
from specbound_controller.controller import Controller
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.policy_names import is_written_out, written_out
from specbound_controller.records import Decision
from specbound_controller.sources.context import ContextSource
from specbound_controller.sources.recycled import RecycledSource
from specbound_controller.trees.names import LEARNED_TREE
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.settings import TreeSources
from specbound_profiling.progress import working
from specbound_profiling.prompts.files import load_prompts
from specbound_profiling.prompts.tokenization import tokenize_prompts

Say = Callable[[str], None]


class RandomPolicy(StaticPolicy):
    """Another random decision at every step: exits, thresholds, width, depth bound and rule of combination.

    No policy that a user would want: it reaches every way through a step.
    """

    MAX_WIDTH = 9
    THRESHOLDS = (0.0, 0.02, 0.1, 0.5, math.inf)

    def __init__(self, num_layers: int, seed: int) -> None:
        super().__init__((), w_max=0)
        self.num_layers = num_layers
        self.random = random.Random(seed)

    def decide(self, features: np.ndarray | None) -> Decision:
        choose = self.random
        exits = sorted(choose.sample(range(self.num_layers), choose.randint(0, min(4, self.num_layers))))
        return StaticPolicy(
            exits,
            [choose.choice(self.THRESHOLDS if e != LOOKUP_EXIT else self.THRESHOLDS[1:]) for e in exits],
            choose.randint(0, self.MAX_WIDTH),
            alpha=choose.choice((0.0, 0.5, 2.0)),
            d_max=choose.choice((None, None, *range(1, self.num_layers))),
            combine=choose.choice(("token", "product")),
        ).decide(features)


class RandomTrees(StaticPolicy):
    """Another random tree plan at every step, over the sources that need no store, with an exit or without.

    No policy that a user would want: it reaches trees of every shape, with paths that have to be moved.
    """

    def __init__(self, num_layers: int, seed: int) -> None:
        super().__init__((), w_max=0)
        self.num_layers = num_layers
        self.random = random.Random(seed)

    def decide(self, features: np.ndarray | None) -> Decision:
        choose = self.random
        num_cells = {"context": ContextSource.num_cells, "recycled": RecycledSource.num_cells}
        rates = {name: [choose.random() for _ in range(count)] for name, count in num_cells.items()}
        growth = choose.choice(("best_first", "best_first", "eagle2"))
        depth = choose.randint(1, 8)
        plan = TreePlan(choose.randint(0, 24), rates, breadth=choose.randint(1, 6), max_depth=depth, growth=growth)
        if growth == "best_first" and choose.random() < 0.5:
            plan = replace(plan, **self._exit())
        return Decision(depth, tree=plan)

    def _exit(self) -> dict[str, Any]:
        """Settings of an exit that drafts beside the sources."""
        choose = self.random
        return {
            "exit_layer": choose.randrange(self.num_layers),
            "exit_breadth": choose.randint(1, 4),
            "exit_beam": choose.randint(1, 3),
            "exit_survival": choose.choice((0.0, 0.05, 0.3)),
            "alpha": choose.choice((0.0, 1.0)),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Outputs of one policy at one compression level, compared with plain decoding's."""

    policy: str
    compression: str
    exactness: str
    num_prompts: int
    num_tokens: int
    """New tokens of plain decoding: as many were compared."""
    num_differing_tokens: int
    """Places where the outputs differ, those that follow from a first difference included."""
    stats: DecodeStats
    """Counts of the policy over all prompts."""
    differences: tuple[Difference, ...]
    """The first difference of every prompt that has one."""

    @property
    def num_near_ties(self) -> int:
        return sum(difference.is_near_tie for difference in self.differences)

    @property
    def num_bugs(self) -> int:
        return len(self.differences) - self.num_near_ties

    def row(self) -> Row:
        return replace(
            row_of(self.policy, self.compression, self.exactness, self.num_prompts, self.stats),
            outputs_equal=not self.differences,
            num_near_ties=self.num_near_ties,
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """All comparisons of one model."""

    model: dict[str, Any]
    """What a report says of the model."""
    comparisons: list[Comparison]
    rows: list[Row]
    """Plain decoding and every policy, for each compression level."""
    notes: list[str]
    """One line for each difference."""

    @property
    def num_bugs(self) -> int:
        return sum(comparison.num_bugs for comparison in self.comparisons)

    def differences(self) -> list[dict[str, Any]]:
        """Every difference with its verdict, for a report."""
        return [
            {"compression": c.compression, **asdict(difference), "verdict": difference.verdict}
            for c in self.comparisons
            for difference in c.differences
        ]


def verify(config: VerifyConfig, say: Say) -> Verification:
    """Decodes every prompt plainly and with every policy, at every level. `say` gets a line as each begins."""
    for compression in config.compression:
        require_compression(compression)  # before the first level is decoded
    is_needed = bool({"controller", LEARNED_TREE} & set(config.policies))
    controller = load_controller(config.controller_name) if is_needed else None
    prompts = load_prompts(config.prompts, config.num_prompts)
    result = Verification({}, [], [], [])
    for compression in config.compression:
        loaded = with_exits(load_model(config.model, compression), config.exits)
        result.model.update(result.model or model_info(config.model, loaded.model))
        plain = new_decoder(loaded, None, config.exactness)
        ids = tokenize_prompts(prompts, loaded, plain.adapter, config.max_new_tokens, config.raw, config.exactness)
        named = list(zip((prompt.prompt_id for prompt in prompts), ids, strict=True))
        say(f"{compression}: plain decoding of {len(prompts)} prompts")
        settings = {"max_new_tokens": config.max_new_tokens, **config.generate_arguments()}
        expected, stats = decode_all(plain, ids, settings)
        result.rows.append(row_of("plain", compression, config.exactness, len(ids), stats))
        for name in config.policies:
            say(f"{compression}: {name}")
            decoder = new_decoder(loaded, new_policy(name, loaded, controller, config.seed), config.exactness)
            comparison = compare(name, decoder, named, expected, settings)
            result.comparisons.append(comparison)
            result.rows.append(comparison.row())
            result.notes.extend(in_words(difference, compression, loaded) for difference in comparison.differences)
    return result


def new_decoder(loaded: LoadedModel, policy: Policy | None, exactness: str) -> SpecBoundDecoder:
    """A decoder that nothing of the model's generation config reaches but its end tokens."""
    twin = greedy_twin(loaded.model)
    return SpecBoundDecoder(
        twin, policy, loaded.compression, record_steps=False, exactness=exactness, exits=loaded.exits
    )


def new_policy(name: str, loaded: LoadedModel, controller: Controller | None, seed: int) -> Policy:
    """The policy of that name. The controller decides by a cost table that it carries: any table is as exact."""
    num_layers = loaded.model.config.num_hidden_layers
    shallow, middle = max(1, num_layers // 4), max(1, num_layers // 2)
    if is_written_out(name):
        return written_out(name)
    if name == "random":
        return RandomPolicy(num_layers, seed)
    if name == "trees":
        return RandomTrees(num_layers, seed)
    if name == "layerskip":
        return StaticPolicy((shallow,), 0.0, w_max=4)
    if name == "static":
        return StaticPolicy(sorted({shallow, middle}), 0.3, w_max=6, alpha=0.5)
    assert controller is not None  # VerifyConfig checks it
    controller.check_model(model_fingerprint(loaded.model), num_layers)
    held = controller.config.costs
    costs = held.get(loaded.compression, next(iter(held.values())))

    def sources() -> TreeSources:
        return local_situation(loaded.model, costs, lambda line: None).sources()

    return controller_policy(name, loaded.compression, costs, controller, sources)


def decode_all(
    decoder: SpecBoundDecoder, prompts: Iterable[Tensor], settings: dict[str, Any]
) -> tuple[list[list[int]], DecodeStats]:
    """New tokens of every prompt, and the counts of all. Prompt i samples with seed + i."""
    outputs, total = [], DecodeStats()
    prompts = list(prompts)
    with working("decoding", len(prompts)) as work:
        for index, ids in enumerate(prompts):
            output = decoder.decode([ids], **for_prompt(settings, index))
            outputs.append(output.sequences[0, ids.shape[1] :].tolist())
            total = total + output.stats
            work.advance()
    return outputs, total


def compare(
    name: str,
    decoder: SpecBoundDecoder,
    prompts: Sequence[tuple[str, Tensor]],
    expected: Sequence[list[int]],
    settings: dict[str, Any],
) -> Comparison:
    """Decodes with drafts, and compares with the expected new tokens of each prompt. prompts: (id, (1, T)) each"""
    outputs, stats = decode_all(decoder, [ids for _, ids in prompts], settings)
    differences = []
    for index, ((prompt_id, ids), wanted, actual) in enumerate(zip(prompts, expected, outputs, strict=True)):
        if actual == wanted:
            continue
        request = request_of(decoder, ids, for_prompt(settings, index))
        found = find_difference(name, prompt_id, decoder.model, request, wanted, actual, decoder.exactness)
        assert found is not None
        differences.append(found)
    num_differing = sum(num_differing_tokens(a, b) for a, b in zip(expected, outputs, strict=True))
    num_tokens = sum(map(len, expected))
    level, exactness = decoder.compression, decoder.exactness
    return Comparison(name, level, exactness, len(prompts), num_tokens, num_differing, stats, tuple(differences))


def for_prompt(settings: dict[str, Any], index: int) -> dict[str, Any]:
    """The settings of one prompt, which has a seed of its own."""
    return settings if "seed" not in settings else {**settings, "seed": settings["seed"] + index}


def num_differing_tokens(expected: Sequence[int], actual: Sequence[int]) -> int:
    """Places at which two outputs differ, or that only one of them has."""
    shorter = min(len(expected), len(actual))
    return max(len(expected), len(actual)) - shorter + sum(a != b for a, b in zip(expected, actual, strict=False))


def row_of(method: str, compression: str, exactness: str, num_prompts: int, stats: DecodeStats) -> Row:
    return Row.of(
        stats,
        method=method,
        compression=compression,
        task="all",
        num_prompts=num_prompts,
        outputs_equal=True if method == "plain" else None,
        exactness=exactness,
    )


def in_words(difference: Difference, compression: str, loaded: LoadedModel) -> str:
    """One line for people, with the texts of both tokens."""
    texts = ["" if t is None else loaded.tokenizer.decode([t]) for t in (difference.actual, difference.expected)]
    return f"{compression}, {difference.describe()}, in text {texts[0]!r} in place of {texts[1]!r}"
