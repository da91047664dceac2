"""Corrupted controller files: each is refused in one line, or says exactly what was saved."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from specbound_controller.config import content_sha256
from specbound_controller.controller import CONFIG_FILE, WEIGHTS_FILE, Controller
from specbound_controller.costs import CostTable
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import InputError

NASTY_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 10**400, -(10**19), 1e308, -1e308, 5e-324, 0.5, 1e10),
    *("", "none", "int8", "x" * 5000, "\ud800", "nan", [], [[]], {}, [None], {"a": 1}, [0, 0], [1e308, 1e308]),
)


def outcome(folder: Path) -> Controller | None:
    """The controller, or None where it was refused as it should be. Anything else fails the test."""
    try:
        return Controller.load(folder)
    except InputError as error:
        assert "\n" not in str(error) and str(folder) in str(error) and len(str(error)) < 1000
        return None


def assert_equal(one: Controller, other: Controller) -> None:
    assert one.config == other.config
    for a, b in ((one.score_mlp, other.score_mlp), (one.step_mlp, other.step_mlp)):
        for name, array in a.arrays("").items():
            np.testing.assert_array_equal(array, b.arrays("")[name])
    np.testing.assert_array_equal(one.sample.features, other.sample.features)
    np.testing.assert_array_equal(one.sample.weights, other.sample.weights)
    assert one.draft_vocabulary == other.draft_vocabulary


def assert_decides(controller: Controller, costs: CostTable) -> None:
    """Whatever is accepted must be able to decide, with finite numbers."""
    with np.errstate(over="raise", invalid="raise"):
        for level in controller.config.compressions:
            policy = controller.policy(controller.config.costs.get(level, costs), level)
            assert np.isfinite(policy.rho) and policy.rho > 0
            features = controller.sample.features[:3]
            for row in features:
                assert policy.decide(row).w_max >= 0
                assert np.isfinite(controller.step_policy.curves(row)).all()


@pytest.fixture
def saved(controller_of: Callable[..., Controller], tmp_path: Path) -> tuple[Path, Controller]:
    controller = replace(controller_of(), draft_vocabulary=DraftVocabulary(np.arange(3, 90, 4)))
    controller.save(tmp_path)
    return tmp_path, controller


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Truncated, with flipped bits, with other bytes, with a piece missing, doubled, or full of zeros."""
    kind, place = int(rng.integers(6)), int(rng.integers(len(content)))
    end = min(len(content), place + int(rng.integers(1, 64)))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :]
    if kind == 2:
        return content[:place] + rng.bytes(end - place) + content[end:]
    if kind == 3:
        return content[:place] + content[end:]
    if kind == 4:
        return content[:end] + content[place:]
    return content[:place] + bytes(end - place) + content[end:]


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_damaged_bytes_are_refused_or_say_the_same(saved: tuple[Path, Controller], name: str) -> None:
    folder, controller = saved
    original, rng = (folder / name).read_bytes(), np.random.default_rng(1)
    num_refused = 0
    for _ in range(150):
        content = damaged(original, rng)
        (folder / name).write_bytes(content)
        loaded = outcome(folder)
        if loaded is None:
            num_refused += 1
        else:
            assert_equal(loaded, controller)
    assert num_refused >= 140
    (folder / name).write_bytes(original)
    assert outcome(folder) is not None


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value could be replaced: every key and index."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def replaced(content: dict[str, Any], path: tuple[Any, ...], rng: np.random.Generator) -> dict[str, Any]:
    """One value replaced by a nasty one, taken away, doubled, or nested in itself."""
    content = copy.deepcopy(content)
    holder: Any = content
    for key in path[:-1]:
        holder = holder[key]
    kind = int(rng.integers(8))
    if kind == 0:
        del holder[path[-1]]
    elif kind == 1 and isinstance(holder, list):
        holder.append(holder[path[-1]])
    elif kind == 2:
        holder[path[-1]] = [holder[path[-1]]]
    else:
        holder[path[-1]] = NASTY_VALUES[int(rng.integers(len(NASTY_VALUES)))]
    return content


def test_signed_config_with_wrong_values_is_refused_or_decides(
    saved: tuple[Path, Controller], costs_of: Callable[..., CostTable]
) -> None:
    """The checksum is right, so that every check behind it is met."""
    folder, _ = saved
    content = json.loads((folder / CONFIG_FILE).read_text())
    rng, every = np.random.default_rng(2), list(places(content))
    tops = [path for path in every if len(path) == 1 and path[0] != "config_sha256"]
    num_refused = 0
    for trial in range(300):
        chosen = tops if trial % 2 else every
        wrong = replaced(content, chosen[int(rng.integers(len(chosen)))], rng)
        wrong["config_sha256"] = content_sha256(wrong)
        (folder / CONFIG_FILE).write_text(json.dumps(wrong))
        loaded = outcome(folder)
        if loaded is None:
            num_refused += 1
        else:
            assert_decides(loaded, costs_of())
    assert num_refused > 200


