"""The table of docs/equivalence.md: how it is counted and written, and that the page holds all of it."""

from pathlib import Path

import pytest

from specbound.decoding.model.families import FAMILIES
from specbound.evaluation.differences import Difference
from specbound_controller.compression import COMPRESSIONS
from tests import equivalence
from tests.decoding.families import random_prompt
from tests.decoding.trials import Outcome, model_of
from tests.equivalence import BEGIN, END, LEVELS, PAGE, QUANTISED, Cell, Line, decode_line, main, to_markdown


def difference(is_near_tie: bool) -> Difference:
    return Difference("m", "p", 3, 1, 2, margin=0.1, noise=0.1, is_near_tie=is_near_tie)


def lines() -> list[Line]:
    cell = Cell()
    cell.add(Outcome(1000, 50, 20, 0, None))
    cell.add(Outcome(1000, 50, 20, 7, difference(True)))
    cell.add(Outcome(1000, 50, 20, 8, difference(True)))
    cell.add(Outcome(1000, 50, 20, 9, difference(False)))
    return [Line("llama", "bf16", "token", {"greedy": cell, "sampled": Cell()})]


def test_a_cell_counts_prompts_tokens_and_verdicts() -> None:
    (line,) = lines()
    assert line.to_markdown() == (
        "| llama | bf16 | token | 4 | 4,000 | 24 | 2 near-ties, 1 bug | 0 | 0 | 0 | none differs |"
    )
    assert "4 prompts, 4,000 tokens" in to_markdown([line])
    assert "3 prompts differ, 2 first at a near-tie, 1 at a bug" in to_markdown([line])


def test_only_the_part_between_the_marks_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(equivalence, "family_lines", lines)
    for name in ("quantised_lines", "demo_lines"):
        monkeypatch.setattr(equivalence, name, list)
    assert main(page) == 1  # it holds a bug
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text and "| llama | bf16 | token |" in text


def test_a_line_decodes_every_prompt_in_both_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equivalence, "NEW_TOKENS", 12)
    line = decode_line("llama", "fp64", "token", [model_of("llama", "fp64", 1)] * 2, [random_prompt(0, 5)])
    assert [(c.num_prompts, c.num_tokens, c.num_differing_tokens) for c in line.cells.values()] == [(2, 24, 0)] * 2


def test_the_page_holds_every_family_and_level_and_no_bug() -> None:
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2]
    for exactness, formats in LEVELS.items():
        wanted = [(family, weights) for family in FAMILIES for weights in formats]
        wanted += [("llama", weights) for weights in QUANTISED] + [("demo", weights) for weights in COMPRESSIONS]
        for model, weights in wanted:
            assert f"| {model} | {weights} | {exactness} |" in text
    rows = [line.split(" | ") for line in text.splitlines() if "| bitwise |" in line or "| fp64 |" in line]
    assert all("near-tie" not in cell for row in rows for cell in row)
    assert " bug |" not in text and " bugs |" not in text
