"""SpecKV's files: reading, refusing, and what is measured in them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from specbound_controller.errors import InputError
from specbound_profiling.speckv import expected_tokens, fixed_lengths, read_clock, read_steps

STEPS = """compression,gamma,task,step,accepted,acceptance_rate,tokens_produced,mean_draft_entropy,\
mean_draft_confidence,max_draft_entropy,min_draft_confidence
fp16,2,code,0,2,1.0,3,0.5,0.9,0.6,0.8
fp16,2,code,1,0,0.0,1,1.5,0.4,1.6,0.3
fp16,4,code,0,3,0.75,4,0.7,0.8,0.9,0.5
nf4,2,math,0,1,0.5,2,0.9,0.7,1.0,0.6
nf4,2,math,1,1,0.5,2,0.2,0.7,1.0,0.6
nf4,2,math,2,2,1.0,3,0.1,0.7,1.0,0.6
"""
CLOCK = """compression,gamma,task,prompt,num_tokens,elapsed_sec,tokens_per_sec,mean_acceptance_rate,\
mean_draft_entropy,mean_draft_confidence,num_steps
fp16,2,code,"Write, please",4,0.1,40.0,0.5,1,0.65,2
fp16,4,code,"Write, please",4,0.2,20.0,0.75,0.7,0.8,1
nf4,2,math,Add,7,0.1,70.0,0.67,0.4,0.7,3
"""
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def test_steps_are_read_with_their_runs(write: Write) -> None:
    log = read_steps(write("steps.csv", STEPS))
    assert log.level.tolist() == [0, 0, 0, 2, 2, 2] and log.lengths == (2, 4)
    assert log.run.tolist() == [0, 0, 1, 2, 2, 2]
    assert log.published_features()[3].tolist() == [0.9, 0.7, 1.0, 0.6, 2.0, 2.0]


def test_causal_features_are_those_of_the_step_before_in_the_same_run(write: Write) -> None:
    log = read_steps(write("steps.csv", STEPS))
    causal = log.causal_features()
    assert causal[[0, 2, 3], :4].tolist() == [[0.0] * 4] * 3
    np.testing.assert_array_equal(causal[[1, 4, 5], :4], log.signals[[0, 3, 4]])
    np.testing.assert_array_equal(causal[:, 4:], log.published_features()[:, 4:])


def test_fixed_lengths_are_counted_by_hand(write: Write) -> None:
    log = read_steps(write("steps.csv", STEPS))
    clock = read_clock(write("clock.csv", CLOCK), log)
    two, four, nf4 = fixed_lengths(log, clock)
    assert (two.level, two.length, two.num_runs, two.num_steps, two.num_tokens) == ("fp16", 2, 1, 2, 4)
    assert (two.tokens_per_step, two.acceptance_rate, two.tokens_per_second) == (2.0, 0.5, 40.0)
    assert (four.tokens_per_step, four.acceptance_rate, four.pooled_tokens_per_second) == (4.0, 0.75, 20.0)
    assert (nf4.level, nf4.tokens_per_step, nf4.acceptance_rate) == ("nf4", 7 / 3, 4 / 6)
    assert clock.prompt.tolist() == [1, 1, 0]
    assert fixed_lengths(log, None)[0].tokens_per_second is None


def test_expected_tokens_put_each_length_into_the_last_feature() -> None:
    features = np.array([[0.5, 4.0], [2.0, 4.0]])
    expected = expected_tokens(lambda rows: rows[:, 0] / rows[:, 1], features, (1, 2, 8))
    np.testing.assert_allclose(expected, [[1.5, 1.5, 1.5], [2.0, 3.0, 3.0]])  # 2 / 1 is clipped to 1
    assert features[0].tolist() == [0.5, 4.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STEPS.replace("gamma", "width"), "must have the column gamma"),
        (STEPS.replace("fp16,2,code,1,0,", "fp16,2,code,1,zero,"), r"steps.csv:3: accepted is 'zero'"),
        (STEPS.replace("nf4", "int3"), r"steps.csv:5: compression is 'int3'"),
        (STEPS.split("\n")[0], "at least one row"),
        (STEPS.replace("code,0", "code,1", 1), "must begin with step 0"),
        (STEPS + "fp16,2\n", r"steps.csv:8: task is None|steps.csv:8: step is None"),
    ],
)
def test_broken_steps_are_refused_in_one_line(write: Write, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_steps(write("steps.csv", text))


def test_a_missing_file_and_runs_of_another_log_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="readable CSV file"):
        read_steps(tmp_path / "none.csv")
    log = read_steps(write("steps.csv", STEPS))
    for changed in (CLOCK.replace(",3\n", ",4\n"), CLOCK.replace("fp16,4", "fp16,2"), CLOCK.rsplit("\n", 2)[0] + "\n"):
        with pytest.raises(InputError, match="runs of the step log"):
            read_clock(write("clock.csv", changed), log)
