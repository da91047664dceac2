"""The direction of imports (one way), and what `--help` may load."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "specbound": ROOT / "specbound",
    "specbound_controller": ROOT / "controller" / "specbound_controller",
    "specbound_profiling": ROOT / "profiling" / "specbound_profiling",
    "specbound_train": ROOT / "train" / "specbound_train",
}
MODEL_SIDE = ("transformers", "tokenizers", "huggingface_hub", "datasets", "pyarrow", "jsonargparse", "rich")
TRAINING_ONLY = ("lightning", "pytorch_lightning", "wandb", "sklearn", "tensorboard", "torchmetrics")

FORBIDDEN = {
    "specbound_controller": (
        "specbound",
        "specbound_profiling",
        "specbound_train",
        *MODEL_SIDE,
        *TRAINING_ONLY,
    ),
    "specbound.decoding": ("specbound_profiling", "specbound_train", "specbound.cli", "specbound.demo", *TRAINING_ONLY),
    "specbound.loading": ("specbound_profiling", "specbound_train", "specbound.cli", *TRAINING_ONLY),
    "specbound_profiling": ("specbound_train", "specbound.cli", "specbound.demo", *TRAINING_ONLY),
    "specbound_train": ("specbound.cli", "specbound.demo"),
    "specbound": TRAINING_ONLY,
}
"""Package or module -> what it and everything below it must not import, at any place."""


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            yield ".".join(parts).removesuffix(".__init__"), path


def imported(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """Every imported dotted name and its line; `from a import b` counts as `a` and as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*parent, *([base] if base else [])])
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    found = []
    for name, line in imported(ast.parse(source), module, is_package):
        for package, forbidden in FORBIDDEN.items():
            if not is_below(module, package):
                continue
            found += [f"{module}:{line} imports {name}" for bad in forbidden if is_below(name, bad)]
        if is_below(name, "specbound.cli") and not is_below(module, "specbound.cli") and module != "specbound.__main__":
            found.append(f"{module}:{line} imports the command line ({name})")
    return found


def test_imports_go_one_way() -> None:
    found = [
        violation
        for module, path in modules()
        for violation in violations(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("specbound_controller.policy", "import transformers"),
        ("specbound_controller.policy", "def f():\n    from specbound.decoding import decoder"),
        ("specbound.decoding.decoder", "from specbound_profiling import replay"),
        ("specbound_profiling.log", "import lightning.pytorch"),
        ("specbound_profiling.log", "from specbound import cli"),
        ("specbound.loading", "from .cli import main"),
        ("specbound.demo", "import wandb"),
    ],
)
def test_the_check_sees_a_wrong_import(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("specbound_profiling.record", "from specbound.decoding.adapter import ModelAdapter"),
        ("specbound_train.train", "import lightning\nfrom specbound_profiling.log import open_log"),
        ("specbound.demo", "from specbound_train.train import train_controller"),
    ],
)
def test_the_check_lets_a_right_import_pass(module: str, source: str) -> None:
    assert not violations(module, source)


EXTRAS = (*TRAINING_ONLY, "datasets", "pyarrow", "scipy", "bitsandbytes", "accelerate")


def test_generate_needs_no_extra() -> None:
    """What `specbound.generation` and the public names import at module level, followed through our own modules."""
    sources = dict(modules())
    waiting = [
        "specbound.generation",
        "specbound.decoding.decoder",
        "specbound.loading",
        "specbound_controller.controller",
    ]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen or module not in sources:
            continue
        seen.add(module)
        tree = ast.parse(sources[module].read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [name for name, _ in imported(tree, module, sources[module].name == "__init__.py")]
        assert not [name for name in names for extra in EXTRAS if is_below(name, extra)], module
        waiting += names
    assert len(seen) > 10


def test_no_source_root_is_itself_a_package() -> None:
    roots = [folder.parent for package, folder in PACKAGES.items() if package != "specbound"]
    assert not [root for root in roots if (root / "__init__.py").exists()]


HEAVY = (
    *("torch", "transformers", "numpy.testing", "lightning", "sklearn", "pyarrow", "datasets", "pandas", "scipy"),
    "matplotlib",
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["profile", "--help"],
        ["train-controller", "--help"],
        ["tune", "--help"],
        ["replay", "--help"],
        ["report", "--help"],
        ["sensitivity", "--help"],
        ["ablation", "--help"],
        ["generate", "--help"],
        ["verify", "--help"],
        ["evaluate", "--help"],
        ["bench", "--help"],
        ["demo", "--help"],
    ],
    ids=" ".join,
)
def test_help_loads_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from specbound.cli.main import main\n"
        "try:\n"
        f"    code = main({arguments!r})\n"
        "except SystemExit as stop:\n"
        "    code = stop.code\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])\n"
        "raise SystemExit(code)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=source_environment())
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("loaded: []\n"), result.stdout[-300:]


def test_help_answers_within_half_a_second() -> None:
    """Processor seconds: on a busy machine the wall clock measures the others."""
    times = []
    for _ in range(3):
        before = os.times()
        command = [sys.executable, "-m", "specbound", "--help"]
        subprocess.run(command, check=True, env=source_environment(), stdout=subprocess.DEVNULL)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(times) < 0.5


def source_environment() -> dict[str, str]:
    """This process's environment with the four source roots on the path."""
    roots = [str(ROOT), *(str(ROOT / folder) for folder in ("controller", "profiling", "train"))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
