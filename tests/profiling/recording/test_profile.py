"""The stage end to end on a random small model: files, resume, verdict, refusals."""

import importlib.util
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.models.loading import LoadedModel, load_model
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.errors import InputError, MissingExtraError
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.log.manifest import write_costs
from specbound_profiling.log.store import StepLog, open_log
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.recording import engine
from specbound_profiling.recording import profile as stage
from specbound_profiling.recording.config import ProfileConfig
from specbound_profiling.recording.profile import ProfileSummary, profile
from specbound_profiling.recording.record import Recorder

SENTENCES = (
    "the cat sat on the mat",
    "a dog ran",
    "one two . then it was",
    "def a ( ) : return that",
    "under the tree",
    "it was one dog and two cat",
    "that was then",
)


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"prompt": text, "task": "ab"[index % 2]} for index, text in enumerate(SENTENCES)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def config_of(tiny_model_dir: Path, prompts_file: Path) -> Callable[..., ProfileConfig]:
    def config(out: Path, **changes: object) -> ProfileConfig:
        fields: dict[str, object] = {"model": str(tiny_model_dir), "prompts": str(prompts_file), "out": str(out)}
        fields |= {
            "max_new_tokens": 24,
            "shard_prompts": 2,
            "num_cost_steps": 60,
            "exit_layers": (1, 2, 3),
            "rollout_rate": 0.5,
        }
        return ProfileConfig(**{**fields, **changes})  # type: ignore[arg-type]

    return config


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, config_of: Callable[..., ProfileConfig]
) -> tuple[ProfileSummary, StepLog]:
    out = tmp_path_factory.mktemp("logs") / "log"
    return profile(config_of(out)), open_log(out)


@pytest.fixture
def given_costs(monkeypatch: pytest.MonkeyPatch, costs: CostTable) -> None:
    """Costs that are not measured, in tests of something else."""

    def given(loaded: LoadedModel, *arguments: object, **options: object) -> CostTable:
        return replace(costs, compression=loaded.compression, machine=machine_fingerprint(loaded.model.device))

    monkeypatch.setattr(stage, "measure_costs", given)


