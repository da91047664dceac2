"""`specbound replay`: tables, JSON, live comparison, and every way to call it wrongly."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from specbound.analysis.replay_config import REPLAYED_POLICIES, TUNED_POLICIES
from specbound_controller.trees.names import TUNED_TREES
from specbound_profiling.log.store import StepLog, open_log
from specbound_profiling.log.trace import PromptTrace

Run = Callable[..., tuple[int, str, str]]
STATIC = ("--policy", "static", "--exit-layers", "2")


def report_of(run: Run, tmp_path: Path, *argv: str) -> dict[str, Any]:
    path = tmp_path / "replay.json"
    code, _, err = run("replay", *argv, "--json", str(path))
    assert code == 0, err
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_every_policy_has_a_row_for_each_level_and_kind_of_content(run: Run, tiny_log: Path, tmp_path: Path) -> None:
    own = (*TUNED_POLICIES, "best_static_learned", "controller", "learned_tree")
    names = [name for name in REPLAYED_POLICIES if name not in own]
    report = report_of(
        run, tmp_path, "--log", str(tiny_log), "--policy", ",".join(names), "--exit-layers", "1,3", "--threshold", "0.2"
    )
    keys = [(row["compression"], row["task"], row["method"]) for row in report["rows"]]
    assert keys == [
        (level, task, name) for level in ("none", "bf16") for task in ("tree", "two", "all") for name in names
    ]
    rows = dict(zip(keys, report["rows"], strict=True))
    for level in ("none", "bf16"):
        speeds = {name: rows[level, "all", name]["speedup"] for name in names}
        assert speeds["plain"] == 1 and speeds["oracle"] > 1
        assert max(speeds["plain"], speeds["static"]) <= speeds["oracle_grid"] * (1 + 1e-9)
        assert speeds["best_static"] <= speeds["oracle_grid"] * (1 + 1e-9)
        assert speeds["oracle_tree"] >= max(speeds["oracle"], speeds["best_tree"]) * (1 - 1e-9)
        assert rows[level, "all", "oracle_tree"]["share_of_oracle_gain"] == pytest.approx(1)
        assert rows[level, "all", "plain"]["layer_calls_per_token"] == 4
        assert rows[level, "all", "plain"]["num_tokens"] == sum(
            rows[level, task, "plain"]["num_tokens"] for task in ("tree", "two")
        )
    assert all(row["simulated"] for row in report["rows"])
    assert report["rows"][-1]["exactness"] == "bitwise"  # bf16 was recorded so


def test_policies_of_the_literature_are_replayed_as_they_were_tuned(
    run: Run, tiny_log: Path, tiny_policies: Path, tmp_path: Path
) -> None:
    report = report_of(run, tmp_path, "--log", str(tiny_log), "--policies", str(tiny_policies))
    names = ["plain", "best_static", "best_static_annealed", *TUNED_POLICIES[1:], "free_tree"]
    names += ["oracle_grid", "oracle", "oracle_tree"]
    assert [row["method"] for row in report["rows"][-len(names) :]] == names
    content = json.loads(tiny_policies.read_text())
    for level in ("none", "bf16"):
        tuned = content["levels"][level]
        rows = {r["method"]: r for r in report["rows"] if (r["compression"], r["task"]) == (level, "all")}
        assert rows["plain"]["tokens_per_second"] == pytest.approx(tuned["plain_tokens_per_second"])
        assert set(tuned["trees"]) == set(TUNED_TREES)
        for name, entry in (
            tuned["policies"] | tuned["trees"]
        ).items():  # what was found in tuning is what the replay says
            assert rows[name]["tokens_per_second"] == pytest.approx(entry["tokens_per_second"]), name
    notes = [note for note in report["notes"] if note.startswith("none: ")]
    assert any(note.startswith("none: svip: exit_layer ") and "the best of 108 settings" in note for note in notes)
    assert "none: policies were tuned on these same prompts" in notes
    assert not any("best static, chosen on these same" in note for note in notes)


def test_live_decoding_follows_tuned_policies(run: Run, tiny_log: Path, tiny_policies: Path, tmp_path: Path) -> None:
    options = (
        "--policy",
        "gammatune,hf_heuristic",
        "--policies",
        str(tiny_policies),
        "--compression",
        "none",
        "--live",
        "3",
    )
    items = report_of(run, tmp_path, "--log", str(tiny_log), *options)["live"]
    counted = [item for item in items if item["item"] in ("tokens per step", "layer calls per token")]
    assert len(counted) == 6 and all(item["replayed"] == item["live"] for item in counted)


def test_trees_are_replayed_as_they_decode(run: Run, tiny_log: Path, tmp_path: Path) -> None:
    names = ("free_tree", "tree7", "eagle2", "exit1_tree5")
    options = ("--policy", ",".join(names), "--compression", "none", "--live", "3")
    report = report_of(run, tmp_path, "--log", str(tiny_log), *options)
    items = {(item["policy"], item["item"]): item for item in report["live"]}
    for name in names[:3]:
        for figure in ("tokens per step", "layer calls per token"):
            assert items[name, figure]["replayed"] == pytest.approx(items[name, figure]["live"], rel=0.02), name
    rows = {row["method"]: row for row in report["rows"] if row["task"] == "all"}
    assert rows["tree7"]["tokens_per_step"] > 1 and rows["tree7"]["estimated_share"] == 0
    assert all(abs(item["replayed"]) > 0 for item in report["live"])


def test_trees_of_a_log_of_schema_2_are_refused(run: Run, tiny_log: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(tiny_log, old)
    values = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps(values | {"stores": {}}))
    code, _, err = run("replay", "--log", str(old), "--policy", "tree7")
    assert code == 2 and "draft trees need a log of schema 3" in err.splitlines()[-1]


def test_policies_of_another_model_or_level_are_refused(
    run: Run, tiny_log: Path, tiny_policies: Path, tmp_path: Path
) -> None:
    content = json.loads(tiny_policies.read_text())
    for change, message in (
        ({"model_fingerprint": "0" * 64}, "tuned for the model with fingerprint 0000"),
        ({"num_layers": 5}, "tuned for a model of 5 layers, got one of 4"),
        ({"levels": {"bf16": content["levels"]["bf16"]}}, "policies were tuned for bf16, got compression 'none'"),
    ):
        path = tmp_path / "changed.json"
        path.write_text(json.dumps({**content, **change}))
        code, _, err = run("replay", "--log", str(tiny_log), "--policies", str(path), "--policy", "svip")
        assert code == 2 and message in err.splitlines()[-1]


def test_table_names_policies_and_says_which_action_was_best(run: Run, tiny_log: Path) -> None:
    code, out, err = run("replay", "--log", str(tiny_log), "--compression", "none")
    assert code == 0
    for word in (
        "none, replayed: 10 prompts",
        "tree",
        "two",
        "all",
        "best static",
        "oracle grid",
        "chosen on these same",
    ):
        assert word in out
    assert "none: oracle" in err and "controller" not in out


def test_live_decoding_does_what_an_exact_log_says(run: Run, tiny_log: Path, tmp_path: Path) -> None:
    report = report_of(
        run, tmp_path, "--log", str(tiny_log), *STATIC, "--compression", "none,bf16", "--live", "4", "--width", "3"
    )
    items = {(item["compression"], item["policy"], item["item"]): item for item in report["live"]}
    assert len(items) == 2 * 2 * 4
    for (_, _, figure), item in items.items():
        assert item["num_prompts"] == 4
        if figure in ("tokens per step", "layer calls per token"):
            assert item["replayed"] == item["live"] and item["is_within"]
    assert items["none", "static", "tokens per step"]["live"] > 1
    assert items["none", "static", "seconds"]["live"] > 0


def test_live_steps_are_kept_where_asked_for(run: Run, tiny_log: Path, tmp_path: Path) -> None:
    log = shutil.copytree(tiny_log, tmp_path / "log")
    options = ("--log", str(log), *STATIC, "--compression", "bf16", "--width", "3", "--live", "4")
    report_of(run, tmp_path, *options)
    assert not (log / "steps").exists()
    report = report_of(run, tmp_path, *options, "--save-steps")
    found = open_log(log).live_steps("bf16")
    assert list(found) == ["plain", "static"] and open_log(log).live_steps("none") == {}
    live = {(item["policy"], item["item"]): item["live"] for item in report["live"]}
    for policy, runs in found.items():
        assert len({each.prompt_id for each in runs}) == 4
        records = [record for each in runs for record in each.records]
        assert sum(r.num_emitted for r in records) / len(records) == live[policy, "tokens per step"]
        late = [record.seconds for each in runs for record in each.records[1:]]
        assert sum(late) == pytest.approx(live[policy, "seconds"])
        assert all(math.isnan(each.records[0].seconds) for each in runs)


def test_live_verdicts_are_printed(run: Run, tiny_log: Path) -> None:
    code, out, _ = run("replay", "--log", str(tiny_log), *STATIC, "--compression", "none", "--live", "1")
    assert code == 0
    assert "replayed against live, 1 prompts" in out and "within" in out and "deviation" in out
    assert "costs are another machine's (made up)" in out


def test_live_output_that_is_not_the_logs_is_a_failure(
    run: Run, tiny_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = StepLog.traces

    def changed(log: StepLog, compression: str) -> list[PromptTrace]:
        first, *others = traces(log, compression)
        tokens = first.tokens.copy()
        tokens[3] = (tokens[3] + 1) % 60
        return [replace(first, tokens=tokens), *others]

    monkeypatch.setattr(StepLog, "traces", changed)
    code, out, _ = run("replay", "--log", str(tiny_log), "--policy", "plain", "--compression", "none", "--live", "2")
    assert code == 1
    assert "plain differs from plain decoding at new token 3" in out


def test_live_refuses_prompts_that_have_changed(run: Run, tiny_log: Path) -> None:
    prompts = tiny_log.parent / "prompts.jsonl"
    before = prompts.read_text()
    try:
        prompts.write_text(before.replace("the cat", "a cat"))
        code, _, err = run("replay", "--log", str(tiny_log), "--policy", "plain", "--live", "1")
    finally:
        prompts.write_text(before)
    assert code == 2 and "prompts of the log" in err


def test_costs_are_the_logs_or_measured_here_once(
    run: Run, tiny_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = open_log(tiny_log).costs["none"]
    calls = []

    def measure(*arguments: object) -> object:
        calls.append(arguments)
        return replace(own, coefficients={name: 2 * value for name, value in own.coefficients.items()})

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("specbound.pricing.local._measure", measure)
    options = ("--log", str(tiny_log), "--policy", "plain", "--compression", "none")
    speeds = [
        report_of(run, tmp_path, *options, "--costs", source)["rows"][-1]["tokens_per_second"]
        for source in ("log", str(tiny_log), "auto", "auto")
    ]
    assert speeds[0] == speeds[1] == pytest.approx(2 * speeds[2]) and speeds[2] == speeds[3]
    assert len(calls) == 1


def test_json_on_standard_output_leaves_the_table_out(run: Run, tiny_log: Path) -> None:
    code, out, _ = run("replay", "--log", str(tiny_log), "--policy", "oracle", "--compression", "none", "--json", "-")
    assert code == 0
    assert [row["method"] for row in json.loads(out)["rows"]] == ["plain", "oracle"] * 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "--log or --speckv is required"),
        (("--log", "x", "--speckv", "y"), "only one of them"),
        (("--log", "x", "--policy", "best"), "policy must be one of plain, static"),
        (("--log", "x", "--policy", "static"), "policy static needs exit_layers"),
        (("--log", "x", "--policy", "svip"), "policy svip needs policies, a file that specbound tune wrote"),
        (("--log", "x", "--exit-layers", "2"), "exit_layers belong to the policy static"),
        (("--log", "x", "--compression", "int3"), "compression must be one of"),
        (("--log", "x", "--save-steps"), "save_steps keeps live steps, and needs live"),
        (("--log", "x", "--live", "-1"), "live must be >= 0"),
        (("--log", "x", *STATIC, "--threshold", "2"), "threshold must be in [0, 1]"),
        (("--log", "x", *STATIC, "--alpha", "-1"), "alpha must be >= 0"),
        (("--log", "x", "--speckv-clock", "y"), "speckv_clock needs speckv"),
        (("--log", "nowhere"), "log must be a folder that specbound profile wrote"),
        (("--speckv", "nowhere.csv"), "readable CSV file"),
    ],
)
def test_bad_input_is_one_line(run: Run, argv: tuple[str, ...], message: str) -> None:
    code, _, err = run("replay", *argv)
    assert code == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--policy", "controller"), "needs --controller"),
        (("--policy", "best_static_learned"), "needs --controller"),
        (("--policies", "nowhere.json"), "tuned policies nowhere.json cannot be read"),
        (("--policy", "controller", "--controller", "demo"), "trained for a model of 16 layers, got one of 4"),
        (("--compression", "nf4"), "compression must be one of the log's none, bf16"),
        (("--policy", "static", "--exit-layers", "9"), "exit_layer must be one of the log's (1, 2, 3), got 9"),
        (("--costs", "nowhere"), "none (nowhere)"),
        ((*STATIC, "--threshold", "0.5", "--alpha", "3"), "a layer temperature must be in [1.0, 2.0]"),
    ],
)
def test_what_a_log_does_not_hold_is_one_line(run: Run, tiny_log: Path, argv: tuple[str, ...], message: str) -> None:
    code, _, err = run("replay", "--log", str(tiny_log), *argv)
    assert code == 2 and message in err.splitlines()[-1]


def test_speckv_files_are_analysed(run: Run, tmp_path: Path) -> None:
    header = "compression,gamma,task,step,accepted,acceptance_rate,tokens_produced,mean_draft_entropy,"
    lines = [header + "mean_draft_confidence,max_draft_entropy,min_draft_confidence"]
    runs = ["compression,gamma,task,prompt,num_tokens,elapsed_sec,tokens_per_sec,num_steps"]
    for prompt in range(5):
        for level in ("fp16", "int8", "nf4"):
            for length in (4, 8):
                accepted = [(prompt + 3 * step) % (length + 1) for step in range(6)]
                for step, count in enumerate(accepted):
                    share = count / length
                    lines.append(f"{level},{length},code,{step},{count},{share},{count + 1},1.0,{share},1.5,{share}")
                tokens = sum(accepted) + 6
                runs.append(f"{level},{length},code,prompt {prompt},{tokens},{length},{tokens / length},6")
    steps, clock = tmp_path / "steps.csv", tmp_path / "clock.csv"
    steps.write_text("\n".join(lines) + "\n")
    clock.write_text("\n".join(runs) + "\n")
    code, out, _ = run("replay", "--speckv", str(steps), "--speckv-clock", str(clock))
    assert code == 0
    assert "speckv takes the longest draft in" in out and "int8: length 8 against 4" in out
    report = report_of(run, tmp_path, "--speckv", str(steps))
    assert len(report["rows"]) == 6 and report["speckv"]["num_steps"] == 5 * 3 * 2 * 6
    assert not any(row["simulated"] for row in report["rows"])
    assert all(row["tokens_per_second"] is None for row in report["rows"])  # no clock was given
    assert not math.isnan(report["rows"][0]["tokens_per_step"])
