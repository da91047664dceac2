"""Who enters the last race of a fit: the winners of the first ones. Decodes nothing."""

from collections.abc import Mapping
from typing import Any

from specbound_controller.actions import PLAIN, static_grid
from specbound_controller.policy_names import reads_exits
from specbound_controller.settings import is_setting

BEHIND = 0.97
"""Over plain decoding in its own race: what is slower does not enter the last one."""
FREE_TREE = "free_tree"
"""Enters where any tree does: it chooses its size by price."""


def raced(found: Mapping[str, Any]) -> dict[str, float]:
    """Policy -> speed over plain decoding in its race: fixed settings, then trees, the fastest first in each.

    found: a `StaticChoice` and a `TreeChoice` as plain values, by the names `static` and `tree`.
    """
    static, trees = found["static"], found["tree"]["ranking"]
    actions = {action.name: action for action in static_grid(static["exit_layers"])}
    speeds = {}
    for each in static["ranking"]:
        is_annealed = static["alpha"] and actions[each["name"]].score == "annealed"
        alpha = f",alpha{static['alpha']:.4g}" if is_annealed else ""
        speeds[f"static:{each['name']}{alpha}"] = float(each["over_plain"])
    speeds |= {each["name"]: float(each["over_plain"]) for each in trees}
    return {name: speed for name, speed in speeds.items() if name not in (PLAIN.name, f"static:{PLAIN.name}")}


def finalists(speeds: Mapping[str, float], has_trained: bool) -> list[str]:
    """Names of the winners that are not far behind plain decoding.

    speeds: as `raced` returns them. has_trained: the model has trained exits, and the fastest that reads exits and the
    fastest that reads none enter in any case, so that what the exits bring can be said.
    """
    by_speed = sorted(speeds, key=lambda name: -speeds[name])
    static = next((name for name in by_speed if is_setting(name)), None)
    tree = next((name for name in by_speed if not is_setting(name)), None)
    names = [name for name in (static, tree) if name is not None and speeds[name] >= BEHIND]
    if tree in names:
        names.append(FREE_TREE)
    if has_trained:
        names += [next((n for n in by_speed if reads_exits(n) is reads), "") for reads in (True, False)]
    return list(dict.fromkeys(filter(None, names)))
