"""One random trial of the promise: a small random model decodes a prompt plainly and with drafts.

`random_trial(seed)` draws everything from a seed; hypothesis draws the same fields itself.
"""

import random
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder, request_of
from specbound.decoding.model.adapter import ModelAdapter
from specbound.evaluation.differences import Difference, find_difference
from specbound.evaluation.verify import RandomPolicy, num_differing_tokens
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.mlp import Mlp
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.records import Decision
from specbound_controller.score import SIGNAL_NAMES, LearnedScore
from tests.decoding.families import VARIANTS, random_model, random_prompt

POLICIES = ("fixed", "static", "exits", "product", "random", "learned")
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
    """The first difference; None where the outputs are equal."""

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
    model = model_of(trial.variant, trial.dtype, trial.seed % 6)
    policy = new_policy(trial.policy, NUM_LAYERS, trial.seed)
    plain, drafting = (
        SpecBoundDecoder(model, each, record_steps=False, exactness=trial.exactness) for each in (None, policy)
    )
    settings = {"max_new_tokens": trial.new_tokens, "seed": trial.seed, **trial.sampling}
    return decode_both(plain, drafting, random_prompt(trial.seed, trial.prompt_length), settings, str(trial))


def decode_both(
    plain: SpecBoundDecoder, drafting: SpecBoundDecoder, prompt: Tensor, settings: dict[str, Any], label: str
) -> Outcome:
    """One prompt (1, T) through two decoders of one model. label: what to call it where the outputs differ."""
    outputs = [decoder.decode([prompt], **settings) for decoder in (plain, drafting)]
    expected, actual = (output.sequences[0, prompt.shape[1] :].tolist() for output in outputs)
    difference = None
    if actual != expected:
        request = request_of(plain, prompt, settings)
        model, method = plain.model, type(drafting.policy).__name__
        difference = find_difference(method, label, model, request, expected, actual, plain.exactness)
    stats, num_differing = outputs[1].stats, num_differing_tokens(expected, actual)
    return Outcome(len(expected), stats.num_drafted, stats.num_accepted, num_differing, difference)
