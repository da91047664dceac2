"""The direction of imports (one way), and what `--help` may load."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
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

ORDER = (
    "specbound_controller",
    "specbound.decoding.sampling_config",
    "specbound.decoding.model",
    "specbound.decoding",
    "specbound.assets",
    "specbound.models",
    "specbound.stores.folder",
    "specbound.stores.bigrams",
    "specbound.stores.own_text",
    "specbound.results.files",
    "specbound.stores.text",
    "specbound.exits",
    "specbound_profiling",
    "specbound_train",
    "specbound.results",
    "specbound.pricing",
    "specbound.stores",
    "specbound.policies",
    "specbound.fitted",
    "specbound.evaluation",
    "specbound.generation",
    "specbound.serve",
    "specbound.chat",
    "specbound.analysis",
    "specbound.bench",
    "specbound.fit",
    "specbound.demo",
    "specbound.cli",
)
"""The rooms, from the ground up: none imports one that stands later. `specbound` itself and `__main__` are the door."""

FORBIDDEN = {
    "specbound_controller": (*MODEL_SIDE, *TRAINING_ONLY),
    "specbound.decoding": TRAINING_ONLY,
    "specbound_profiling": TRAINING_ONLY,
    "specbound": TRAINING_ONLY,
}
"""Package -> libraries that it and everything below it must not import, at any place."""


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


def room_of(name: str) -> int | None:
    """Place in `ORDER` of the innermost room that holds a module; None for the door and for other libraries."""
    held = [(len(room), place) for place, room in enumerate(ORDER) if is_below(name, room)]
    return max(held)[1] if held else None


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    found = []
    here = room_of(module)
    for name, line in imported(ast.parse(source), module, is_package):
        for package, forbidden in FORBIDDEN.items():
            if is_below(module, package):
                found += [f"{module}:{line} imports {name}" for bad in forbidden if is_below(name, bad)]
        there = room_of(name)
        if here is not None and there is not None and there > here:
            found.append(f"{module}:{line} imports {name}, but {ORDER[there]} stands above {ORDER[here]}")
    return found


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others (Tarjan's components of two or more)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == number[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in number:
            visit(node)
    return found


def import_graph(sources: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module -> our modules that it imports at any place, functions included; a package that is only passed through
    on the way to one of its modules does not count."""
    graph = {}
    for module, path in sources.items():
        names = {name for name, _ in imported(ast.parse(path.read_text("utf-8")), module, path.name == "__init__.py")}
        found = names & sources.keys()
        packages = {name for name in found if any(is_below(other, name) and other != name for other in found)}
        graph[module] = found - packages - {module}
    return graph


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert not circles(import_graph(dict(modules())))


def test_circles_are_seen_and_chains_are_not() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert not circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})


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
        ("specbound_profiling.log.store", "import lightning.pytorch"),
        ("specbound_profiling.log.store", "from specbound import cli"),
        ("specbound.models.loading", "from ..cli import main"),
        ("specbound.evaluation.rows", "from specbound.analysis.live import LiveItem"),
        ("specbound.demo.run", "import wandb"),
        ("specbound.generation.generate", "from specbound.serve.engine import Engine"),
    ],
)
def test_the_check_sees_a_wrong_import(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("specbound_profiling.recording.record", "from specbound.decoding.model.adapter import ModelAdapter"),
        ("specbound_train.train", "import lightning\nfrom specbound_profiling.log.store import open_log"),
        ("specbound.demo.run", "from specbound_train.train import train_controller"),
    ],
)
def test_the_check_lets_a_right_import_pass(module: str, source: str) -> None:
    assert not violations(module, source)


EXTRAS = (*TRAINING_ONLY, "datasets", "pyarrow", "scipy", "bitsandbytes", "accelerate")


def test_generate_needs_no_extra() -> None:
    """What generating and the public names import at module level, followed through our own modules."""
    sources = dict(modules())
    waiting = [
        "specbound.generation.generate",
        "specbound.decoding.decoder",
        "specbound.models.loading",
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
        ["write", "--help"],
        ["replay", "--help"],
        ["report", "--help"],
        ["sensitivity", "--help"],
        ["ablation", "--help"],
        ["generate", "--help"],
        ["serve", "--help"],
        ["export-generate", "--help"],
        ["verify", "--help"],
        ["evaluate", "--help"],
        ["bench", "--help"],
        ["bench-serve", "--help"],
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
