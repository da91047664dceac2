"""Trained exits through the chain: logs hold what drafts find live, controllers know their exits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from specbound.cli.main import main
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.exits.trained import TrainedExits, new_adapter, with_exits
from specbound.models.loading import load_model
from specbound.policies import TunedPolicies
from specbound_controller.controller import Controller
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from specbound_profiling.log.store import open_log
from specbound_profiling.prompts.files import load_prompts
from specbound_profiling.prompts.tokenization import tokenize_prompts
from specbound_profiling.recording.config import ProfileConfig
from specbound_profiling.recording.profile import profile
from specbound_train.config import TrainConfig
from specbound_train.train import train_controller
from tests.conftest import WORDS
from tests.decoding.random_exits import random_exits

NUM_PROMPTS, NEW_TOKENS = 12, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, save_tiny_model: Callable[..., Path]) -> Path:
    """A model, prompts, and two sets of random exits that read the verified state."""
    root = tmp_path_factory.mktemp("chain")
    save_tiny_model(root / "model")
    rows = [
        {"prompt_id": f"p{i}", "prompt": f"{WORDS[i]} cat {WORDS[-i]}", "task": "ab"[i % 2]} for i in range(NUM_PROMPTS)
    ]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = load_model(str(root / "model")).model
    for name, seed in (("exits", 1), ("others", 2)):
        random_exits(model, (1, 2), seed, num_tokens=40).save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def log(folder: Path) -> Path:
    config = ProfileConfig(
        out=str(folder / "log"),
        model=str(folder / "model"),
        prompts=str(folder / "prompts.jsonl"),
        exits=str(folder / "exits"),
        max_new_tokens=NEW_TOKENS,
        num_cost_steps=30,
        rollout_rate=1.0,
        w_max=3,
    )
    profile(config)
    return folder / "log"


def test_a_log_holds_what_first_drafts_find_live(folder: Path, log: Path) -> None:
    """One draft a step: every step's draft is at distance 1, as the log has it."""
    manifest = open_log(log).manifest
    exits = TrainedExits.from_pretrained(folder / "exits")
    assert manifest.exits == exits.name and manifest.exit_layers == (0, 1, 2)
    assert manifest.drafted_tokens() == exits.vocabulary
    loaded = with_exits(load_model(str(folder / "model")), str(folder / "exits"))
    adapter = new_adapter(loaded)
    all_ids = tokenize_prompts(load_prompts(str(folder / "prompts.jsonl")), loaded, adapter, NEW_TOKENS)
    num_steps = num_accepted = 0
    for trace, ids in zip(open_log(log).traces("none"), all_ids, strict=True):
        decoder = SpecBoundDecoder(loaded.model, StaticPolicy((2,), 0.0, 1), exits=exits)
        output = decoder.decode([ids], max_new_tokens=trace.num_positions, do_sample=False)
        position = 1
        for step in output.stats.steps:
            if step.num_drafted:
                assert bool(trace.is_accepted[position, trace.exit_index(2)]) == bool(step.num_accepted)
                num_steps, num_accepted = num_steps + 1, num_accepted + step.num_accepted
            position += step.num_emitted
    assert num_steps > 30 and 0 < num_accepted < num_steps


def test_branches_hold_what_drafts_further_back_find_live(folder: Path, log: Path) -> None:
    """Two drafts a step: after a wrong first one, the second is the branch's, at distance 2."""
    exits = TrainedExits.from_pretrained(folder / "exits")
    loaded = load_model(str(folder / "model"))
    adapter = new_adapter(loaded)
    all_ids = tokenize_prompts(load_prompts(str(folder / "prompts.jsonl")), loaded, adapter, NEW_TOKENS)
    num_seen = 0
    for trace, ids in zip(open_log(log).traces("none"), all_ids, strict=True):
        drafted: list[list[int]] = []
        decoder = SpecBoundDecoder(loaded.model, StaticPolicy((1,), 0.0, 2), exits=exits)
        with pytest.MonkeyPatch.context() as patch:
            _keep_drafts(patch, drafted)
            output = decoder.decode([ids], max_new_tokens=trace.num_positions, do_sample=False)
        position, index, branches = 1, trace.exit_index(1), trace.branches
        for step, tokens in zip(output.stats.steps, drafted, strict=True):
            rows = None if branches is None else branches.rows.get((position, 1))
            if len(tokens) == 2 and not step.num_accepted and branches is not None and rows is not None:
                assert int(branches.draft_token[rows.start, index]) == tokens[1]
                num_seen += 1
            position += step.num_emitted
    assert num_seen > 10


