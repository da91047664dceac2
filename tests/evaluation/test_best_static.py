"""The best fixed setting: replay names who races, the clock decides, what it finds is kept for machine and prompts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specbound.evaluation import best_static as stage
from specbound.evaluation.best_static import StaticChoice, StaticSearch, choose_static, race
from specbound.evaluation.timing import TimedPrompt
from specbound.evaluation.tournament import Standing
from specbound.models.loading import load_model
from specbound_controller.actions import PLAIN, static_grid
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.policy import DraftingFrom

EXITS = (0, 1, 2)


def made_up_costs() -> CostTable:
    """Everything but layers is free, and further rows nearly: long drafts look good on paper."""
    seconds = {name: (1e-3 if "rows" in name else 1e-9) for name in WORK_NAMES}
    return CostTable(seconds, "none", "made up", 0.0, 30)


@pytest.fixture
def search(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StaticSearch:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.manual_seed(0)
    prompts = [TimedPrompt(f"p{i}", "all", torch.randint(2, 30, (1, 6)), 12) for i in range(4)]
    return StaticSearch(load_model(str(tiny_model_dir), device="cpu"), prompts, "made up", made_up_costs(), EXITS)


def standings(names: list[str], fastest: str) -> list[Standing]:
    ranked = sorted(names, key=lambda name: name != fastest)
    return [Standing(name, 10, 1.0 + place, 4, 10, 2.5) for place, name in enumerate(ranked)]


def test_the_sixteen_best_by_replay_race_and_the_clock_decides(
    search: StaticSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced: list[str] = []

    def halving(methods: list, reference: object, prompts: list, probe: object, on_round: object) -> list[Standing]:
        raced.extend(method.name for method in methods)
        probe.sample()  # type: ignore[attr-defined]
        return standings([*raced, PLAIN.name], fastest=raced[5])

    monkeypatch.setattr(stage, "successive_halving", halving)
    choice = race(search, lambda line: None)
    assert len(set(raced)) == 16 and PLAIN.name not in raced
    assert choice.action().name == raced[5]
    traces = stage.record_exits(stage.ModelAdapter(search.loaded.model), search)
    grid = static_grid(EXITS)
    decisions = [action.decision({"annealed": stage.AnnealedConfidence(choice.alpha)}) for action in grid]
    seconds = stage.static_seconds(traces, search.costs, decisions, 4)
    assert grid[int(seconds.argmin())].name in (raced[0], PLAIN.name)
    slowest = max(seconds[i] for i, action in enumerate(grid) if action.name in raced)
    assert sum(seconds < slowest) <= 17


def test_a_real_race_names_a_setting_of_the_grid_and_says_how_it_came_out(search: StaticSearch) -> None:
    said: list[str] = []
    choice = race(search, said.append)
    assert len(choice.ranking) == 17 and choice.action() in static_grid(EXITS)
    text = choice.describe()
    assert f"({choice.action().name}), the fastest of 16 raced on 4 prompts of made up" in text
    assert "plain" in text and "x)" in text and "\n" not in text
    assert said == [
        "none: recording 4 tuning prompts",
        *(f"none: {n} static settings race on {p} tuning prompts" for n, p in ((16, 1), (8, 1), (4, 2), (2, 4))),
    ]


def test_what_was_found_is_kept_for_this_machine_model_level_and_these_prompts(
    search: StaticSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[StaticChoice] = []
    real = race

    def counted(search: StaticSearch, say: object) -> StaticChoice:
        held.append(real(search, lambda line: None))
        return held[-1]

    monkeypatch.setattr(stage, "race", counted)
    said: list[str] = []
    first, second = (choose_static(search, said.append) for _ in range(2))
    assert first == second and len(held) == 1 and "kept in" in said[0]
    own = stage.kept_path(search)
    assert own.parent.name == "specbound" and own.exists()
    others = [
        replace(search, exactness="bitwise"),
        replace(search, alpha=0.5),
        replace(search, exit_layers=(0, 1)),
        replace(search, prompts=search.prompts[:3]),
        replace(search, prompts=[replace(p, max_new_tokens=9) for p in search.prompts]),
        replace(search, prompts=[replace(p, sampling={"do_sample": True, "seed": 1}) for p in search.prompts]),
        replace(search, loaded=replace(search.loaded, compression="bf16")),
        replace(search, is_compiled=True),
    ]
    assert len({stage.kept_path(each) for each in (search, *others)}) == len(others) + 1
    own.write_text("{}")
    choose_static(search, said.append)
    assert len(held) == 2  # damaged: raced again


def test_a_folder_that_cannot_be_written_takes_nothing_but_the_keeping(
    search: StaticSearch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".cache").write_text("in the way")
    assert choose_static(search, lambda line: None).ranking
    assert "cannot be kept" in caplog.text


def test_drafts_come_from_the_draft_vocabulary(search: StaticSearch) -> None:
    import numpy as np

    vocabulary = DraftVocabulary(np.arange(40))
    choice = race(replace(search, vocabulary=vocabulary), lambda line: None)
    policy = choice.policy(vocabulary)
    assert isinstance(policy, DraftingFrom) and policy.vocabulary == vocabulary
