"""The long run of random trials goes on where it was killed, counts what differs, and fills its table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from specbound.evaluation.differences import Difference
from tests import random_trials
from tests.decoding.trials import Outcome, Trial
from tests.random_trials import BEGIN, END, is_bug, line_of, read_state, run, to_markdown, write

TRIAL = Trial("llama", "fp64", "fixed", prompt_length=3, seed=0)


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that were tried, in order; every trial writes ten tokens."""
    tried: list[int] = []

    def decode(trial: Trial) -> Outcome:
        tried.append(trial.seed)
        return Outcome(10, 4, 2, 0, None)

    monkeypatch.setattr(random_trials, "random_call", lambda seed: replace(TRIAL, seed=seed))
    monkeypatch.setattr(random_trials, "run_call", decode)
    return tried


def test_a_run_that_was_killed_goes_on_with_the_next_seed(tmp_path: Path, seeds: list[int]) -> None:
    path = tmp_path / "runs" / "state.jsonl"
    run(20, path)
    with path.open("a") as file:
        file.write('{"seed": 2, "tok')  # torn by the kill
    lines = run(40, path)
    assert seeds == [0, 1, 2, 3]
    assert [line["seed"] for line in lines] == [0, 1, 2, 3] == [line["seed"] for line in read_state(path)]
    assert run(40, path) == lines and len(seeds) == 4  # nothing is left to do


def test_runs_that_share_the_work_try_other_seeds(tmp_path: Path, seeds: list[int]) -> None:
    run(30, tmp_path / "first.jsonl", (0, 2))
    run(30, tmp_path / "second.jsonl", (1, 2))
    assert seeds == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize(
    ("exactness", "dtype", "is_near_tie", "expected"),
    [("token", "fp32", True, False), ("token", "fp32", False, True), ("token", "fp64", True, True),
     ("bitwise", "fp16", True, True), ("token", "bf16", True, False)],
)  # fmt: skip
def test_a_near_tie_is_forgiven_only_where_rounding_may_show(
    exactness: str, dtype: str, is_near_tie: bool, expected: bool
) -> None:
    trial = replace(TRIAL, exactness=exactness, dtype=dtype)
    assert is_bug(line_of(trial, Outcome(10, 4, 2, 1, difference(is_near_tie)), 0.1)) == expected
    assert not is_bug(line_of(trial, Outcome(10, 4, 2, 0, None), 0.1))


def test_the_table_counts_every_group_and_lies_between_the_marks(tmp_path: Path) -> None:
    lines = [
        line_of(TRIAL, Outcome(10, 4, 2, 0, None), 0.1),
        line_of(replace(TRIAL, seed=1, dtype="fp32", call="batch"), Outcome(30, 9, 5, 1, difference(True)), 0.1),
    ]
    text = to_markdown(lines)
    assert "2 trials (seeds 0 to 1), 40 tokens" in text
    assert "| `token`, fp32 | 1 | 30 | 9 | 5 | 1 | 0 |" in text
    assert "| calls: batch | 1 | 30 | 9 | 5 | 1 | 0 |" in text
    assert "| all | 2 | 40 | 13 | 7 | 1 | 0 |" in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write(page, lines)
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n\n{text}\n\n{END}\nafter\n"


def test_a_bug_is_said_and_ends_the_command_with_1(
    tmp_path: Path, seeds: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(random_trials, "run_call", lambda trial: Outcome(10, 4, 2, 1, difference(False)))
    state = tmp_path / "state.jsonl"
    assert random_trials.main(["--tokens", "10", "--state", str(state)]) == 1
    assert "BUG" in capsys.readouterr().err
    assert json.loads(state.read_text())["tokens"] == 10


def difference(is_near_tie: bool) -> Difference:
    return Difference("policy", "row 0", 3, 1, 2, 0.1, 0.2, is_near_tie)
