"""Spec-Bench's 480 questions: its categories, and which are for tuning and which for evaluation. Holds no question."""

import json
from functools import cache
from importlib.resources import files

MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
"""Categories that Spec-Bench's own tables show as one."""
MT_BENCH_TASK = "mt_bench"
SPLITS = ("tuning", "evaluation")
"""Settings are chosen on the first, a fifth of every category; the second is measured and nothing is chosen on it. No
question of either is for training."""


def split_of(spec: str) -> tuple[str, str | None]:
    """`FILE:tuning` -> the file and the split; None where there is no such end."""
    path, colon, end = spec.rpartition(":")
    return (path, end) if colon and end in SPLITS else (spec, None)


@cache
def ids_of(split: str) -> frozenset[str]:
    """Questions of a split."""
    text = files("specbound.assets").joinpath("spec_bench_split.json").read_text(encoding="utf-8")
    return frozenset(map(str, json.loads(text)[split]))


def question_id(prompt_id: str) -> str:
    """The question that a turn of a conversation belongs to."""
    return prompt_id.rpartition("/")[0] or prompt_id
