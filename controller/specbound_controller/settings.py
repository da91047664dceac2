"""Fixed settings by name and in words: `static:lookup0.5+exit4,width2`, and the compact names that tables print.

    static:SOURCE[+SOURCE...][,widthN][,alphaA][,product]        static:COMPACT_NAME[,alphaA]

A source is `lookupT` (the context, where its confidence is at least T) or `exitE[@T]` (exit layer E; without a
threshold it drafts always). Knows no model.
"""

import re
from dataclasses import dataclass, replace

from specbound_controller.errors import InputError
from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import StaticPolicy
from specbound_controller.trees.names import EXIT_TREE

PREFIX = "static:"
FORM = "static:lookup0.5+exit4,width2 (sources lookupT and exitE[@T], then widthN, alphaA, product)"
"""The grammar by an example, for messages."""
WIDTH = 4
"""Most draft tokens where a name says nothing."""

_NUMBER = r"\d+(?:\.\d+)?"
_LOOKUP = re.compile(rf"lookup({_NUMBER})")
_EXIT = re.compile(rf"exit([1-9]\d{{0,3}})(?:@({_NUMBER}))?")
_ACTION = re.compile(
    rf"(?:lookup({_NUMBER})_)?(?:exit([1-9]\d{{0,3}})|(lookup))_width(\d+)(?:_(annealed|learned)({_NUMBER})(_token)?)?"
)
_TREE = re.compile(r"(tree|chain)(\d+)")
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


@dataclass(frozen=True, slots=True)
class Setting:
    """One decision for every step, as a user writes it."""

    exits: tuple[tuple[int, float], ...]
    """(exit layer, threshold), in the order in which they are tried; layer 0 is the context."""
    width: int = WIDTH
    alpha: float = 0.0
    """Strength of annealing."""
    combine: str = "token"
    """`token` or `product`: what is compared with the thresholds."""

    @staticmethod
    def parse(name: str) -> "Setting":
        """The setting of a name. Raises InputError, one line with the form, where it is none."""
        sources, *options = name.removeprefix(PREFIX).split(",")
        action = _ACTION.fullmatch(sources)
        if action is not None:
            return replace(_of_action(action, name), **_options(options, name))  # type: ignore[arg-type]
        exits = tuple(_source(source, name) for source in sources.split("+"))
        setting = Setting(exits, **_options(options, name))  # type: ignore[arg-type]
        layers = [layer for layer, _ in exits]
        if layers != sorted(set(layers)):
            raise InputError(f"policy {name!r} must name the context first and then exits, shallow to deep, each once")
        return setting

    def policy(self, guarded: bool = False) -> StaticPolicy:
        """It at every step."""
        layers, thresholds = zip(*self.exits, strict=True)
        return StaticPolicy(layers, thresholds, self.width, alpha=self.alpha, combine=self.combine, guarded=guarded)

    @property
    def words(self) -> str:
        """Such as `context ≥ 0.35, else exit 2, two tokens`."""
        parts = [_source_words(layer, threshold) for layer, threshold in self.exits]
        whole = " (the whole draft)" if self.combine == "product" else ""
        return f"{', else '.join(parts)}{whole}, {_tokens(self.width)}"


def is_setting(name: str) -> bool:
    """Whether a name means a fixed setting."""
    return name.startswith(PREFIX)


def is_option(text: str) -> bool:
    """Whether a text is an option of a fixed setting: `widthN`, `alphaA`, `token` or `product`."""
    return re.fullmatch(rf"width\d+|alpha{_NUMBER}|token|product", text) is not None


