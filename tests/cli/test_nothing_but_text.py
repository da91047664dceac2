"""Every command where there is next to nothing to count: outputs that end at once, one prompt, one token, a vocabulary
of two words in one task. Each ends with results or with one line, never with `nan` in the place of a number, nor in a
Python error."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from specbound.cli.main import main
from tests.cli.conftest import made_up_costs
from tests.tiny_models import tiny_llama

Run = Callable[..., tuple[int, str, str]]
WORDS = ("<unk>", "the", "cat", "dog", "sat", "ran", "on", "tree")


@dataclass(frozen=True, slots=True)
class Situation:
    """A model and prompts of which there is little to say."""

    words: tuple[str, ...] = WORDS
    """The vocabulary."""
    prompts: tuple[tuple[str, str], ...] = (("the cat", "a"), ("dog ran", "b"), ("on the tree", "c"), ("cat sat", "d"))
    """Texts with their tasks."""
    is_silent: bool = False
    """Whether token 0 always comes, and ends the output."""
    max_new_tokens: int = 12

    def write(self, root: Path) -> None:
        """Model, prompts and tuning prompts."""
        own = Tokenizer(models.WordLevel({word: index for index, word in enumerate(self.words)}, unk_token="<unk>"))
        own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        ends = {"eos_token_id": 0} if self.is_silent else {}
        model = tiny_llama(0.3, vocab_size=len(self.words), num_hidden_layers=3, **ends)
        if self.is_silent:
            model.lm_head.weight.data.zero_()
        model.save_pretrained(root / "model")
        PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>").save_pretrained(root / "model")
        rows = [{"prompt": text, "task": task} for text, task in self.prompts]
        write_lines(root / "prompts.jsonl", rows)
        write_lines(root / "others.jsonl", [{**row, "prompt": f"{row['prompt']} the"} for row in rows])


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


SITUATIONS = {
    "every output ends at once": Situation(is_silent=True),
    "one prompt of one token, one new token": Situation(prompts=(("the", "a"),), max_new_tokens=1),
    "a vocabulary of two words, one task": Situation(
        words=("<unk>", "the"), prompts=tuple(("the " * n, "a") for n in (1, 2, 3, 5))
    ),
}


def commands(root: Path, tokens: int) -> dict[str, list[str]]:
    """Every command that reads a model or a log, in the order in which they need each other."""
    log, out, policies = str(root / "log"), str(root / "controller"), str(root / "policies.json")
    model, length = ("--model", str(root / "model")), ("--max-new-tokens", str(tokens))
    prompts = (*model, "--prompts", str(root / "prompts.jsonl"))
    tuning = ("--tuning-prompts", str(root / "others.jsonl"), "--num-tuning-prompts", "1", "--tuning-tokens", "8")
    grid = ("--tuned-lengths", "2", "--tuned-exit-layers", "1")
    use = ("--controller", out) if (root / "controller" / "config.json").exists() else ()
    seed = ("--epochs", "2", "--report", "true")
    studied = (
        "--log",
        log,
        "--alphas",
        "0",
        "--thresholds",
        "0.1",
        "--widths",
        "1",
        "--live",
        "1",
        "--live-rounds",
        "1",
    )
    demo = {
        "model": root / "model",
        "profile_prompts": root / "others.jsonl",
        "evaluation_prompts": root / "prompts.jsonl",
        "num_profile_prompts": 1,
        "num_evaluation_prompts": 1,
        "max_new_tokens": max(2, tokens),
        "num_cost_steps": 30,
        "num_rounds": 1,
        "allow_noise": "true",
    }
    return {
        "profile": [*prompts, *length, "--out", log],
        "replay": ["--log", log],
        "report": ["--log", log, "--out", str(root / "report")],
        "tune": ["--log", log, "--out", policies],
        "train-controller": ["--log", log, "--out", out, *seed],
        "sensitivity": [*studied, "--out", str(root / "sensitivity")],
        "ablation": [*studied, "--out", str(root / "ablation")],
        "costs": [*prompts, "--num-steps", "30", "--check", "--check-prompts", prompts[-1], "--num-check-prompts", "1"],
        "generate": [*model, "--prompt", "the", *length, "--compare", "--costs", "auto", *use],
        "write": [*prompts, *length, "--num-tokens", "20", "--out", str(root / "written")],
        "verify": [*prompts, *length, *use],
        "evaluate": [
            *prompts,
            "--max-new-tokens",
            str(max(2, tokens)),
            *tuning,
            "--rounds",
            "1",
            "--allow-noise",
            *use,
        ],
        "bench": [
            *prompts,
            *length,
            *tuning,
            *grid,
            "--num-rounds",
            "1",
            "--allow-noise",
            "--out",
            str(root / "bench"),
        ],
        "results": [
            *(*prompts, "--max-new-tokens", str(max(2, tokens)), *tuning, *grid, "--allow-noise", "--compression"),
            *("none", "--out", str(root / "results")),
        ],
        "demo": [text for name, value in demo.items() for text in (f"--{name.replace('_', '-')}", str(value))],
    }


MAY_FAIL = {"costs"}
"""Commands that say with exit code 1 that a measurement did not come out: prices are made up here."""


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Prices are made up, and kept in a home folder of the test's own."""
    for place in ("specbound_profiling.costs.measure", "specbound_profiling.recording.profile"):
        monkeypatch.setattr(f"{place}.measure_costs", made_up_costs)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield


def complaint(command: str, code: int, out: str, err: str) -> str:
    """What is wrong with how a command ended; nothing where all is well."""
    text = out + err
    if found := re.search(r"(?i)(?<![\w/.-])-?(nan|inf)x?(?![\w/.-])", text):
        line = next(line for line in text.splitlines() if found.group(0) in line)
        return f"prints {found.group(0)}: {line}"
    if found := re.search(r"\w*(Error|Exception|Warning|Traceback)\b", text):
        return f"says {found.group(0)}: {err[-400:]}"
    if code == 2:
        return "" if err.splitlines()[-1].startswith("specbound: error: ") else f"exit code 2 without a line: {err}"
    return "" if code == 0 or command in MAY_FAIL else f"exit code {code}: {text[-400:]}"


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", SITUATIONS)
def test_no_command_prints_nan_or_ends_in_a_python_error(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    situation = SITUATIONS[name]
    situation.write(tmp_path)
    codes, complaints = {}, {}
    for command in commands(tmp_path, situation.max_new_tokens):
        argv = commands(tmp_path, situation.max_new_tokens)[command]  # anew: the controller may be there by now
        report = tmp_path / f"{command}.json"
        is_counted = command != "tune"
        codes[command] = main([command, *argv, *(("--json", str(report)) if is_counted else ())])
        found = complaint(command, codes[command], *capsys.readouterr())
        if not found and report.exists() and re.search(r"\b(NaN|Infinity)\b", report.read_text(encoding="utf-8")):
            found = "writes NaN into its report"
        if found:
            complaints[command] = found
    assert not complaints, complaints
    assert codes["generate"] == codes["verify"] == 0, codes
    assert codes["profile"] == (0 if situation.max_new_tokens > 1 else 2), codes
