"""Splits by prompt, and logs with too little in them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_profiling.log import open_log
from specbound_profiling.trace import PromptTrace
from specbound_train.data import load_levels, split_prompts


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
    none, int8 = load_levels(open_log(log), 0.25, 0)
    np.testing.assert_array_equal(none.folds, int8.folds)
    for part in ("training", "validation"):
        assert [t.prompt_id for t in getattr(none, part)] == [t.prompt_id for t in getattr(int8, part)]
    assert none.num_positions == 8 * 19


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
        load_levels(open_log(log), 0.25, 0)


def test_a_log_without_costs_is_refused(
    tmp_path: Path,
    traces_of: Callable[..., list[PromptTrace]],
    costs_of: Callable[..., CostTable],
    log_of: Callable[..., Path],
) -> None:
    log = log_of(tmp_path / "log", {"none": traces_of(0, 4, 20)}, costs_of())
    (log / "costs.json").unlink()
    with pytest.raises(InputError, match="no cost table for none"):
        load_levels(open_log(log), 0.25, 0)