def shards(root: Path) -> dict[str, bytes]:
    files = [*root.rglob("*.parquet"), root / "manifest.json"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_log_holds_every_prompt_in_order_and_a_cost_table(finished: tuple[ProfileSummary, StepLog]) -> None:
    _, log = finished
    traces = log.traces("none")
    assert [t.prompt_id for t in traces] == [f"prompts-{i + 1}" for i in range(len(SENTENCES))]
    assert [t.task for t in traces] == ["ab"[i % 2] for i in range(len(SENTENCES))]
    assert log.manifest.num_layers == 4 and len(log.manifest.model_fingerprint.partition(".")[0]) == 64
    assert log.manifest.counts["none"]["num_positions"] == sum(t.num_positions for t in traces)
    assert log.costs["none"].num_steps >= 60 and log.costs["none"].seconds(np.ones(len(WORK_NAMES))) > 0
    assert "thread" in log.costs["none"].machine


@pytest.mark.usefixtures("given_costs")
def test_prompts_go_through_the_chat_template_unless_raw_and_the_manifest_says_so(
    tmp_path: Path, config_of: Callable[..., ProfileConfig], chat_model_dir: Path
) -> None:
    lengths = {}
    for raw in (False, True):
        out = tmp_path / str(raw)
        profile(config_of(out, model=str(chat_model_dir), num_prompts=2, raw=raw))
        log = open_log(out)
        assert log.manifest.is_chat is not raw
        lengths[raw] = [trace.prompt_length for trace in log.traces("none")]
    assert lengths[False] == [length + 3 for length in lengths[True]]  # "the", "." and ":"


def test_summary_names_speeds_and_ends_with_a_conclusion(finished: tuple[ProfileSummary, StepLog]) -> None:
    summary, _ = finished
    text = str(summary)
    assert "agreement with the full model by exit layer: 1: " in text
    assert "chosen on the other prompts" in text and "oracle" in text and "worth a controller" in text
    found = summary.verdicts[0]
    assert found.oracle.value >= 1 and found.static.value > 0 and found.plain_tokens_per_second > 0


def test_interrupted_run_resumes_to_the_same_shards(
    tmp_path: Path,
    finished: tuple[ProfileSummary, StepLog],
    config_of: Callable[..., ProfileConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record, calls = Recorder.record, 0

    def interrupted(*arguments: object, **options: object) -> PromptTrace:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return record(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Recorder, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        profile(config_of(tmp_path / "log"))
    monkeypatch.undo()
    assert [p.name for p in sorted((tmp_path / "log").rglob("*.parquet"))] == ["none-00000.parquet"] * 3
    profile(config_of(tmp_path / "log"))
    assert shards(tmp_path / "log") == shards(finished[1].root)


@pytest.mark.usefixtures("given_costs")
def test_traces_of_earlier_shards_are_let_go(
    tmp_path: Path, config_of: Callable[..., ProfileConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, kept, num_alive = Recorder.record, [], []

    def watched(*arguments: object, **options: object) -> PromptTrace:
        num_alive.append(sum(reference() is not None for reference in kept))
        trace = record(*arguments, **options)  # type: ignore[arg-type]
        kept.append(weakref.ref(trace.confidence_at))
        return trace

    monkeypatch.setattr(Recorder, "record", watched)
    profile(config_of(tmp_path / "log", num_cost_steps=30))
    assert len(num_alive) == len(SENTENCES) and max(num_alive) <= 2  # prompts per shard


def test_finished_run_is_not_recorded_again(
    finished: tuple[ProfileSummary, StepLog], config_of: Callable[..., ProfileConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "Recorder", None)
    summary = profile(config_of(finished[1].root))
    assert summary.verdicts == finished[0].verdicts


def test_costs_of_another_machine_are_measured_again_and_the_log_line_names_both(
    tmp_path: Path,
    finished: tuple[ProfileSummary, StepLog],
    config_of: Callable[..., ProfileConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = Path(shutil.copytree(finished[1].root, tmp_path / "log"))
    there = finished[1].costs["none"]
    write_costs(root, {"none": replace(there, machine="an abacus")})
    profile(config_of(root, num_cost_steps=30))
    found = open_log(root).costs["none"]
    assert found.machine == there.machine
    assert found.coefficients != there.coefficients
    assert [record.message for record in caplog.records] == [
        f"none: costs are from (an abacus), not ({there.machine}); measured again"
    ]


def test_missing_packages_of_a_later_level_stop_the_run_before_the_first_is_recorded(
    tmp_path: Path, config_of: Callable[..., ProfileConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "bitsandbytes" else find_spec(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    monkeypatch.setattr(stage, "load_model", None)
    with pytest.raises(MissingExtraError, match=r"compression int8 needs the extra \[quant\]"):
        profile(config_of(tmp_path / "log", compression=("none", "int8")))
    assert not (tmp_path / "log").exists()


def test_other_settings_on_the_same_folder_are_refused(
    finished: tuple[ProfileSummary, StepLog], config_of: Callable[..., ProfileConfig]
) -> None:
    with pytest.raises(InputError, match="out holds another run: max_new_tokens is 24 there, 25 here"):
        profile(config_of(finished[1].root, max_new_tokens=25))


def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, config_of: Callable[..., ProfileConfig]
) -> None:
    out = tmp_path / "log"
    for changes, message in (
        ({"exit_layers": (2, 9)}, r"exit_layer must be in \[0, 3\] for a 4-layer model, got 9"),
        ({"model": str(tmp_path / "nowhere")}, "does not exist"),
        ({"prompts": str(tmp_path / "nowhere.jsonl")}, "existing file"),
        ({"max_new_tokens": 512}, "max_new_tokens must be < 512, the positions of the model, got 512"),
    ):
        with pytest.raises(InputError, match=message):
            profile(config_of(out, **changes))
        assert not out.exists()


@pytest.mark.usefixtures("given_costs")
def test_prompt_without_room_keeps_its_last_tokens(
    tmp_path: Path, config_of: Callable[..., ProfileConfig], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "the cat " * 300}))
    config = config_of(tmp_path / "log", prompts=str(tmp_path / "long.jsonl"), num_cost_steps=30)
    profile(config)
    assert open_log(tmp_path / "log").traces("none")[0].prompt_length == 512 - 24
    assert "1 prompts are longer than 488 tokens" in caplog.text


@pytest.mark.usefixtures("given_costs")
def test_sixteen_bit_log_is_recorded_bitwise_and_its_verdict_says_so(
    tmp_path: Path, config_of: Callable[..., ProfileConfig]
) -> None:
    config = config_of(tmp_path / "log", compression=("none", "bf16"), num_prompts=2, num_cost_steps=30)
    text = str(profile(config))
    assert "bf16: 2 prompts" in text and "recorded at exactness bitwise" in text
    log = open_log(tmp_path / "log")
    assert {t.compression for t in log.traces("bf16")} == {"bf16"}
    assert log.manifest.exactness == {"none": "token", "bf16": "bitwise"}
    asked = config_of(tmp_path / "token", compression=("bf16",), num_prompts=2, num_cost_steps=30, exactness="token")
    assert "not exact: below fp32" in str(profile(asked))


@pytest.mark.usefixtures("given_costs")
def test_sampled_log_is_what_the_decoder_samples_with_the_seeds_it_names(
    tmp_path: Path, config_of: Callable[..., ProfileConfig], tiny_model_dir: Path
) -> None:
    changes = {"sample": True, "temperature": 0.8, "top_k": 30, "seed": 7, "num_cost_steps": 30, "rollout_rate": 1.0}
    profile(config_of(tmp_path / "log", **changes))
    log = open_log(tmp_path / "log")
    loaded = load_model(str(tiny_model_dir))
    decoder = SpecBoundDecoder(greedy_twin(loaded.model))
    traces = log.traces("none")
    assert [trace.seed for trace in traces] == list(range(7, 7 + len(SENTENCES)))
    for index, (text, trace) in enumerate(zip(SENTENCES, traces, strict=True)):
        ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
        output = decoder.decode(ids, max_new_tokens=trace.length_limit, **log.manifest.sampling_of(index))
        assert output.sequences[0, ids.shape[1] :].tolist() == trace.tokens.tolist()
        assert trace.branches is not None
    with pytest.raises(InputError, match=r"another run: sampling is .* there"):
        profile(config_of(tmp_path / "log", **{**changes, "temperature": 0.9}))
    with pytest.raises(InputError, match=r"another run: rollout_rate is 1.0 there, 0.5 here"):
        profile(config_of(tmp_path / "log", **{**changes, "rollout_rate": 0.5}))
