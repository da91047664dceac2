"""The profiling config: refused values are named."""

import os
import subprocess
import sys

import pytest

from specbound_controller.errors import InputError
from specbound_profiling.recording.config import ProfileConfig, auto_exit_layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compression": ("none", "int4")}, "compression must be among none, bf16, fp16, int8, nf4, got 'int4'"),
        ({"compression": ()}, "compression must name at least one"),
        ({"compression": ("none", "none")}, "compression must not repeat a level"),
        ({"max_new_tokens": 1}, "max_new_tokens must be >= 2, got 1"),
        ({"num_prompts": 0}, "num_prompts must be >= 1, got 0"),
        ({"shard_prompts": 0}, "shard_prompts must be >= 1"),
        ({"exactness": "exact"}, "exactness must be one of auto, token, bitwise, got 'exact'"),
        ({"rollout_rate": -0.1}, r"rollout_rate must be in \[0, 1\], got -0.1"),
        ({"rollout_width": 0}, "rollout_width must be >= 1, got 0"),
        ({"temperature": 0.7}, "temperature, top_k and top_p need sample"),
        ({"sample": True, "top_p": 0.0}, "top_p must be above 0"),
        ({"temperatures": (1.5, 2.0)}, r"temperatures must ascend and 1\.0 be among them"),
        ({"temperatures": ()}, r"1\.0 be among them, got \(\)"),
        ({"temperatures": (1.0, 0.5)}, "temperatures must ascend"),
        ({"temperatures": (1.0, 1.0)}, "temperatures must ascend"),
        ({"temperatures": (0.0, 1.0)}, "temperatures must be numbers above 0"),
        ({"temperatures": (1.0, float("inf"))}, "temperatures must be numbers above 0"),
    ],
)
def test_bad_value_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ProfileConfig(out="log", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperatures", [(0.5, 0.75, 1.0, 2.0), (1.0,), (0.5, 1.0)])
def test_temperatures_may_lie_below_1(temperatures: tuple[float, ...]) -> None:
    assert ProfileConfig(out="log", temperatures=temperatures).temperatures == temperatures


def test_exit_layer_outside_the_model_is_refused_with_the_range() -> None:
    with pytest.raises(InputError, match=r"exit_layer must be in \[0, 27\] for a 28-layer model, got 31"):
        ProfileConfig(out="log", exit_layers=(2, 31)).exits_for(28)
    with pytest.raises(InputError, match="at least one layer above 0, got none"):
        ProfileConfig(out="log", exit_layers=()).exits_for(28)
    with pytest.raises(InputError, match="at least 2 layers"):
        ProfileConfig(out="log").exits_for(1)


def test_exit_layers_are_sorted_and_automatic_ones_cover_the_shallower_half() -> None:
    assert ProfileConfig(out="log", exit_layers=(4, 2, 4)).exits_for(8) == (2, 4)
    assert ProfileConfig(out="log").exits_for(12) == (0, 1, 2, 3, 4, 5, 6)
    assert auto_exit_layers(2) == (0, 1) and auto_exit_layers(3) == (0, 1)
    deep = auto_exit_layers(80)
    assert len(deep) == 9 and deep[:2] == (0, 1) and deep[-1] == 40


def test_all_levels_but_none_are_recorded_bitwise_unless_asked_otherwise() -> None:
    auto, token = ProfileConfig(out="log"), ProfileConfig(out="log", exactness="token")
    assert [auto.exactness_of(level) for level in ("none", "bf16", "nf4")] == ["token", "bitwise", "bitwise"]
    assert token.exactness_of("bf16") == "token"


def test_config_imports_no_torch() -> None:
    code = "import sys, specbound_profiling.recording.config; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