def _keep_drafts(patch: pytest.MonkeyPatch, drafted: list[list[int]]) -> None:
    from specbound.decoding.step import Draft, StepRunner

    verify = StepRunner.verify

    def watched(runner: StepRunner, draft: Draft) -> torch.Tensor:
        drafted.append(draft.tokens[1:])
        return verify(runner, draft)

    patch.setattr(StepRunner, "verify", watched)


@pytest.mark.usefixtures("short_search")
def test_a_controller_reads_its_own_exits_and_refuses_others(folder: Path, log: Path, tmp_path: Path) -> None:
    train_controller(
        TrainConfig(log=str(log), out=str(tmp_path / "controller"), epochs=1, max_rounds=1, widths=(1, 2), report=False)
    )
    controller = Controller.load(tmp_path / "controller")
    own, others = (TrainedExits.from_pretrained(folder / name) for name in ("exits", "others"))
    assert controller.draft_vocabulary == own.vocabulary and own.name in str(controller.draft_vocabulary)
    model = load_model(str(folder / "model")).model
    costs = open_log(log).costs["none"]
    prompt = torch.tensor([[5, 9, 12]])
    plain = SpecBoundDecoder(model).generate(prompt, max_new_tokens=24)
    policy = controller.policy(costs, "none", guard=False)
    assert torch.equal(SpecBoundDecoder(model, policy, exits=own).generate(prompt, max_new_tokens=24), plain)
    with pytest.raises(InputError, match=f"trained on exits that read .* {own.name}, got .* {others.name}"):
        SpecBoundDecoder(model, policy, exits=others).generate(prompt, max_new_tokens=24)


@pytest.mark.parametrize("exits", ["exits", "others"])
def test_commands_take_exits(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], exits: str) -> None:
    model = ["--model", str(folder / "model"), "--exits", str(folder / exits)]
    prompts = ["--prompts", str(folder / "prompts.jsonl"), "--num-prompts", "2", "--max-new-tokens", "12"]
    assert main(["verify", *model, *prompts, "--policy", "random,trees,layerskip"]) == 0
    generate = ["generate", *model, "--prompt", "the cat", "--policy", "static:exit1,width2", "--max-new-tokens", "8"]
    assert main([*generate, "--compare"]) == 0
    assert main(["verify", "--exits", str(folder / exits), *prompts]) == 2
    assert "were trained for a model of 4 layers, got one of 16" in capfd.readouterr().err


@pytest.mark.usefixtures("short_search")
def test_a_log_with_exits_is_tuned_and_replayed_with_them_and_refuses_others(
    folder: Path, log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specbound_train.tuning.tune.NUM_RHO_ROUNDS", 1)
    policies, own, others = tmp_path / "policies.json", str(folder / "exits"), str(folder / "others")
    name = TrainedExits.from_pretrained(own).name
    assert main(["tune", "--log", str(log), "--out", str(policies), "--exits", others]) == 2
    assert f"recorded with the trained exits {name}, got" in capfd.readouterr().err
    assert main(["tune", "--log", str(log), "--out", str(policies), "--exits", own]) == 0
    tuned = TunedPolicies.load(policies)
    tuned.check_exits(name)
    with pytest.raises(InputError, match=f"tuned for the trained exits {name}, got the model's own"):
        tuned.check_exits("")
    replay = ["replay", "--log", str(log), "--policy", "layerskip,static", "--exit-layers", "1", "--width", "3"]
    live = [*replay, "--policies", str(policies), "--live", "3"]
    capfd.readouterr()
    assert main([*live, "--exits", own, "--json", str(tmp_path / "replay.json")]) == 0
    counted = [
        item
        for item in json.loads((tmp_path / "replay.json").read_text())["live"]
        if item["item"] in ("tokens per step", "layer calls per token")
    ]
    assert len(counted) == 6 and all(item["is_within"] for item in counted)
    assert main(live) == 2
    assert f"recorded with the trained exits {name}: give their folder as --exits" in capfd.readouterr().err
    assert main([*replay, "--exits", others]) == 2
