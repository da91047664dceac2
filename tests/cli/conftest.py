"""A log that several commands read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from specbound.cli.main import main
from specbound_controller.costs import WORK_NAMES, CostTable

if TYPE_CHECKING:
    from specbound.models.loading import LoadedModel


@pytest.fixture(autouse=True)
def own_static_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a race finds is kept in the test's own folder."""
    monkeypatch.setattr("specbound.evaluation.best_static.kept_path", lambda search: tmp_path / "static.json")


STARTS = ("the cat sat on", "a dog ran under the", "one two and then", "def return ( )", "it was that")


@pytest.fixture(scope="session")
def tiny_log(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """Ten prompts of two kinds on a random Llama of 4 layers, in fp32 and bf16, every roll-out followed."""
    root = tmp_path_factory.mktemp("tiny-log")
    prompts = root / "prompts.jsonl"
    rows = [{"prompt": f"{start} {end}", "task": end} for start in STARTS for end in ("tree", "two")]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--max-new-tokens", "16", "--exit-layers", "1,2,3", "--rollout-rate", "1", "--compression", "none,bf16")
    where = ("--model", str(tiny_model_dir), "--prompts", str(prompts), "--out", str(root / "log"))
    with pytest.MonkeyPatch.context() as patch:  # measuring takes seconds, and other tests look at it
        patch.setattr("specbound_profiling.recording.profile.measure_costs", made_up_costs)
        assert main(("profile", *where, *options)) == 0
    return root / "log"


@pytest.fixture(scope="session")
def tiny_policies(tiny_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Policies tuned on the log."""
    path = tmp_path_factory.mktemp("tiny-policies") / "policies.json"
    assert main(("tune", "--log", str(tiny_log), "--out", str(path))) == 0
    return path


def made_up_costs(loaded: "LoadedModel", *_: object, **__: object) -> CostTable:
    """Prices like a small model's on a CPU: more rows cost little more."""
    seconds = dict.fromkeys(WORK_NAMES, 1e-5)
    for name in (name for name in WORK_NAMES if "rows_" in name and name.rpartition("_")[2].isdigit()):
        seconds[name] = 1e-3 * (1 + 0.05 * int(name.rpartition("_")[2]))
    return CostTable(seconds, loaded.compression, "made up", 0.0, 30)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line; gives exit code, standard output, standard error."""

    def call(*argv: str) -> tuple[int, str, str]:
        code = main(argv)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
