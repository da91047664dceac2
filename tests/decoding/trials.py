"""One random trial of the promise: a small random model decodes a prompt, or several, plainly and with drafts.

`random_trial(seed)` and `random_call(seed)` draw everything from a seed; hypothesis draws the same fields itself.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from specbound.decoding.arguments import batch_from_arguments
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.exit_modules import KINDS
from specbound.decoding.output import GenerateOutput
from specbound.evaluation.differences import Difference, find_difference
from specbound.evaluation.verify import RandomPolicy, RandomTrees, num_differing_tokens
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.records import Decision
from specbound_controller.score import SIGNAL_NAMES, LearnedScore
from tests.decoding.families import VARIANTS, random_model, random_prompt
from tests.decoding.random_exits import random_exits

POLICIES = ("fixed", "static", "exits", "product", "random", "learned")
CALLS = ("single", "batch", "continued", "stops")
"""One prompt; several of different lengths; turns of a conversation, each from the cache of the one before, or from a
copy of it; outputs that end by end tokens or by a criterion, of one prompt or several."""
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}
NUM_LAYERS = 4
ROUNDS_IN_FP32 = ("gemma2",)
"""Families whose attention takes its softmax in fp32 whatever the dtype: fp64 is as exact as fp32 for them."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What to decode, and how."""

    variant: str
    """A key of `VARIANTS`."""
    dtype: str
    """A key of `DTYPES`."""
    policy: str
    """One of `POLICIES`."""
    prompt_length: int
    seed: int
    """Seed of model, prompt, policy and sampling."""
    new_tokens: int = 200
    sampling: dict[str, Any] = field(default_factory=dict)
    """Arguments of generate beside the length."""
    exactness: str = "token"
    call: str = "single"
    """One of `CALLS`."""
    exits: str = ""
    """Kind of the trained exits that draft, random ones; empty for the model's own."""

    @property
    def is_exact(self) -> bool:
        """Whether no difference at all may occur."""
        return self.exactness == "bitwise" or (self.dtype == "fp64" and self.variant not in ROUNDS_IN_FP32)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one trial."""

    num_tokens: int
    """New tokens of plain decoding."""
    num_drafted: int
    num_accepted: int
    num_differing_tokens: int
    difference: Difference | None
    """The first difference; None where the outputs are equal. Of several outputs the first that is no near-tie."""

    @property
    def is_bug(self) -> bool:
        return self.difference is not None and not self.difference.is_near_tie


class LearnedPolicy(StaticPolicy):
    """A learned score with random weights, on the features of the step, behind random thresholds."""

    needs_features = True
    needs_full_signals = True

    def __init__(self, num_layers: int, seed: int) -> None:
        super().__init__((), w_max=0)
        rng = np.random.default_rng(seed)
        exits = tuple(range(1, num_layers))
        num_inputs = len(SIGNAL_NAMES) + len(exits) + len(FEATURE_NAMES)
        shapes = ((8, num_inputs), (8,), (1, 8), (1,))
        mlp = Mlp(*(rng.normal(0.0, 0.3, shape).astype(np.float32) for shape in shapes))
        self.score = LearnedScore(mlp, exits, (1.0,) * len(exits), (0.0,) * len(exits))
        self.rng = rng

    def decide(self, features: np.ndarray | None) -> Decision:
        assert features is not None and np.isfinite(features).all()
        thresholds = {exit_layer: float(self.rng.uniform(0.2, 0.6)) for exit_layer in self.score.exit_layers}
        return Decision(
            int(self.rng.integers(0, 9)), thresholds, self.score, str(self.rng.choice(["token", "product"]))
        )


def new_policy(name: str, num_layers: int, seed: int) -> Policy:
    """A policy of one kind with random settings."""
    rng = random.Random(seed)
    one = rng.randint(1, num_layers - 1)
    some = sorted(rng.sample(range(1, num_layers), min(2, num_layers - 1)))
    thresholds = sorted((rng.uniform(0.0, 0.5) for _ in some), reverse=True)
    if name == "fixed":
        return StaticPolicy((one,), 0.0, rng.randint(1, 9))
    if name == "static":
        return StaticPolicy((one,), rng.uniform(0.0, 0.4), rng.randint(1, 9), alpha=rng.choice((0.0, 0.5, 1.5)))
    if name == "trees":
        return RandomTrees(num_layers, seed)
    if name in ("exits", "product"):
        return StaticPolicy(some, thresholds, rng.randint(1, 9), combine="product" if name == "product" else "token")
    return RandomPolicy(num_layers, seed) if name == "random" else LearnedPolicy(num_layers, seed)


def random_sampling(rng: random.Random) -> dict[str, Any]:
    """Greedy, or sampled with a random temperature and some of the usual processors."""
    settings: dict[str, Any] = {}
    if rng.random() < 0.25:
        settings["repetition_penalty"] = rng.uniform(1.05, 1.5)
    if rng.random() < 0.4:
        return settings
    settings |= {"do_sample": True, "top_k": 0, "temperature": rng.uniform(0.3, 1.5)}
    if rng.random() < 0.4:
        settings["top_k"] = rng.randint(1, 40)
    if rng.random() < 0.4:
        settings["top_p"] = rng.uniform(0.3, 0.99)
    if rng.random() < 0.2:
        settings["min_p"] = rng.uniform(0.01, 0.3)
    if rng.random() < 0.2:
        settings["typical_p"] = rng.uniform(0.3, 0.99)
    return settings


def random_trial(seed: int, dtypes: tuple[str, ...] = ("fp32", "fp64")) -> Trial:
    """A trial of which everything is drawn from one seed."""
    rng = random.Random(seed)
    return Trial(
        variant=rng.choice(list(VARIANTS)),
        dtype=rng.choice(dtypes),
        policy=rng.choice(POLICIES),
        prompt_length=rng.choice((1, 2, rng.randint(3, 12), rng.randint(13, 60), rng.randint(61, 200))),
        seed=seed,
        new_tokens=rng.randint(200, 260),
        sampling=random_sampling(rng),
    )


def random_call(seed: int) -> Trial:
    """A trial of any kind of call, at any level and in any number format."""
    rng = random.Random(f"call {seed}")
    exactness, dtype = rng.choice(
        [("token", "fp64")] * 6
        + [("token", "fp32")] * 6
        + [("token", "bf16"), ("token", "fp16")]
        + [("bitwise", each) for each in ("fp32", "bf16", "fp16")]
    )
    trial = random_trial(seed, (dtype,))
    policy = rng.choice((*POLICIES, "trees"))
    call = rng.choice(CALLS)
    new_tokens = rng.randint(40, 160)
    exits = random.Random(f"exits {seed}").choice(("", "", *KINDS))
    return replace(trial, exactness=exactness, policy=policy, call=call, new_tokens=new_tokens, exits=exits)


@lru_cache(maxsize=8)
def model_of(variant: str, dtype: str, seed: int) -> PreTrainedModel:
    """A random model. With an odd seed its deeper half says little: exits agree, long drafts are accepted."""
    model = random_model(variant, seed, NUM_LAYERS, DTYPES[dtype])
    if seed % 2:
        for layer in ModelAdapter(model).layers[NUM_LAYERS // 2 :]:
            for parameter in layer.parameters():
                if parameter.ndim == 2:
                    parameter.data *= 0.4
    return model


def run_trial(trial: Trial) -> Outcome:
    """Decodes plainly and with drafts, compares, and judges the first difference."""
    plain, drafting = _decoders(trial)
    settings = {"max_new_tokens": trial.new_tokens, "seed": trial.seed, **trial.sampling}
    return decode_both(plain, drafting, random_prompt(trial.seed, trial.prompt_length), settings, str(trial))


def run_call(trial: Trial) -> Outcome:
    """The same for a trial of any call."""
    plain, drafting = _decoders(trial)
    rng = random.Random(f"prompts {trial.seed}")
    settings = {"max_new_tokens": trial.new_tokens, "seed": trial.seed, "pad_token_id": 0, **trial.sampling}
    prompts = [random_prompt(trial.seed, trial.prompt_length)]
    if trial.call == "batch" or (trial.call == "stops" and rng.random() < 0.5):
        prompts += [random_prompt(trial.seed + 1 + row, rng.randint(1, 60)) for row in range(rng.randint(1, 3))]
    if trial.call == "continued":
        return _continue_both(trial, plain, drafting, prompts[0], settings)
    criteria: Callable[[], dict[str, Any]] = dict
    if trial.call == "stops":
        settings["eos_token_id"] = rng.sample(range(97), rng.randint(1, 4))
        settings["min_new_tokens"] = rng.choice((None, 3, 20))
        step, place = rng.randint(3, 30), rng.random()
        if place < 0.5:  # without end tokens too
            settings["eos_token_id"] = rng.choice((None, settings["eos_token_id"]))
            criteria = lambda: {"stopping_criteria": StoppingCriteriaList([Modulus(step)])}  # noqa: E731
    return _compare(trial, plain, drafting, prompts, settings, criteria)


class Modulus(StoppingCriteria):
    """Ends a row at some tokens, and remembers how often it was asked."""

    def __init__(self, step: int) -> None:
        self.step, self.num_calls = step, 0

    def __call__(self, input_ids: Tensor, scores: Any, **others: Any) -> Tensor:
        self.num_calls += 1
        return (input_ids[:, -1] + self.num_calls) % self.step == 1


def _decoders(trial: Trial) -> tuple[SpecBoundDecoder, SpecBoundDecoder]:
    """Plain, and with the trial's drafts."""
    model = model_of(trial.variant, trial.dtype, trial.seed % 6)
    policy = new_policy(trial.policy, NUM_LAYERS, trial.seed)
    exits = None
    if trial.exits:
        layers, count = ((1, 2), 97) if trial.seed % 2 else ((2,), 40)
        exits = random_exits(model, layers, trial.seed, trial.exits, bool(trial.seed % 3), count)
    plain, drafting = (
        SpecBoundDecoder(model, each, record_steps=False, exactness=trial.exactness, exits=own)
        for each, own in ((None, None), (policy, exits))
    )
    return plain, drafting


