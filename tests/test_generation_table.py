"""Every field of the installed transformers' generation config means here what it means there, and docs/generation.md
says so."""

import pytest

from tests.generation_table import BEGIN, END, FIELDS, PAGE, fields, line_of


def test_somebody_has_decided_what_every_field_means() -> None:
    undecided = set(fields()) - set(FIELDS)
    assert not undecided, f"add them to FIELDS of tests/generation_table.py, and run it: {sorted(undecided)}"


@pytest.mark.parametrize("name", fields())
def test_a_field_is_as_in_transformers_or_refused_by_name(name: str) -> None:
    line = line_of(name)
    assert not line.bugs()
    page = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert line.to_markdown() in page, f"python -m tests.generation_table writes the page anew: {line.to_markdown()}"