def in_words(name: str) -> str:
    """What a compact name of a setting or of a tree means; other names as they are, without underscores."""
    if name == "plain":
        return "plain decoding"
    if EXIT_TREE.fullmatch(name):
        layer, size = name.removeprefix("exit").split("_tree")
        return f"tree of {size} drafts, exit {layer} among its sources"
    tree = _TREE.fullmatch(name)
    if tree is not None:
        return f"{'tree' if tree[1] == 'tree' else 'chain'} of {tree[2]} drafts that cost no layer"
    if name == "free_tree":
        return "tree of drafts that cost no layer, sized by price"
    action = _ACTION.fullmatch(name)
    if action is not None:
        return _setting_of(action).words if action[5] != "learned" else _learned_words(action)
    if is_setting(name):
        return Setting.parse(name).words
    return name.replace("_", " ")


def both(name: str) -> str:
    """A setting or a tree in words, with its name behind it; plain decoding in words alone."""
    return in_words(name) if name == "plain" else f"{in_words(name)} ({name})"


def _of_action(found: re.Match[str], name: str) -> Setting:
    if found[5] == "learned":
        raise InputError(f"policy {name!r} has a learned score, which only a controller brings: name the controller")
    return _checked(_setting_of(found), name)


def _setting_of(found: re.Match[str]) -> Setting:
    first, layer, lookup, width, score, threshold, by_token = found.groups()
    own = (LOOKUP_EXIT if lookup else int(layer), float(threshold or 0.0))
    exits = ((LOOKUP_EXIT, float(first)), own) if first else (own,)
    combine = "token" if by_token or score is None else "product"
    return Setting(exits, int(width), combine=combine)


def _learned_words(found: re.Match[str]) -> str:
    """Of an action whose threshold is for the chance of acceptance that a controller gives."""
    setting = _setting_of(found)
    *before, (layer, threshold) = setting.exits
    parts = [
        *(_source_words(*each) for each in before),
        f"{_source_words(layer, 0.0)} where its chance ≥ {threshold:g}",
    ]
    whole = " (the whole draft)" if setting.combine == "product" else ""
    return f"{', else '.join(parts)}{whole}, {_tokens(setting.width)}"


def _source(text: str, name: str) -> tuple[int, float]:
    lookup, exit_layer = _LOOKUP.fullmatch(text), _EXIT.fullmatch(text)
    if lookup is not None:
        return _checked_source((LOOKUP_EXIT, float(lookup[1])), name)
    if exit_layer is not None:
        return _checked_source((int(exit_layer[1]), float(exit_layer[2] or 0.0)), name)
    raise InputError(f"policy {name!r} must look like {FORM}, got the source {text!r}")


def _options(options: list[str], name: str) -> dict[str, int | float | str]:
    found: dict[str, int | float | str] = {}
    for option in options:
        width, alpha = re.fullmatch(r"width(\d{1,3})", option), re.fullmatch(rf"alpha({_NUMBER})", option)
        if width is not None and int(width[1]) >= 1:
            found["width"] = int(width[1])
        elif alpha is not None:
            found["alpha"] = float(alpha[1])
        elif option in ("token", "product"):
            found["combine"] = option
        else:
            raise InputError(f"policy {name!r} must look like {FORM}, got {option!r}")
    return found


def _checked(setting: Setting, name: str) -> Setting:
    for source in setting.exits:
        _checked_source(source, name)
    if setting.width < 1:
        raise InputError(f"policy {name!r} must have a width of at least 1; plain decoding is the policy plain")
    return setting


def _checked_source(source: tuple[int, float], name: str) -> tuple[int, float]:
    layer, threshold = source
    if not threshold <= 1.0 or (layer == LOOKUP_EXIT and threshold == 0.0):
        least = "above 0, because a lookup may find nothing, and" if layer == LOOKUP_EXIT else "at least 0 and"
        raise InputError(f"policy {name!r} must have thresholds {least} at most 1, got {threshold:g}")
    return source


def _source_words(layer: int, threshold: float) -> str:
    what = "context" if layer == LOOKUP_EXIT else f"exit {layer}"
    return f"{what} ≥ {threshold:g}" if threshold else what


def _tokens(width: int) -> str:
    count = _NUMBERS[width] if width < len(_NUMBERS) else str(width)
    return f"{count} token{'s' if width != 1 else ''}"