def decode_both(
    plain: SpecBoundDecoder, drafting: SpecBoundDecoder, prompt: Tensor, settings: dict[str, Any], label: str
) -> Outcome:
    """One prompt (1, T) through two decoders of one model. label: what to call it where the outputs differ."""
    outputs = [decoder.decode([prompt], **settings) for decoder in (plain, drafting)]
    return judged(plain, drafting, [prompt], outputs, settings, label)


def judged(
    plain: SpecBoundDecoder,
    drafting: SpecBoundDecoder,
    prompts: list[Tensor],
    outputs: list[GenerateOutput],
    settings: dict[str, Any],
    label: str,
) -> Outcome:
    """Compares the outputs of two decoders row by row. prompts: (1, T) each"""
    expected, actual = (new_tokens(output) for output in outputs)
    differences, num_differing = [], 0
    for row, (first, second) in enumerate(zip(expected, actual, strict=True)):
        if first != second:
            others = {name: value for name, value in settings.items() if name != "seed"}
            rows = [prompt[0].tolist() for prompt in prompts]
            batch = batch_from_arguments(plain.model, plain.adapter, rows, None, None, settings.get("seed"), others)
            request, method = batch.requests[row], type(drafting.policy).__name__
            found = find_difference(
                method, f"row {row} of {label}", plain.model, request, first, second, plain.exactness
            )
            differences.append(found)
            num_differing += num_differing_tokens(first, second)
    stats = outputs[1].stats
    worst = next(
        (d for d in differences if d is not None and not d.is_near_tie), differences[0] if differences else None
    )
    return Outcome(sum(map(len, expected)), stats.num_drafted, stats.num_accepted, num_differing, worst)


