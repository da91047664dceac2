"""Draft vocabularies in the log: which tokens, what the manifest says, resuming, annealing."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.output import GenerateOutput
from specbound.models.loading import load_model
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.errors import InputError
from specbound_controller.lookup import NO_TOKEN
from specbound_profiling.costs.measure import cost_measurement
from specbound_profiling.log.manifest import read_manifest, write_manifest
from specbound_profiling.log.store import LogWriter, open_log
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.recording import frequent_tokens as module
from specbound_profiling.recording import profile as stage
from specbound_profiling.recording.config import ProfileConfig
from specbound_profiling.recording.frequent_tokens import frequent_tokens, token_counts, token_shares
from specbound_profiling.recording.profile import profile
from specbound_profiling.replay.annealing import fit_alpha, fit_temperatures, label_nll_sums
from tests.profiling.manifests import MANIFEST

SENTENCES = ("the cat sat on the mat", "a dog ran", "the cat and the dog", "one two . then it was", "def a ( )")


@pytest.fixture
def config_of(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ProfileConfig]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text, "task": "a"}) + "\n" for text in SENTENCES))

    def costs(loaded: object, *arguments: object, **options: object) -> CostTable:
        return CostTable(dict.fromkeys(WORK_NAMES, 1e-4), "none", "", 0.0, 30)

    monkeypatch.setattr(stage, "measure_costs", costs)

    def config(out: Path, **changes: object) -> ProfileConfig:
        fields: dict[str, object] = {"model": str(tiny_model_dir), "prompts": str(prompts), "out": str(out)}
        fields |= {"max_new_tokens": 24, "shard_prompts": 2, "exit_layers": (0, 1, 2), "rollout_rate": 0.5}
        return ProfileConfig(**{**fields, **changes})  # type: ignore[arg-type]

    return config


def test_tokens_are_counted_over_all_prompts() -> None:
    counts = token_counts([torch.tensor([[1, 4, 4]]), torch.tensor([[4, 0]])], 6)
    assert counts.tolist() == [1, 1, 0, 0, 3, 0]


def test_log_says_which_tokens_its_exits_read(config_of: Callable[..., ProfileConfig], tmp_path: Path) -> None:
    summary = profile(config_of(tmp_path / "log", draft_vocabulary=8))
    log = open_log(tmp_path / "log")
    vocabulary = log.manifest.drafted_tokens()
    assert vocabulary is not None and len(vocabulary) == 8
    traces = log.traces("none")
    assert all(np.isin(trace.draft_token[:, 1:], vocabulary.ids).all() for trace in traces)
    assert any((~np.isin(trace.tokens, vocabulary.ids)).any() for trace in traces)
    tokens = np.concatenate([trace.tokens for trace in traces])
    share = np.isin(tokens, vocabulary.ids).mean()
    assert 0 < share < 1
    assert f"draft vocabulary: 8 of 64 tokens, which are {share:.1%} of what the model wrote" in str(summary)
    branches = [trace.branches for trace in traces if trace.branches is not None]
    drafted = np.concatenate([branch.draft_token[:, 1:].ravel() for branch in branches])
    assert set(drafted.tolist()) - {NO_TOKEN} <= set(vocabulary.ids.tolist()) and (drafted != NO_TOKEN).any()


def test_tokens_are_those_of_prompts_and_of_continuations(tiny_model_dir: Path) -> None:
    loaded = load_model(str(tiny_model_dir))
    adapter, model = ModelAdapter(loaded.model), loaded.model
    prompts = [loaded.tokenizer(text, return_tensors="pt")["input_ids"] for text in SENTENCES]
    in_prompts, written = np.zeros(64), np.zeros(64)
    for ids in prompts:
        np.add.at(in_prompts, ids[0].numpy(), 1)
    for ids in prompts[::4]:
        new = model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        np.add.at(written, new.numpy(), 1)
    shares = in_prompts / in_prompts.sum() + written / written.sum()
    np.testing.assert_allclose(token_shares(adapter, prompts, 20, {"do_sample": False}), shares)
    vocabulary = frequent_tokens(adapter, prompts, 12, 20, {"do_sample": False})
    assert len(vocabulary) == 12 and 1 in vocabulary.ids and shares[1] == 0  # the end token, although it stands nowhere
    least = min(shares[token] for token in vocabulary.ids if token != 1)
    assert all(shares[token] <= least for token in range(64) if token not in vocabulary.ids)
    sampled = token_shares(adapter, prompts, 20, {"do_sample": True, "seed": 3})
    assert not np.allclose(sampled, shares)


def test_only_some_prompts_are_continued(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(str(tiny_model_dir))
    continued: list[tuple[int, Any]] = []

    class Decoder(SpecBoundDecoder):
        def decode(self, inputs: Any = None, *arguments: Any, **options: Any) -> GenerateOutput:
            continued.append((int(inputs[0][0, 0]), options))
            return super().decode(inputs, *arguments, **options)

    monkeypatch.setattr(module, "SpecBoundDecoder", Decoder)
    monkeypatch.setattr(module, "MOST_CONTINUED", 4)
    monkeypatch.setattr(module, "MOST_NEW_TOKENS", 2)
    prompts = [torch.tensor([[2 + index, 3]]) for index in range(17)]
    token_shares(ModelAdapter(loaded.model), prompts, 20, {"do_sample": True, "seed": 7})
    assert [first for first, _ in continued] == [2, 7, 12, 17]
    assert [options["seed"] for _, options in continued] == [7, 12, 17, 22]
    assert all(options["max_new_tokens"] == 2 for _, options in continued)


def test_run_over_all_tokens_says_nothing_of_draft_vocabularies(
    config_of: Callable[..., ProfileConfig], tmp_path: Path
) -> None:
    assert "draft vocabulary" not in str(profile(config_of(tmp_path / "log")))


def test_gone_on_run_keeps_its_tokens(
    config_of: Callable[..., ProfileConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(config_of(tmp_path / "log", draft_vocabulary=8))
    monkeypatch.setattr(stage, "frequent_tokens", lambda *arguments: pytest.fail("counted again"))
    profile(config_of(tmp_path / "log", draft_vocabulary=8))


def test_run_of_another_draft_vocabulary_is_not_gone_on_with(
    config_of: Callable[..., ProfileConfig], tmp_path: Path
) -> None:
    profile(config_of(tmp_path / "log", draft_vocabulary=8))
    profile(config_of(tmp_path / "log", draft_vocabulary=8))
    for other in (9, "all"):
        with pytest.raises(InputError, match=r"out holds another run: .*draft_vocabulary is"):
            profile(config_of(tmp_path / "log", draft_vocabulary=other))


def test_manifest_without_a_draft_vocabulary_means_all_tokens(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    values = json.loads((tmp_path / "manifest.json").read_text())
    assert values.pop("draft_vocabulary") is None
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    found = read_manifest(tmp_path)
    assert found == MANIFEST and found.drafted_tokens() is None
    LogWriter(tmp_path, MANIFEST)  # a run that an earlier version began is gone on with


@pytest.mark.parametrize("tokens", [[3, 3], [5, 4], [5], [-1, 4], [4, 100], ["4", 5], [4.5, 5], [True, 5], 7, "45"])
def test_broken_draft_vocabulary_is_refused(tmp_path: Path, tokens: object) -> None:
    values = asdict(MANIFEST) | {"draft_vocabulary": tokens}
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="is not a manifest of schema 3") as error:
        read_manifest(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [1, 0, 65])
def test_size_out_of_range_is_refused_before_anything_is_written(
    config_of: Callable[..., ProfileConfig], tmp_path: Path, size: int
) -> None:
    with pytest.raises(InputError, match="draft_vocabulary must be"):
        profile(config_of(tmp_path / "log", draft_vocabulary=size))
    assert not (tmp_path / "log").exists()


def test_likelihood_leaves_out_tokens_that_no_exit_could_draft(trace_of: Callable[..., PromptTrace]) -> None:
    trace = trace_of([[1]] * 6)
    nll = np.linspace(0.1, 3.0, trace.label_nll_at.size).reshape(trace.label_nll_at.shape).astype(np.float32)
    inside = replace(trace, label_nll_at=nll)
    partly = nll.copy()
    partly[[2, 4]] = np.nan
    outside = replace(trace, label_nll_at=partly)
    np.testing.assert_allclose(label_nll_sums([outside]), nll[[0, 1, 3, 5]].sum(axis=0), rtol=1e-6)
    assert fit_alpha([inside, outside], 8) == fit_alpha([inside, inside], 8) == 0.0
    assert fit_temperatures([outside]) == fit_temperatures([inside]) == (1.0,)


def test_costs_are_measured_with_exits_that_read_the_draft_vocabulary(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, read = load_model(str(tiny_model_dir)), []
    whole = ModelAdapter.read_exit

    def watched(adapter: ModelAdapter, hidden: torch.Tensor, head: object, place: object = None) -> torch.Tensor:
        logits = whole(adapter, hidden, head, place)  # type: ignore[arg-type]
        read.append(logits.shape[-1])
        return logits

    monkeypatch.setattr(ModelAdapter, "read_exit", watched)
    vocabulary = replace(MANIFEST, vocab_size=64, draft_vocabulary=(1, 5, 7, 9)).drafted_tokens()
    prompts = [torch.randint(2, 60, (1, 8))]
    measured = cost_measurement(loaded, prompts, num_steps=30, max_seconds=5.0, draft_vocabulary=vocabulary)
    assert set(read) == {4} and measured.table.num_steps >= 30
