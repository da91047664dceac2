"""`specbound tune`: the file, the table, and wrong input in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from specbound.policies import POLICY_NAMES, TunedPolicies
from specbound_controller.actions import static_grid
from specbound_controller.baselines import BASELINES
from specbound_controller.baselines.tuned import TunedFile
from specbound_profiling.log.store import open_log

Run = Callable[..., tuple[int, str, str]]


def test_every_level_has_settings_of_every_policy(tiny_log: Path, tiny_policies: Path) -> None:
    tuned, log = TunedPolicies.load(tiny_policies), open_log(tiny_log)
    assert tuned.compressions == ("none", "bf16")
    assert tuned.names == ("plain", "best_static", "best_static_annealed", *BASELINES)
    assert set(tuned.names) < set(POLICY_NAMES)
    tuned.check_model(log.manifest.model_fingerprint, 4)
    assert (tuned.file.prompts_hash, tuned.file.num_prompts) == (log.manifest.prompts_hash, 10)
    budget = len(static_grid(log.manifest.exit_layers))
    for level in tuned.file.levels.values():
        assert tuned.file.budget == budget == level.policies["best_static"].num_candidates
        assert all(1 < each.num_candidates <= budget for each in level.policies.values())
        best = level.policies["best_static"].tokens_per_second
        assert best >= max(level.policies[n].tokens_per_second for n in ("layerskip", "best_static_annealed"))


def test_table_and_constants_are_printed(
    run: Run, tiny_log: Path, tiny_policies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = TunedFile.load(tiny_policies)
    monkeypatch.setattr("specbound_train.tuning.tune.tune_log", lambda log, costs, seed, say: file)
    code, out, err = run("tune", "--log", str(tiny_log), "--out", str(tmp_path / "policies.json"))
    assert code == 0, err
    assert "none, replayed on the prompts tuned on: 10" in out and "bf16, ucb: arms " in out
    assert out.count("best static annealed") == 2 and out.count("settings on 10 prompts") == 2 * len(
        file.levels["none"].everything
    )
    assert TunedFile.load(tmp_path / "policies.json") == file


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "--log is required"),
        (("--log", "nowhere", "--out", "p.json"), "log must be a folder that specbound profile wrote"),
        (("--log", "nowhere", "--out", "missing/p.json"), "a file in a folder that exists"),
    ],
)
def test_bad_input_is_one_line(run: Run, argv: tuple[str, ...], message: str) -> None:
    code, _, err = run("tune", *argv)
    assert code == 2 and message in err and err.count("\n") == 1
