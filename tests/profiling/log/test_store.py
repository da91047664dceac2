"""The log directory: round trip, resume, refusal of other runs, one clear error for every kind of damage."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.own_text import OwnText
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.rates import prior_rates
from specbound_profiling.log import manifest
from specbound_profiling.log import store as log
from specbound_profiling.log.branches import Branches
from specbound_profiling.log.manifest import Manifest, read_costs, read_manifest
from specbound_profiling.log.store import LogWriter, open_log
from specbound_profiling.log.stores import checksums, write_log_stores
from specbound_profiling.log.trace import PromptTrace
from tests.profiling.manifests import MANIFEST

TraceOf = Callable[..., PromptTrace]


@pytest.fixture
def traces(random_trace_of: TraceOf, with_branches_of: TraceOf) -> list[PromptTrace]:
    rng = np.random.default_rng(0)
    plain = [replace(random_trace_of(rng, (1, 3), f"p{i}"), token_limit=64, eos_token_ids=()) for i in range(5)]
    return [replace(with_branches_of(rng, trace, 4, share=i / 4), eos_token_ids=(9,)) for i, trace in enumerate(plain)]


def write(root: Path, traces: list[PromptTrace], manifest: Manifest = MANIFEST) -> LogWriter:
    writer = LogWriter(root, manifest)
    for shard in range(manifest.num_shards):
        if not writer.is_written("none", shard):
            writer.write_shard("none", shard, traces[2 * shard : 2 * shard + 2])
    return writer


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_traces_come_back_as_they_were_written(tmp_path: Path, traces: list[PromptTrace], costs: CostTable) -> None:
    write(tmp_path / "log", traces).write_costs("none", costs)
    found = open_log(tmp_path / "log")
    assert found.costs == {"none": costs}
    for there, trace in zip(found.traces("none"), traces, strict=True):
        for name in (f.name for f in fields(PromptTrace) if f.name not in ("top1_token", "branches")):
            np.testing.assert_array_equal(getattr(there, name), getattr(trace, name), err_msg=name)
            if isinstance(getattr(trace, name), np.ndarray):
                assert getattr(there, name).dtype == getattr(trace, name).dtype, name
        np.testing.assert_array_equal(there.top1_token, trace.draft_token)
        assert there.length_limit == trace.length_limit


def test_branches_come_back_as_they_were_written(tmp_path: Path, traces: list[PromptTrace]) -> None:
    write(tmp_path, traces)
    found = open_log(tmp_path).traces("none")
    assert found[0].branches is None and sum(trace.branches is not None for trace in found) >= 2
    for there, trace in zip(found, traces, strict=True):
        assert (there.branches is None) == (trace.branches is None)
        for name in (f.name for f in fields(Branches) if trace.branches is not None):
            value, expected = getattr(there.branches, name), getattr(trace.branches, name)
            np.testing.assert_array_equal(value, expected, err_msg=name)
            assert type(value) is type(expected) and getattr(value, "dtype", None) == getattr(expected, "dtype", None)
    table = pq.read_table(tmp_path / "branches" / "none-00001.parquet")
    assert table["label_nll_at"].null_count == table.num_rows > 0 and not any(table["is_accepted"].to_pylist())


def of_trees(trace: PromptTrace) -> PromptTrace:
    """The trace with what draft trees need, made up."""
    rng, shape = np.random.default_rng(trace.num_positions), (trace.num_positions, len(trace.exit_layers), 4)
    return replace(
        trace,
        prompt_tokens=rng.integers(0, 90, trace.prompt_length),
        best_tokens=rng.integers(0, 90, (trace.num_positions, 8)),
        candidates=rng.integers(0, 90, shape),
        candidate_chances=rng.random(shape, dtype=np.float32),
    )


def test_what_trees_need_comes_back_as_it_was_written(tmp_path: Path, traces: list[PromptTrace]) -> None:
    grown = [of_trees(trace) for trace in traces]
    write(tmp_path, grown)
    for there, trace in zip(open_log(tmp_path).traces("none"), grown, strict=True):
        assert there.knows_trees
        for name in ("prompt_tokens", "best_tokens", "candidates", "candidate_chances"):
            np.testing.assert_array_equal(getattr(there, name), getattr(trace, name), err_msg=name)
            assert getattr(there, name).dtype == getattr(trace, name).dtype, name


def test_log_of_schema_2_is_read_as_chains(tmp_path: Path, traces: list[PromptTrace]) -> None:
    write(tmp_path / "old", [of_trees(trace) for trace in traces])
    for folder, count in (("exits", 2), ("positions", 2)):
        for path in (tmp_path / "old" / folder).iterdir():
            table = pq.read_table(path)
            pq.write_table(table.select(table.column_names[:-count]), path, write_page_checksum=True)
    values = json.loads((tmp_path / "old" / "manifest.json").read_text())
    del values["stores"]
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(values | {"schema_version": 2}))
    write(tmp_path / "new", traces)
    for old, trace in zip(open_log(tmp_path / "old").traces("none"), traces, strict=True):
        assert not old.knows_trees and old.best_tokens is None and old.candidates is None
        np.testing.assert_array_equal(old.draft_token, trace.draft_token)
    assert open_log(tmp_path / "old").stores() == (Stores(), {})
    with pytest.raises(InputError, match="schema_version is 2 there, 3 here"):
        LogWriter(tmp_path / "old", MANIFEST)


def test_stores_of_a_log_are_those_that_its_manifest_names(tmp_path: Path, traces: list[PromptTrace]) -> None:
    text = OwnText.count([[1, 2, 3, 1, 2, 4], [5, 1, 2, 3]])
    stores = Stores(BigramTable(np.arange(40, dtype=np.int32).reshape(10, 4)), text)
    manifest = replace(MANIFEST, stores=checksums(stores))
    write(tmp_path, traces, manifest)
    rates = prior_rates() | {"bigrams": [0.5] * 8}
    write_log_stores(tmp_path, stores, manifest.model_fingerprint, rates)
    found, counted = open_log(tmp_path).stores()
    assert counted == rates
    assert found.bigrams is not None and found.own_text is not None
    np.testing.assert_array_equal(found.bigrams.best, np.arange(40).reshape(10, 4))
    assert found.own_text.followers([1, 2]) == text.followers([1, 2]) != []
    shutil.rmtree(tmp_path / "stores")
    other = Stores(BigramTable(np.zeros((10, 4), dtype=np.int32)), text)
    write_log_stores(tmp_path, other, manifest.model_fingerprint)
    with pytest.raises(InputError, match="must be the bigrams that was recorded"):
        open_log(tmp_path).stores()
    shutil.rmtree(tmp_path / "stores")
    write_log_stores(tmp_path, stores, "e" * 64)
    with pytest.raises(InputError, match="bigrams must be of the model"):
        open_log(tmp_path).stores()


def test_seeds_of_a_sampled_log_count_up_over_the_shards(tmp_path: Path, traces: list[PromptTrace]) -> None:
    sampled = replace(MANIFEST, sampling={"do_sample": True, "temperature": 0.7, "seed": 40})
    write(tmp_path, traces, sampled)
    log = open_log(tmp_path)
    assert [trace.seed for trace in log.traces("none")] == [40, 41, 42, 43, 44]
    assert log.manifest.sampling_of(3) == {"do_sample": True, "temperature": 0.7, "seed": 43}
    assert MANIFEST.sampling_of(3) == {"do_sample": False}
    assert [trace.sampling_temperature for trace in log.traces("none")] == [0.7] * 5
    assert replace(sampled, sampling={"do_sample": True}).sampling_temperature == 1.0
    assert MANIFEST.sampling_temperature == 0.0


def test_speed_of_the_machine_comes_back_and_may_be_unknown(tmp_path: Path, costs: CostTable) -> None:
    path = tmp_path / "costs.json"
    manifest.write_costs(tmp_path, {"none": replace(costs, probe_s=0.002), "bf16": costs})
    found = read_costs(tmp_path)
    assert (found["none"].probe_s, found["bf16"].probe_s) == (0.002, None)
    assert found["none"].slowdown(0.0025) == pytest.approx(0.25) and found["bf16"].slowdown(0.0025) is None
    values = json.loads(path.read_text())
    del values["bf16"]["probe_s"]  # as an earlier version wrote it
    path.write_text(json.dumps(values))
    assert read_costs(tmp_path) == found
    for wrong in (0, -1.0, "fast", True):
        values["bf16"]["probe_s"] = wrong
        path.write_text(json.dumps(values))
        with pytest.raises(InputError, match="probe_s must be a number above 0 or null"):
            read_costs(tmp_path)


def test_columns_are_those_of_the_design(tmp_path: Path, traces: list[PromptTrace]) -> None:
    write(tmp_path / "log", traces)
    exits = pq.read_table(tmp_path / "log" / "exits" / "none-00000.parquet")
    positions = pq.read_table(tmp_path / "log" / "positions" / "none-00000.parquet")
    assert " ".join(exits.column_names) == (
        "prompt_id position exit_layer draft_token is_accepted top1_token confidence entropy_nats margin "
        "noised_margin draft_probability confidence_at label_nll_at candidates candidate_chances"
    )
    assert " ".join(positions.column_names) == (
        "prompt_id position token full_confidence full_entropy_nats full_margin context_length task compression "
        "is_loop_cut is_final_eos best_tokens prompt_tokens"
    )
    branches = pq.read_table(tmp_path / "log" / "branches" / "none-00000.parquet")
    assert branches.column_names == [*exits.column_names[:-2], "branch_position", "branch_exit_layer"]


def test_run_killed_inside_a_shard_resumes_to_the_same_files(
    tmp_path: Path, traces: list[PromptTrace], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "undisturbed", traces)
    rename, num_renames = log.os.replace, 0

    def killed(source: Path, target: Path) -> None:
        nonlocal num_renames
        num_renames += "positions" in str(target)
        if num_renames == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(log.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", traces)
    monkeypatch.undo()
    assert not list((tmp_path / "killed").rglob("*.partial"))
    with pytest.raises(InputError, match="is not finished: 2 of 3 shards are missing"):
        open_log(tmp_path / "killed")
    write(tmp_path / "killed", traces)
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def test_exits_without_positions_are_missing_and_are_written_again(tmp_path: Path, traces: list[PromptTrace]) -> None:
    before = contents(write(tmp_path, traces).root)
    (tmp_path / "positions" / "none-00001.parquet").unlink()
    (tmp_path / "exits" / "none-00001.parquet").write_bytes(b"half")
    with pytest.raises(InputError, match="1 of 3 shards are missing"):
        open_log(tmp_path)
    assert not LogWriter(tmp_path, MANIFEST).is_written("none", 1)
    write(tmp_path, traces)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("folder", ["exits", "branches", "positions"])
def test_shard_without_one_of_its_files_is_missing_and_is_written_again(
    tmp_path: Path, traces: list[PromptTrace], folder: str
) -> None:
    before = contents(write(tmp_path, traces).root)
    (tmp_path / folder / "none-00001.parquet").unlink()
    with pytest.raises(InputError, match="1 of 3 shards are missing"):
        open_log(tmp_path)
    write(tmp_path, traces)
    assert contents(tmp_path) == before


def test_run_stopped_while_it_writes_positions_leaves_no_exits_either(
    tmp_path: Path, traces: list[PromptTrace], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table = pq.write_table

    def stopped(table: pa.Table, path: Path, **options: object) -> None:
        if "positions" in str(path):
            raise KeyboardInterrupt
        write_table(table, path, **options)

    monkeypatch.setattr(log.pq, "write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, traces)
    assert list(contents(tmp_path)) == ["manifest.json"]


def test_interrupted_manifest_leaves_nothing_and_a_killed_ones_remains_are_ignored(
    tmp_path: Path, traces: list[PromptTrace], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest.os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, traces)
    monkeypatch.undo()
    assert contents(tmp_path) == {}
    (tmp_path / "manifest.partial").write_text("{")
    write(tmp_path, traces)
    assert not list(tmp_path.rglob("*.partial")) and len(open_log(tmp_path).traces("none")) == 5


def test_folder_of_another_run_is_refused_with_both_values(tmp_path: Path, traces: list[PromptTrace]) -> None:
    write(tmp_path, traces)
    with pytest.raises(InputError, match=r"out holds another run: max_new_tokens is 64 there, 32 here"):
        LogWriter(tmp_path, replace(MANIFEST, max_new_tokens=32))
    with pytest.raises(InputError, match=r"another run: model_fingerprint is f{12}\.\.\. there"):
        LogWriter(tmp_path, replace(MANIFEST, model_fingerprint="0" * 64))
    with pytest.raises(InputError, match="resume is off"):
        LogWriter(tmp_path, MANIFEST, resume=False)


def test_folder_with_foreign_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="out must be empty or hold a run"):
        LogWriter(tmp_path, MANIFEST)
    with pytest.raises(InputError, match="out must be a folder, got the file"):
        LogWriter(tmp_path / "thesis.tex", MANIFEST)
    with pytest.raises(InputError, match="out must be a folder that can be written"):
        LogWriter(tmp_path / "thesis.tex" / "log", MANIFEST)


def test_names_and_versions_do_not_make_another_run(tmp_path: Path, traces: list[PromptTrace]) -> None:
    write(tmp_path, traces)
    LogWriter(tmp_path, replace(MANIFEST, model="elsewhere/tiny", versions={"torch": "9"}))


@pytest.mark.parametrize("where", [0.1, 0.5, 0.95])
def test_flipped_bytes_in_a_shard_give_one_error_that_names_the_file(
    tmp_path: Path, traces: list[PromptTrace], where: float
) -> None:
    write(tmp_path, traces)
    path = tmp_path / "exits" / "none-00001.parquet"
    data = bytearray(path.read_bytes())
    middle = int(where * len(data))
    data[middle : middle + 8] = bytes(b ^ 0xFF for b in data[middle : middle + 8])
    path.write_bytes(data)
    with pytest.raises(InputError, match="none-00001") as caught:
        open_log(tmp_path).traces("none")
    assert "\n" not in str(caught.value)


def test_truncated_and_missing_shards_are_named(tmp_path: Path, traces: list[PromptTrace]) -> None:
    write(tmp_path, traces)
    path = tmp_path / "positions" / "none-00002.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"positions.none-00002.parquet is damaged"):
        open_log(tmp_path).traces("none")
    path.unlink()
    with pytest.raises(InputError, match="1 of 3 shards are missing"):
        open_log(tmp_path)


def test_shards_swapped_between_folders_are_refused(tmp_path: Path, traces: list[PromptTrace]) -> None:
    write(tmp_path, traces)
    first, second = (tmp_path / "exits" / f"none-0000{i}.parquet" for i in range(2))
    first.write_bytes(second.read_bytes())
    with pytest.raises(InputError, match="does not fit its positions file"):
        open_log(tmp_path).traces("none")
    first.write_bytes((tmp_path / "positions" / "none-00000.parquet").read_bytes())
    with pytest.raises(InputError, match="must have the columns prompt_id, position, exit_layer"):
        open_log(tmp_path).traces("none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "must hold a JSON object"),
        ('{"schema_version": 1}', "schema_version must be 2 or 3, got 1; profile again"),
        ('{"schema_version": 99}', "schema_version must be 2 or 3, got 99"),
        ('{"schema_version": 2}', "is not a manifest of schema 2"),
        ('{"schema_version": 2, "surprise": 2}', "unknown key 'surprise'"),
    ],
)
def test_broken_manifest_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        open_log(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_prompts": 0}, "shard_prompts must be an integer >= 1, got 0"),
        ({"num_prompts": "5"}, "num_prompts must be an integer >= 1, got '5'"),
        ({"num_layers": True}, "num_layers must be an integer >= 1, got True"),
        ({"exit_layers": ["a"]}, "exit_layers must hold only int, got 'a'"),
        ({"temperatures": 1.0}, "is not iterable"),
        ({"exactness": "token"}, "exactness must be an object, got 'token'"),
        ({"rollout_rate": 1.5}, r"rollout_rate must be a number in \[0, 1\], got 1.5"),
        ({"rollout_width": 0}, "rollout_width must be an integer >= 1, got 0"),
        ({"counts": [1]}, r"counts must be an object, got \[1\]"),
    ],
)
def test_wrong_value_in_a_manifest_is_one_error_that_names_the_file(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(asdict(MANIFEST) | changes))
    with pytest.raises(InputError, match=rf"manifest\.json is not a manifest of schema 3: .*{message}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("value", ["fast", None, True, -1.0, float("nan"), [1.0]])
def test_price_that_is_no_number_is_one_error_that_names_the_file(
    tmp_path: Path, costs: CostTable, value: object
) -> None:
    table = asdict(costs) | {"coefficients": {**costs.coefficients, "head_reads": value}}
    (tmp_path / "costs.json").write_text(json.dumps({"none": table}))
    with pytest.raises(InputError, match=r"costs\.json is not a cost table: head_reads must be a number >= 0, got"):
        read_costs(tmp_path)


@pytest.mark.parametrize("text", ['{"none": 3}', '{"none": {"coefficients": 3}}', '{"none": {"coefficients": {}}}'])
def test_cost_table_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "costs.json").write_text(text)
    with pytest.raises(InputError, match="is not a cost table"):
        read_costs(tmp_path)


def test_log_in_the_users_home_is_opened(
    tmp_path: Path, traces: list[PromptTrace], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "log", traces)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert open_log("~/log").root == tmp_path / "log"


def test_folder_that_is_no_log_and_broken_costs_are_refused(tmp_path: Path, traces: list[PromptTrace]) -> None:
    with pytest.raises(InputError, match="must be a folder that specbound profile wrote"):
        open_log(tmp_path / "nothing")
    write(tmp_path / "log", traces)
    (tmp_path / "log" / "costs.json").write_text(json.dumps({"none": {"coefficients": {"steps": 1.0}}}))
    with pytest.raises(InputError, match="is not a cost table"):
        open_log(tmp_path / "log")


def test_level_that_was_not_recorded_is_refused_by_name(tmp_path: Path, traces: list[PromptTrace]) -> None:
    write(tmp_path, traces)
    with pytest.raises(InputError, match="compression must be one of the log's none, got 'nf4'"):
        open_log(tmp_path).traces("nf4")


def test_counts_of_a_finished_level_stand_in_the_manifest(tmp_path: Path, traces: list[PromptTrace]) -> None:
    write(tmp_path, traces).write_counts("none", {"num_prompts": 5})
    assert open_log(tmp_path).manifest.counts == {"none": {"num_prompts": 5}}
    assert LogWriter(tmp_path, MANIFEST).manifest.counts == {"none": {"num_prompts": 5}}
