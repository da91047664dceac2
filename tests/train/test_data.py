"""Splits by prompt, and logs with too little in them."""

import weakref
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_profiling.log.store import StepLog, open_log
from specbound_profiling.log.trace import PromptTrace
from specbound_train.data import load_levels, split_prompts


class HeldTrace(PromptTrace):
    """A trace that can be counted while it is held."""

    __slots__ = ("__weakref__",)


def test_no_prompt_stands_on_two_sides_and_kinds_are_spread() -> None:
    tasks = {f"p{i}": ("prose", "code", "math")[i % 3] for i in range(48)}
    folds, validation = split_prompts(tasks, 0.25, 0)
    assert set(folds) | validation == set(tasks) and not set(folds) & validation
    assert [sum(tasks[p] == kind for p in validation) for kind in ("prose", "code", "math")] == [4, 4, 4]
    for fold in range(4):
        kinds = [tasks[prompt] for prompt, own in folds.items() if own == fold]
        assert [kinds.count(kind) for kind in ("prose", "code", "math")] == [3, 3, 3]
    assert (folds, validation) == split_prompts(tasks, 0.25, 0)
    assert validation != split_prompts(tasks, 0.25, 1)[1]


@pytest.mark.parametrize("num_prompts", [3, 4, 5, 12])
def test_validation_and_at_least_two_folds_get_a_prompt(num_prompts: int) -> None:
    folds, validation = split_prompts({f"p{i}": f"kind{i % 4}" for i in range(num_prompts)}, 0.25, 0)
    assert len(validation) >= 1 and set(folds.values()) == set(range(min(4, len(folds)))) and len(folds) >= 2


