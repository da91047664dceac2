"""`specbound verify` through the command line: exit codes, verdicts, reports."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from specbound.cli.main import main
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import PreallocatedLayer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory, save_tiny_model: Callable[[Path, str, int], Path]) -> Path:
    """A random Llama whose weights are wide enough for every token to matter."""
    from transformers import AutoModelForCausalLM

    folder = save_tiny_model(tmp_path_factory.mktemp("verify") / "model", "llama", 4)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0.0, 0.25, generator=torch.Generator().manual_seed(parameter.numel()))
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def run(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Verifies the model on three prompts; gives exit code, standard output, standard error."""
    prompts = tmp_path / "prompts.jsonl"
    texts = ("the cat sat on the mat", "a dog ran", "def return ( ) :")
    prompts.write_text("".join(json.dumps({"prompt": text, "prompt_id": text[:5]}) + "\n" for text in texts))

    def call(*options: str) -> tuple[int, str, str]:
        code = main(
            ("verify", "--model", str(model_dir), "--prompts", str(prompts), "--max-new-tokens", "40", *options)
        )
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def corrupt_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest key that a verification of five rows has just written is wrong, in every layer."""
    update = PreallocatedLayer.update

    def corrupt(self: PreallocatedLayer, key: torch.Tensor, *args: torch.Tensor) -> object:
        views = update(self, key, *args)
        if key.shape[2] == 5 and self.lengths[0] > 20:
            self.keys[0, :, self.lengths[0] - 5] *= -1.0
        return views

    monkeypatch.setattr(PreallocatedLayer, "update", corrupt)


def shift_rotary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions of several rows in one call are one too many."""
    run_layers = ModelAdapter.run_layers

    def shifted(self: ModelAdapter, hidden: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        tables = self._rotary_tables, self._lean_tables
        if 1 < hidden.shape[1] < 6:
            self._rotary_tables, self._lean_tables = (
                {kind: (cos.roll(-1, 1), sin.roll(-1, 1)) for kind, (cos, sin) in each.items()} for each in tables
            )
        try:
            return run_layers(self, hidden, *args, **options)
        finally:
            self._rotary_tables, self._lean_tables = tables

    monkeypatch.setattr(ModelAdapter, "run_layers", shifted)


@pytest.mark.parametrize("options", [(), ("--sample", "--temperature", "0.8", "--top-k", "20", "--seed", "3")])
def test_a_clean_run_exits_0(run: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    report = tmp_path / "report.json"
    code, out, err = run("--policy", "static,layerskip,random", "--json", str(report), *options)
    assert code == 0, out + err
    assert "layerskip" in out and "differs" not in out
    assert "none: plain decoding of 3 prompts" in err
    content = json.loads(report.read_text())
    assert [row["method"] for row in content["rows"]] == ["plain", "static", "layerskip", "random"]
    assert all(row["outputs_equal"] and row["num_prompts"] == 3 for row in content["rows"])
    assert all(row["speedup"] is None for row in content["rows"])
    assert content["rows"][2]["acceptance_rate"] > 0 and content["rows"][0]["tokens_per_step"] == 1.0
    assert content["differences"] == [] and content["sampling"]["do_sample"] is bool(options)


@pytest.mark.parametrize("plant", [corrupt_a_row, shift_rotary])
@pytest.mark.parametrize("options", [(), ("--sample",)])
def test_a_planted_bug_is_found_and_is_no_near_tie(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    options: tuple,
) -> None:
    plant(monkeypatch)
    report = tmp_path / "report.json"
    code, out, _ = run("--policy", "layerskip,random", "--json", str(report), *options)
    assert code == 1
    assert "differs from plain decoding at new token" in out and ": bug, token" in out and "in text" in out
    content = json.loads(report.read_text())
    assert {difference["verdict"] for difference in content["differences"]} == {"bug"}
    first = content["differences"][0]
    assert first["margin"] > 4 * first["noise"] > 0 and first["expected"] != first["actual"]
    assert any(row["outputs_equal"] is False for row in content["rows"])


@pytest.mark.parametrize("compression", ["none", "bf16", "fp16"])
def test_bitwise_exactness_is_verified_at_every_level(run: Run, compression: str) -> None:
    code, out, _ = run("--exactness", "bitwise", "--compression", compression)
    assert code == 0 and out.count("bitwise") == 3 and "differs" not in out


def test_a_planted_bug_at_bitwise_exactness(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    corrupt_a_row(monkeypatch)
    monkeypatch.setattr("specbound.decoding.step_model.check_row_stable", lambda adapter: None)
    code, out, _ = run("--exactness", "bitwise", "--compression", "bf16", "--policy", "layerskip")
    assert code == 1 and ": bug, token" in out


def test_json_on_standard_output_leaves_the_table_out(run: Run) -> None:
    code, out, _ = run("--policy", "layerskip", "--num-prompts", "1", "--json", "-")
    assert code == 0 and json.loads(out)["rows"][1]["num_prompts"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--policy", "greedy"),
            "policy must be one of controller, learned_tree, static, layerskip, random, trees, static:",
        ),
        (("--policy", "controller"), "policy controller needs a controller, got controller none"),
        (("--compression", "none,int3"), "compression must be one of none, bf16, fp16, int8, nf4, got 'int3'"),
        (("--exactness", "exact"), "exactness must be one of token, bitwise, got 'exact'"),
        (("--num-prompts", "0"), "num_prompts must be >= 1, got 0"),
        (("--temperature", "0.5"), "temperature, top_k and top_p need sample"),
        (("--sample", "--temperature", "0"), "temperature must be > 0, got 0.0"),
        (("--sample", "--top-p", "1.5"), "top_p must be above 0 and at most 1, got 1.5"),
        (("--sample", "--top-k", "-1"), "top_k must be >= 0, got -1"),
        (("--prompts", "none.jsonl"), "existing file"),
        (("--json", "/"), "--json must name a file"),
        (("--max-new-tokens", "600"), "max_new_tokens must be < 512"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(run: Run, options: tuple[str, ...], message: str) -> None:
    code, out, err = run(*options)
    assert (code, out) == (2, "")
    assert message in err and err.count("specbound: error: ") == 1 and "Traceback" not in err
