"""The commands with a draft vocabulary: profile, train, generate, replay; what does not fit together is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from torch import Tensor

from specbound.cli.main import main
from specbound.decoding.model.draft_head import DraftHead
from specbound.pricing.local import kept_folder
from specbound_controller.actions import Action
from specbound_controller.controller import Controller
from specbound_profiling.log.store import open_log
from tests.cli.conftest import made_up_costs

Run = Callable[..., tuple[int, str, str]]
WORDS = ("the cat sat on", "a dog ran under the", "one two and then", "def return ( )", "it was that", "the mat and a")
NUM_TOKENS = 32


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, short_search: None) -> dict[str, Path]:
    """Twelve prompts, two logs of them, one over 32 of 64 tokens and one over all, and the first one's controller."""
    root = tmp_path_factory.mktemp("reduced")
    prompts = root / "prompts.jsonl"
    rows = [{"prompt": f"{text} {extra}", "task": extra} for text in WORDS for extra in ("tree", "two")]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = {"model": tiny_model_dir, "log": root / "log", "whole": root / "whole", "controller": root / "controller"}
    profile = (
        "profile",
        "--model",
        str(tiny_model_dir),
        "--prompts",
        str(prompts),
        "--max-new-tokens",
        "20",
        "--rollout-rate",
        "1",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("specbound_profiling.recording.profile.measure_costs", made_up_costs)
        assert main((*profile, "--out", str(paths["log"]), "--draft-vocabulary", str(NUM_TOKENS))) == 0
        assert main((*profile, "--out", str(paths["whole"]), "--draft-vocabulary", "all")) == 0
    train = (
        "train-controller",
        "--log",
        str(paths["log"]),
        "--out",
        str(paths["controller"]),
        "--epochs",
        "2",
        "--max-rounds",
        "1",
    )
    assert main(train) == 0
    return paths


def test_controller_carries_the_tokens_of_its_log(chain: dict[str, Path]) -> None:
    vocabulary = open_log(chain["log"]).manifest.drafted_tokens()
    controller = Controller.load(chain["controller"])
    assert vocabulary is not None and len(vocabulary) == NUM_TOKENS
    assert controller.draft_vocabulary == vocabulary
    stored = load_file(chain["controller"] / "controller.safetensors")
    assert stored["draft_vocabulary"].tolist() == vocabulary.ids.tolist()


@pytest.mark.parametrize("sampling", [(), ("--sample", "--temperature", "0.8", "--seed", "4")])
@pytest.mark.parametrize("score", ["fixed", "learned"])
def test_generate_reads_the_draft_vocabulary_and_equals_plain_decoding(
    chain: dict[str, Path],
    run: Run,
    tmp_path: Path,
    score: str,
    sampling: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    controller = Controller.load(chain["controller"])
    drafting = Action(1, 4, 0.0) if score == "fixed" else Action(1, 4, 0.01, "learned", "product")
    chains = replace(controller.config, static_actions={"none": drafting}, trees=None)
    replace(controller, config=chains, node_mlp=None).save(tmp_path)
    read, whole = [], DraftHead.__call__

    def watched(head: DraftHead, x: Tensor) -> Tensor:
        read.append(len(head.vocabulary))
        return whole(head, x)

    monkeypatch.setattr(DraftHead, "__call__", watched)
    argv = ("generate", "--model", str(chain["model"]), "--prompt", "the cat and", "--max-new-tokens", "40", *sampling)
    costs = ("--costs", str(chain["log"]))
    code, out, _ = run(*argv, *costs, "--controller", str(tmp_path), "--compare", "--json", "-")
    report = json.loads(out)
    assert code == 0 and report["rows"][0]["outputs_equal"] is True
    assert set(read) == {NUM_TOKENS}


def test_replay_agrees_with_live_decoding_over_the_draft_vocabulary(chain: dict[str, Path], run: Run) -> None:
    argv = ("replay", "--log", str(chain["log"]), "--policy", "controller,static,best_static,random", "--live", "12")
    static = ("--exit-layers", "2", "--threshold", "0.04", "--width", "4")
    code, out, err = run(*argv, *static, "--controller", str(chain["controller"]), "--json", "-")
    assert code in (0, 1), err  # 1: seconds of made-up costs are not those of live decoding
    live = {(item["policy"], item["item"]): item for item in json.loads(out)["live"]}
    assert live["static", "tokens per step"]["live"] > 1  # something was accepted
    for policy in ("static", "best_static"):
        assert live[policy, "tokens per step"]["num_prompts"] == 12
        assert abs(live[policy, "tokens per step"]["deviation"]) < 0.005, policy


def test_logs_and_controllers_of_other_tokens_are_refused(chain: dict[str, Path], run: Run, tmp_path: Path) -> None:
    code, _, err = run("replay", "--log", str(chain["whole"]), "--controller", str(chain["controller"]))
    assert code == 2 and "trained on exits that read 32 tokens" in err and "got a log of all tokens" in err
    code, _, err = run("tune", "--log", str(chain["log"]), "--out", str(tmp_path / "policies.json"))
    assert code == 2 and "tune needs a log whose exits read all tokens" in err
    assert main(("tune", "--log", str(chain["whole"]), "--out", str(tmp_path / "policies.json"))) == 0
    policies = ("--policies", str(tmp_path / "policies.json"))
    code, _, err = run("replay", "--log", str(chain["log"]), *policies, "--controller", "none")
    assert code == 2 and "policies needs a log whose exits read all tokens" in err


@pytest.mark.parametrize(("value", "message"), [("1", ">= 2"), ("many", "all or int"), ("65", "64 tokens")])
def test_profile_refuses_what_is_no_size(
    chain: dict[str, Path], run: Run, tmp_path: Path, value: str, message: str
) -> None:
    code, _, err = run("profile", "--model", str(chain["model"]), "--out", str(tmp_path), "--draft-vocabulary", value)
    assert code == 2 and message in err and "Traceback" not in err, err


def test_kept_costs_are_those_of_the_draft_vocabulary(chain: dict[str, Path]) -> None:
    vocabulary = Controller.load(chain["controller"]).draft_vocabulary
    assert kept_folder("machine", "model") == kept_folder("machine", "model", "token", None)
    assert kept_folder("machine", "model") != kept_folder("machine", "model", "token", vocabulary)