def new_tokens(output: GenerateOutput) -> list[list[int]]:
    """The new tokens of every row, padding left out."""
    most = max(stats.num_tokens for stats in output.row_stats)
    new = output.sequences[:, output.sequences.shape[1] - most :].tolist()
    return [row[: stats.num_tokens] for row, stats in zip(new, output.row_stats, strict=True)]


def _compare(
    trial: Trial,
    plain: SpecBoundDecoder,
    drafting: SpecBoundDecoder,
    prompts: list[Tensor],
    settings: dict[str, Any],
    criteria: Callable[[], dict[str, Any]],
) -> Outcome:
    """One call of each decoder. criteria: makes new ones, because they keep state"""
    outputs = [decoder.decode(prompts, **settings, **criteria()) for decoder in (plain, drafting)]
    return judged(plain, drafting, prompts, outputs, settings, str(trial))


def _continue_both(
    trial: Trial, plain: SpecBoundDecoder, drafting: SpecBoundDecoder, prompt: Tensor, settings: dict[str, Any]
) -> Outcome:
    """Three turns, each decoder from its own caches; the first difference ends the comparison."""
    rng = random.Random(f"turns {trial.seed}")
    settings = {**settings, "max_new_tokens": max(8, trial.new_tokens // 3)}
    total, caches, text = Outcome(0, 0, 0, 0, None), [None, None], prompt
    for turn in range(3):
        if rng.random() < 0.5:
            caches = copy.deepcopy(caches)
        outputs = [
            decoder.decode([text], past_key_values=cache, **settings)
            for decoder, cache in zip((plain, drafting), caches, strict=True)
        ]
        found = judged(plain, drafting, [text], outputs, settings, f"turn {turn} of {trial}")
        total = Outcome(
            total.num_tokens + found.num_tokens,
            total.num_drafted + found.num_drafted,
            total.num_accepted + found.num_accepted,
            total.num_differing_tokens + found.num_differing_tokens,
            found.difference,
        )
        if found.difference is not None:
            break
        caches = [output.past_key_values for output in outputs]
        kept = outputs[0].sequences[:, : outputs[0].sequences.shape[1] - rng.randint(0, 5)]
        text = torch.cat([kept, random_prompt(trial.seed + turn, rng.randint(1, 12))], dim=1)
    return total
