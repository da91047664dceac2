"""Exit codes and one-line errors of the command line, the whole way through `main`."""

import builtins
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from specbound.cli import main as command_line
from specbound.cli.demo import with_sizes
from specbound.cli.main import EXTRA_OF_MODULE, main
from specbound.cli.shipped import shipped_config
from specbound_controller.errors import InputError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line; gives exit code, standard output, standard error."""

    def call(*argv: str) -> tuple[int, str, str]:
        try:
            code = main(argv)
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], None]:
    """Replaces the command `profile` by one that raises."""

    def install(error: BaseException | None) -> None:
        def fail(argv: Sequence[str]) -> None:
            if error is not None:
                raise error

        monkeypatch.setitem(command_line.COMMANDS, "profile", ("specbound.cli.profile:run", "stub"))
        monkeypatch.setattr("specbound.cli.profile.run", fail)

    return install


def assert_one_line(err: str) -> None:
    assert err.startswith("specbound: error: ") and err.count("\n") == 1, err


def test_help_lists_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(name in out for name in command_line.COMMANDS)


def test_no_command_prints_the_help(run: Run) -> None:
    assert run() == run("--help")


def test_version(run: Run) -> None:
    import specbound

    assert run("--version") == (0, f"specbound {specbound.__version__}\n", "")


def test_unknown_command_names_the_nearest(run: Run) -> None:
    code, _, err = run("trian-controller")
    assert code == 2 and "'train-controller'" in err
    assert_one_line(err)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (InputError("bad\n  input"), 2),
        (RuntimeError("it\nbroke"), 1),
        (ModuleNotFoundError("No module named 'lightning'", name="lightning.pytorch"), 2),
        (ModuleNotFoundError("No module named 'zzz'", name="zzz"), 1),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
    ],
)
def test_each_kind_of_end_has_its_exit_code(
    run: Run, stub: Callable[[BaseException | None], None], error: BaseException | None, code: int
) -> None:
    stub(error)
    actual, _, err = run("profile")
    assert actual == code
    if code:
        assert_one_line(err)


def test_missing_extra_names_the_pip_command(run: Run, stub: Callable[[BaseException | None], None]) -> None:
    for module, extra in EXTRA_OF_MODULE.items():
        stub(ModuleNotFoundError(f"No module named {module!r}", name=module))
        assert f"pip install 'specbound[{extra}]'" in run("profile")[2]


def test_every_extra_of_the_table_exists_and_brings_the_package() -> None:
    import tomllib

    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    distribution = {"sklearn": "scikit-learn"}
    for module, extra in EXTRA_OF_MODULE.items():
        assert any(line.startswith(distribution.get(module, module)) for line in extras[extra]), module


def test_traceback_only_with_debug(run: Run, stub: Callable[[BaseException | None], None]) -> None:
    stub(RuntimeError("it broke"))
    assert "Traceback" not in run("profile")[2]
    with pytest.raises(RuntimeError, match="it broke"):
        main(["profile", "--debug"])


GENERATE = ("generate", "--prompt", "the cat", "--controller", "none")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((*GENERATE, "--model", "/no/such/model"), "'/no/such/model' does not exist"),
        ((*GENERATE, "--compression", "int3"), "compression must be one of none, bf16, fp16, int8, nf4, got 'int3'"),
        ((*GENERATE, "--max-new-tokens", "0"), "max_new_tokens must be >= 1, got 0"),
        ((*GENERATE, "--compare"), "compare needs drafts"),
        ((*GENERATE, "--stream", "--json", "-"), "stream must be off"),
        ((*GENERATE, "--json", "/no/such/folder/x.json"), "--json must name a file in a folder that exists"),
        ((*GENERATE, "--json", "/"), "--json must name a file in a folder that exists"),
        ((*GENERATE, "--threads", "0"), "threads must be >= 1, got 0"),
        (("profile", "--out", "x", "--threads", "0"), "threads must be >= 1, got 0"),
        (("profile", "--out", "x", "--json", "/"), "--json must name a file in a folder that exists"),
        (("train-controller", "--log", "x", "--out", "y", "--json", "/"), "--json must name a file"),
        (("generate",), "--prompt is required"),
        (("generate", "--prompt", " "), "--prompt must hold text"),
        (("generate", "--prompt", "x", "--controller", "/no/such"), "controller must be a directory"),
        (("profile",), "--out is required"),
        (("profile", "--out", "x", "--compression", "int3"), "compression must be among"),
        (("train-controller", "--log", "/no/such/log", "--out", "x"), "log must be a folder"),
        (("demo", "--quick", "--config", "x"), "--quick must not be given with --config"),
        (("demo", "--num-rounds", "0"), "num_rounds must be >= 1"),
        (("demo", "--json", "/"), "--json must name a file in a folder that exists"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run: Run, argv: tuple[str, ...], message: str) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, ""), err
    assert message in err
    assert_one_line(err)


def test_quick_is_an_option_of_the_command_line_only(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "demo.yaml"
    config.write_text("quick: true\n")
    code, _, err = run("demo", "--config", str(config))
    assert code == 2 and "unknown key 'quick'" in err
    assert_one_line(err)
    assert "--quick" in run("demo", "--help")[1]
    assert with_sizes(["--quick", "--seed", "1"])[1:] == [str(shipped_config("demo_quick.yaml")), "--seed", "1"]


def test_model_that_is_no_causal_language_model_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    code, _, err = run(*GENERATE, "--model", str(tmp_path))
    assert code == 2 and "must be a causal language model" in err
    assert_one_line(err)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "existing file"),
        ("", "at least one prompt"),
        ('{"prompt": "the cat", "task": "a"}\n{"prompt": \n', "prompts.jsonl:2:"),
        ('{"prompt": "the cat"}\n{"task": "a"}\n', "prompts.jsonl:2:"),
    ],
    ids=["missing", "empty", "broken", "without-prompt"],
)
def test_bad_prompts_file(run: Run, tmp_path: Path, tiny_model_dir: Path, content: str | None, message: str) -> None:
    prompts = tmp_path / "prompts.jsonl"
    if content is not None:
        prompts.write_text(content)
    code, _, err = run(
        "profile", "--model", str(tiny_model_dir), "--prompts", str(prompts), "--out", str(tmp_path / "log")
    )
    assert code == 2 and message in err
    assert_one_line(err)


def test_exit_layer_out_of_range(run: Run, tmp_path: Path, tiny_model_dir: Path) -> None:
    argv = ("--model", str(tiny_model_dir), "--prompts", "demo", "--out", str(tmp_path / "log"), "--exit-layers", "31")
    code, _, err = run("profile", *argv)
    assert code == 2 and "exit_layer must be in [0, 3] for a 4-layer model, got 31" in err
    assert_one_line(err)


def test_output_folder_that_holds_something_else(run: Run, tmp_path: Path, tiny_model_dir: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = run("profile", "--model", str(tiny_model_dir), "--out", str(tmp_path))
    assert code == 2 and "out must be empty" in err
    assert_one_line(err)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_generate_prints_text_on_stdout_and_figures_on_stderr(
    run: Run, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "report.json"
    argv = ("generate", "--model", str(tiny_model_dir), "--prompt", "the cat sat on", "--max-new-tokens", "8")
    argv += ("--policy", "plain")
    code, out, err = run(*argv, "--json", str(report))
    assert code == 0 and out.strip()
    assert "tokens/s" in err and err.count("\n") == 1
    content = json.loads(report.read_text())
    assert content["text"].strip() == out.strip()
    (row,) = content["rows"]
    assert row["method"] == "plain" and row["tokens_per_step"] == 1.0 and row["acceptance_rate"] is None

    assert run(*argv, "--stream")[1].split() == out.split()
    code, out, _ = run(*argv, "--json", "-")
    assert code == 0 and json.loads(out)["schema"] == 1

    monkeypatch.setattr("sys.stdin", _Stdin("the cat sat on"))
    assert run(*argv[:3], "--prompt", "-", "--max-new-tokens", "8")[1].strip() == content["text"].strip()


def test_a_model_that_samples_and_penalises_by_default_is_decoded_greedily(
    run: Run, tmp_path: Path, tiny_model_dir: Path
) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    file = model / "generation_config.json"
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1, "suppress_tokens": [5]}
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    argv = ("generate", "--prompt", "the cat sat on", "--max-new-tokens", "24", "--model")
    code, out, err = run(*argv, str(model))
    assert code == 0, err
    assert out == run(*argv, str(tiny_model_dir))[1]


def test_threads_are_one_unless_asked_for(run: Run, tiny_model_dir: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        argv = (*GENERATE, "--model", str(tiny_model_dir), "--max-new-tokens", "1")
        for options, expected in (((), 1), (("--threads", "2"), 2)):
            torch.set_num_threads(3)
            code, _, err = run(*argv, *options)
            assert (code, torch.get_num_threads()) == (0, expected), err
    finally:
        torch.set_num_threads(before)


class _Stdin:
    def __init__(self, text: str) -> None:
        self._text = text

    def read(self) -> str:
        return self._text


def test_help_of_every_command_needs_no_optional_package(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import: Any = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in EXTRA_OF_MODULE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for command in command_line.COMMANDS:
        code, out, _ = run(command, "--help")
        assert code == 0 and f"usage: specbound {command}" in out
