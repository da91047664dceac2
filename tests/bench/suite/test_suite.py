"""One table over levels and ways: the cells, what a killed run keeps, what may not be mixed, what is claimed."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from specbound.bench.suite import run as stage
from specbound.bench.suite.cell import Cell, Way
from specbound.bench.suite.config import SuiteConfig
from specbound.bench.suite.run import SuiteResult, run_suite
from specbound.bench.suite.store import MeasuredPrompt, Store
from specbound.bench.suite.table import cell_result, cell_table
from specbound.cli.main import main
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.differences import Difference
from specbound.evaluation.timing import Timing
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.errors import InputError

GREEDY = Way("none", 0.0)


@pytest.fixture
def config_of(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SuiteConfig]:
    """A run of three prompts, one of them a conversation, with made-up prices."""
    questions = [
        {"question_id": 81, "category": "writing", "turns": ["the cat sat", "a dog ran"]},
        {"question_id": 242, "category": "qa", "turns": ["one two ."]},
    ]
    (tmp_path / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (tmp_path / "others.jsonl").write_text('{"prompt": "it was that"}\n{"prompt": "under the tree"}\n')
    costs = CostTable({name: (1e-3 if "rows" in name else 1e-5) for name in WORK_NAMES}, "none", "made up", 0.0, 30)
    monkeypatch.setattr("specbound.bench.suite.cell.required_costs", lambda *arguments: (costs, ""))
    monkeypatch.setenv("HOME", str(tmp_path))

    def config(**changes: object) -> SuiteConfig:
        fields: dict[str, object] = {
            "model": str(tiny_model_dir),
            "prompts": str(tmp_path / "question.jsonl"),
            "tuning_prompts": str(tmp_path / "others.jsonl"),
            "out": str(tmp_path / "run"),
            "max_new_tokens": 10,
            "tuning_tokens": 8,
            "compression": ("none",),
            "temperatures": (0.0,),
            "tuned_exit_layers": (1,),
            "tuned_lengths": (2,),
            "block_prompts": 2,
            "allow_noise": True,
        }
        return SuiteConfig(**{**fields, **changes})  # type: ignore[arg-type]

    return config


def test_every_cell_has_its_methods_by_kind_of_content(config_of: Callable[..., SuiteConfig], tmp_path: Path) -> None:
    seen: list[int] = []
    config = config_of(compression=("none", "bf16"), temperatures=(0.0, 0.7), policies=("static:exit1", "width2"))
    result = run_suite(config, on_cell=lambda result: seen.append(len(result.cells)))
    assert seen == [1, 2, 3, 4] and result.is_trustworthy
    names = [cell.way.name for cell in result.cells]
    assert names == ["none-greedy", "none-sampled0.7", "bf16-greedy", "bf16-sampled0.7"]
    for cell in result.cells:
        table = cell_table(cell)
        assert table.headings[1:4] == ("mt_bench", "qa", "all")
        own = ["plain, own kernels"] if cell.way.compression == "bf16" else []
        theirs = ["transformers generate", "transformers prompt lookup", "transformers early exit"]
        assert [row[0] for row in table.rows] == [
            *theirs,
            *own,
            "plain",
            "best static",
            "best tree",
            "static:exit1,width2",
            "oracle (replayed)",
        ]
        assert all(len(row) == len(table.headings) for row in table.rows)
        static = next(row for row in cell.rows if (row.method, row.task) == ("best_static", "all"))
        assert static.outputs_equal is True and static.num_prompts == 3 and not math.isnan(static.speedup)
    sampled = result.cells[1]
    assert all(row.outputs_equal is None for row in sampled.rows if row.method in ("transformers", "prompt_lookup"))
    lookup = next(row for row in result.cells[3].rows if row.method == "prompt_lookup")
    assert math.isnan(lookup.speedup) and lookup.exactness == "token"
    assert "(" in next(row for row in cell_table(result.cells[3]).rows if row[0] == "transformers prompt lookup")[1]


def test_a_killed_run_goes_on_where_it_stopped_and_ends_with_the_same_texts(
    config_of: Callable[..., SuiteConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[list[str]] = []
    real = Cell.measure

    def measure(self: Cell, prompts: list, first_index: int) -> list[MeasuredPrompt]:
        if len(measured) == 1:
            measured.append([])
            raise KeyboardInterrupt
        measured.append([prompt.prompt_id for prompt in prompts])
        return real(self, prompts, first_index)

    monkeypatch.setattr(Cell, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        run_suite(config_of())
    folder = tmp_path / "run" / "none-greedy"
    before = (folder / "block-0000.json").read_bytes(), (folder / "setup.json").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["block-0000.json", "setup.json"]
    result = run_suite(config_of())
    assert measured == [["81/1", "81/2"], [], ["242"]]
    assert before == ((folder / "block-0000.json").read_bytes(), (folder / "setup.json").read_bytes())
    again = run_suite(config_of())  # nothing is left to measure
    assert len(measured) == 3 and [row for cell in again.cells for row in cell.rows if row.task == "qa"]
    whole = run_suite(config_of(out=str(tmp_path / "whole"), block_prompts=3))
    texts = [[t.tokens for t in each.cells[0].evaluation.timings["plain"]] for each in (result, again, whole)]
    assert texts[0] == texts[1] == texts[2]


def test_another_run_in_the_folder_is_refused_by_what_differs(config_of: Callable[..., SuiteConfig]) -> None:
    run_suite(config_of())
    run_suite(config_of(allow_noise=False, temperatures=(0.0,)))
    with pytest.raises(InputError, match="out holds another run: max_new_tokens is 10 there and 9 here"):
        run_suite(config_of(max_new_tokens=9))
    with pytest.raises(InputError, match="out holds another run: num_prompts is None there and 2 here"):
        run_suite(config_of(num_prompts=2))
    Path(config_of().prompts).write_text('{"prompt": "the cat"}\n')
    with pytest.raises(InputError, match="out holds another run: prompts_hash"):
        run_suite(config_of())


def test_a_damaged_block_names_itself(config_of: Callable[..., SuiteConfig], tmp_path: Path) -> None:
    run_suite(config_of())
    block = tmp_path / "run" / "none-greedy" / "block-0001.json"
    for text in ("{", '[{"prompt_id": 1}]'):
        block.write_text(text)
        with pytest.raises(InputError, match=r"block-0001\.json .*delete it, and the same command measures it again"):
            run_suite(config_of())
    block.unlink()
    assert run_suite(config_of()).cells


def stored(
    plain_s: float, other_s: float, other: list[int], slowdown: float = 0.0, near_tie: bool = False
) -> MeasuredPrompt:
    """Plain decoding and one more method on one prompt."""
    counts = DecodeStats(num_tokens=4, num_steps=3, num_step_tokens=3, seconds=plain_s, prefill_seconds=0.5)
    timings = {
        "transformers": Timing([1, 2, 3, 4], None, [9.0]),
        "plain": Timing([1, 2, 3, 4], counts, [plain_s], [0.5]),
        "best_static": Timing(other, counts, [other_s], [0.5]),
    }
    difference = Difference("best_static", "a", 2, 3, 5, 1e-6, 1e-4, near_tie)
    differences = [] if other == [1, 2, 3, 4] else [difference]
    return MeasuredPrompt("a", "qa", 4, False, timings, differences, 1.0, 2.0, [1.0, 1.0 + slowdown])


def test_a_speedup_is_claimed_where_outputs_are_equal_on_a_quiet_machine() -> None:
    def total(prompt: MeasuredPrompt, method: str = "best_static", allow_noise: bool = False) -> float:
        cell = cell_result(GREEDY, [prompt], [], 4, 0, allow_noise)
        return next(row.speedup for row in cell.rows if (row.method, row.task) == (method, "all"))

    assert total(stored(4.0, 2.0, [1, 2, 3, 4])) == pytest.approx(2.0)
    assert math.isnan(total(stored(4.0, 2.0, [1, 2, 5, 4])))
    assert math.isnan(total(stored(4.0, 2.0, [1, 2, 3, 4], slowdown=0.5)))
    assert total(stored(4.0, 2.0, [1, 2, 3, 4], slowdown=0.5), allow_noise=True) == pytest.approx(2.0)
    assert total(stored(4.0, 2.0, [1, 2, 3, 4]), "oracle") == pytest.approx(4.0 / (0.5 + 3.5 / 2))
    assert not cell_result(GREEDY, [stored(4.0, 2.0, [1, 2, 5, 4])], [], 4, 0, False).is_trustworthy


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {"a": (1, 2)})
    store.keep_setup("none-greedy", {"notes": ["x"]})
    prompt = stored(4.0, 2.0, [1, 2, 5, 4], near_tie=True)
    prompt.timings["plain"].stats.accepted_histogram = {0: 2, 3: 1}  # type: ignore[union-attr]
    store.keep_block("none-greedy", 3, [prompt])
    again = Store(str(tmp_path), {"a": (1, 2)})
    assert again.has_block("none-greedy", 3) and not again.has_block("none-greedy", 2)
    assert again.block("none-greedy", 3) == [prompt] and again.setup("none-greedy") == {"notes": ["x"]}
    assert again.setup("bf16-greedy") is None and not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperatures": (0.0, 0.0)}, "temperatures must name one or several, none twice"),
        ({"temperatures": (-1.0,)}, "temperatures must be >= 0"),
        ({"compression": ("int3",)}, "compression must be one of"),
        ({"tuning_prompts": "demo:evaluate"}, "tuning_prompts must be other prompts"),
        ({"block_prompts": 0}, "block_prompts must be >= 1"),
    ],
)
def test_bad_options_are_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SuiteConfig(out="x", **changes)  # type: ignore[arg-type]


def test_the_command_prints_each_cell_and_writes_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [cell_result(GREEDY, [stored(4.0, 2.0, [1, 2, 3, 4])], ["chosen"], 4, 0, True)]

    def fake(config: SuiteConfig, say: object, on_cell: Callable[[SuiteResult], None]) -> SuiteResult:
        result = SuiteResult({"name": "m", "num_layers": 4, "fingerprint": "f"}, cells)
        on_cell(result)
        return result

    monkeypatch.setattr(stage, "run_suite", fake)
    out, report = tmp_path / "run", tmp_path / "report.json"
    out.mkdir()
    assert main(("results", "--out", str(out), "--json", str(report))) == 0
    text = capsys.readouterr().out
    assert "none, greedy, exactness token" in text and "2.00x" in text and "chosen" in text
    page = (out / "results.md").read_text()
    assert page.startswith("Model m, ") and "| best static | 2.00x | 2.00x |" in page
    values = json.loads(report.read_text())
    assert values["rows"] == json.loads((out / "results.json").read_text())["rows"]
    assert {row["method"] for row in values["rows"]} == {"transformers", "plain", "best_static", "oracle"}
    assert values["cells"][0]["is_trustworthy"] is True