def sign(folder: Path, weights: bytes) -> None:
    """Writes the weights, and a config that names them."""
    (folder / WEIGHTS_FILE).write_bytes(weights)
    content = json.loads((folder / CONFIG_FILE).read_text())
    content["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    content["config_sha256"] = content_sha256(content)
    (folder / CONFIG_FILE).write_text(json.dumps(content))


def test_signed_weights_with_wrong_values_are_refused_or_decide(
    saved: tuple[Path, Controller], costs_of: Callable[..., CostTable]
) -> None:
    folder, _ = saved
    original = load_arrays((folder / WEIGHTS_FILE).read_bytes())
    rng, values = np.random.default_rng(3), (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20, 1e-45, 0.0, -1.0)
    names = sorted(name for name, array in original.items() if array.dtype == np.float32)
    num_refused = 0
    for trial in range(150):
        arrays = {name: array.copy() for name, array in original.items()}
        name, kind = names[trial % len(names)], trial % 7
        if kind < 3:
            arrays[name].flat[int(rng.integers(arrays[name].size))] = values[int(rng.integers(len(values)))]
        elif kind == 3:
            arrays[name] = arrays[name][..., :-1].copy()
        elif kind == 4:
            arrays[name] = arrays[name].astype((np.float64, np.int32, np.float16, np.bool_)[int(rng.integers(4))])
        elif kind == 5:
            arrays[name] = arrays[name][None]
        else:
            arrays[f"{name}2"] = arrays.pop(name)
        sign(folder, save_arrays(arrays))
        loaded = outcome(folder)
        if loaded is None:
            num_refused += 1
        else:
            assert_decides(loaded, costs_of())
    assert num_refused > 90


def test_signed_weights_with_a_damaged_header_are_refused(saved: tuple[Path, Controller]) -> None:
    folder, controller = saved
    original = (folder / WEIGHTS_FILE).read_bytes()
    size, rng = int.from_bytes(original[:8], "little"), np.random.default_rng(4)
    header = original[8 : 8 + size]
    for dtype in ("BF16", "F8_E4M3", "I64", "U8", "F99"):
        other = header.replace(b'"F32"', f'"{dtype}"'.encode(), 1).ljust(size + 8)
        sign(folder, len(other).to_bytes(8, "little") + other + original[8 + size :])
        assert outcome(folder) is None
    for _ in range(100):
        place = int(rng.integers(8 + size))
        content = original[:place] + rng.bytes(1) + original[place + 1 :]
        sign(folder, content)
        loaded = outcome(folder)
        if loaded is not None and content != original:  # such as a space in the header, or two arrays of one shape
            assert loaded.config.actions == controller.config.actions


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace('"alpha": 0.25', '"alpha": 0.5'), "config_sha256"),
        (lambda text: text.replace('"alpha": 0.25', '"alpha": 0.25, "alpha": 0.25'), "stands twice"),
        (lambda text: text.replace('"alpha": 0.25', '"alpha": NaN'), "finite"),
        (lambda text: text.replace('"alpha": 0.25', '"alpha": 0.25, "beta": 1'), "unknown key 'beta'"),
        (
            lambda text: text.replace('"schema": 3', '"schema": 2'),
            "schema must be 3, got 2: train the controller again",
        ),
        (lambda text: text.replace('"summary": ', '"summary": ' + '{"a":' * 100_000), "config"),
        (lambda text: text.replace('"seed": 0', '"seed": ' + "9" * 5000), "config"),
    ],
    ids=["number", "twice", "nan", "unknown", "old-schema", "deep", "huge"],
)
def test_what_json_would_let_pass_is_refused(
    saved: tuple[Path, Controller], change: Callable[[str], str], reason: str
) -> None:
    folder, _ = saved
    text = (folder / CONFIG_FILE).read_text()
    assert change(text) != text
    (folder / CONFIG_FILE).write_text(change(text))
    with pytest.raises(InputError, match=reason):
        Controller.load(folder)


def test_network_that_looks_at_the_level_is_refused_where_the_config_says_that_none_does(
    controller_of: Callable[..., Controller],
) -> None:
    with pytest.raises(ValueError, match="must not look at the compression level"):
        controller_of(without_compression=True)
