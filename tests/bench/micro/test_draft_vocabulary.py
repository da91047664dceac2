"""The measurement of draft vocabularies on a tiny model: its tables are whole, its counts add up."""

from pathlib import Path

import numpy as np
import pytest

from specbound.bench.micro import draft_vocabulary as micro
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_profiling.log.trace import PromptTrace
from tests.profiling.conftest import make_trace


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_tables_have_a_line_for_every_size(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro, "FEWEST", 8)
    sizes = {"vocab_sizes": (64, 128), "widths": (16,), "num_rounds": 2, "num_prompts": 2, "max_new_tokens": 8}
    micro.draft_vocabulary(model=str(tiny_model_dir), exit_layers=(1, 2), **sizes)  # type: ignore[arg-type]
    rows = rows_of(capsys.readouterr().out)
    assert [row[0] for row in rows] == [
        "vocabulary V",
        "---",
        "64",
        "128",
        "tokens read",
        "---",
        "all",
        "32",
        "16",
        "8",
    ]
    assert all(len(row) == 8 and row[3].endswith("µs") and row[7].endswith("x)") for row in rows[2:4])
    whole, *reduced = rows[6:]
    assert whole[1] == "100.0%" and all(len(row) == 6 for row in (whole, *reduced))
    shares = [float(row[1].rstrip("%")) for row in reduced]
    assert shares == sorted(shares, reverse=True) and shares[0] <= 100


def test_share_and_agreement_by_hand() -> None:
    traces: list[PromptTrace] = [make_trace([[1, 0], [1, 1]], (1, 2)), make_trace([[0, 0], [1, 0]], (1, 2))]
    assert micro._agreement(traces) == [0.75, 0.25]
    tokens = [token for trace in traces for token in trace.tokens.tolist()]
    inside = DraftVocabulary(np.unique(np.array([tokens[0], max(tokens) + 1])))
    assert micro._share(traces, inside) == tokens.count(tokens[0]) / len(tokens) < 1
    assert micro._share(traces, None) == 1.0