def test_a_prompt_is_on_the_same_side_at_every_level(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    log = log_of(
        tmp_path / "log", {"none": traces_of(0, 8, 20), "int8": traces_of(0, 8, 20, compression="int8")}, costs_of()
    )
    none, int8 = load_levels([open_log(log)], 0.25, 0)
    np.testing.assert_array_equal(none.folds, int8.folds)
    for part in ("training", "validation"):
        assert [t.prompt_id for t in getattr(none, part)] == [t.prompt_id for t in getattr(int8, part)]
    assert none.num_positions == 8 * 19


def test_of_a_large_log_the_same_random_prompts_are_read_at_every_level(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    levels = {"none": traces_of(0, 40, 20), "int8": traces_of(0, 40, 25, compression="int8")}
    log = open_log(log_of(tmp_path / "log", levels, costs_of()))

    def ids(seed: int) -> list[list[str]]:
        found = load_levels([log], 0.25, seed, max_positions=500)
        return [sorted(trace.prompt_id for trace in data.training + data.validation) for data in found]

    none, int8 = ids(0)
    assert none == int8 and len(none) == 10  # 250 positions a level: as many prompts of 25 as fit
    assert ids(0)[0] == none and ids(1)[0] != none
    chosen = np.concatenate([[int(name.split("-")[1]) for name in ids(seed)[0]] for seed in range(40)])
    assert abs(chosen.mean() - 19.5) < 3 * 11.5 / np.sqrt(len(chosen))  # no shard is preferred
    assert load_levels([log], 0.25, 0, max_positions=2 * 40 * 25)[0].num_positions == 40 * 19


def test_no_more_than_the_sample_and_one_shard_is_held(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = open_log(log_of(tmp_path / "log", {"none": traces_of(0, 64, 20)}, costs_of()))
    alive: weakref.WeakSet[PromptTrace] = weakref.WeakSet()
    most, read = 0, StepLog._read_shard

    def counted(self: StepLog, compression: str, shard: int) -> list[HeldTrace]:
        nonlocal most
        traces = [HeldTrace(**{f.name: getattr(t, f.name) for f in fields(t)}) for t in read(self, compression, shard)]
        alive.update(traces)
        most = max(most, len(alive))
        return traces

    monkeypatch.setattr(StepLog, "_read_shard", counted)
    (data,) = load_levels([log], 0.25, 0, max_positions=200)
    assert most <= 2 * 8  # a shard, and the one before it that is still named; the sample is copied out of them
    for trace in data.training + data.validation:
        for name in ("tokens", "is_accepted", "confidence_at", "full_margin"):
            assert getattr(trace, name).base is None, name  # a view would keep all of its shard


@pytest.mark.parametrize(("num_prompts", "num_positions"), [(2, 60), (8, 4)])
def test_a_log_without_enough_data_says_how_much_there_is(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
    num_prompts: int,
    num_positions: int,
) -> None:
    log = log_of(tmp_path / "log", {"none": traces_of(0, num_prompts, num_positions)}, costs_of())
    positions = num_prompts * (num_positions - 1)
    with pytest.raises(InputError, match=f"has {num_prompts} prompts and {positions} positions.*at least 3 prompts"):
        load_levels([open_log(log)], 0.25, 0)


def test_a_log_without_costs_is_refused(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    log = log_of(tmp_path / "log", {"none": traces_of(0, 4, 20)}, costs_of())
    (log / "costs.json").unlink()
    with pytest.raises(InputError, match="no cost table for none"):
        load_levels([open_log(log)], 0.25, 0)


SAMPLED = {"do_sample": True, "temperature": 0.7, "seed": 0}


def test_a_prompt_is_on_the_same_side_in_every_log(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    """Also where one log holds only some of the prompts of the other."""
    greedy = log_of(tmp_path / "greedy", {"none": traces_of(0, 24, 20)}, costs_of())
    sampled = log_of(tmp_path / "sampled", {"none": traces_of(1, 11, 20)}, costs_of(layer_s=9.0), sampling=SAMPLED)
    levels = load_levels([open_log(greedy), open_log(sampled)], 0.25, 0)
    assert [data.name for data in levels] == ["none", "none at temperature 0.7"]
    assert [len(data.training) + len(data.validation) for data in levels] == [24, 11]
    places: dict[str, set[int]] = {}
    for data in levels:
        for trace, fold in zip(data.training, data.folds.tolist(), strict=True):
            places.setdefault(trace.prompt_id, set()).add(fold)
        for trace in data.validation:
            places.setdefault(trace.prompt_id, set()).add(-1)
        assert len(data.validation) >= 1
        assert {trace.sampling_temperature for trace in data.training} == {data.sampling_temperature}
        assert data.costs == costs_of()  # the first log's: a level has one table
    assert all(len(found) == 1 for found in places.values()) and len(places) == 24


def test_of_two_logs_with_the_same_text_it_counts_once(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    traces = traces_of(0, 8, 20)
    first = log_of(tmp_path / "first", {"none": traces}, costs_of())
    second = log_of(tmp_path / "second", {"none": traces[:6] + traces_of(1, 8, 20)[6:]}, costs_of())
    (data,) = load_levels([open_log(first), open_log(second)], 0.25, 0)
    assert len(data.training) + len(data.validation) == 8 + 2


def test_logs_of_several_levels_and_temperatures_are_read_where_they_hold_them(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    greedy = log_of(tmp_path / "greedy", {"int8": traces_of(0, 8, 20, compression="int8")}, costs_of())
    levels = {"none": traces_of(1, 8, 20), "int8": traces_of(2, 8, 20, compression="int8")}
    sampled = log_of(tmp_path / "sampled", levels, costs_of(), sampling=SAMPLED)
    logs = [open_log(greedy), open_log(sampled)]
    names = ["int8", "int8 at temperature 0.7", "none at temperature 0.7"]
    assert [data.name for data in load_levels(logs, 0.25, 0)] == names
    assert [data.name for data in load_levels(logs, 0.25, 0, ["none"])] == names[2:]
    with pytest.raises(InputError, match=r"compression must be one of the log's int8, none, got 'nf4'"):
        load_levels(logs, 0.25, 0, ["nf4"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_fingerprint": "e" * 64}, f"model_fingerprint is {'f' * 64} in .*first and {'e' * 64} in .*second"),
        ({"num_layers": 14}, "num_layers is 12 in .*first and 14 in .*second"),
        ({"exactness": {"none": "bitwise"}}, "exactness of none is token in .*first and bitwise in .*second"),
        ({"prompts": "question.jsonl:tuning"}, "training needs other prompts than Spec-Bench's for tuning"),
        ({"eos_token_ids": (3,)}, r"eos_token_ids is \(\) in .*first and \(3,\) in .*second"),
    ],
)
def test_logs_that_do_not_fit_together_are_refused_with_both_values(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
    changes: dict[str, object],
    words: str,
) -> None:
    logs = [
        open_log(log_of(tmp_path / name, {"none": traces_of(0, 8, 20)}, costs_of(), **own))
        for name, own in (("first", {}), ("second", changes))
    ]
    with pytest.raises(InputError, match=words):
        load_levels(logs, 0.25, 0)
