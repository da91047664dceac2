"""Attention in which a query row gets the same bits alone and among others: one call per row, on the keys it sees.

Knows masks and attention kernels; nothing of projections.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from specbound_controller.errors import UnsupportedModelError

# B sequences, n new tokens, H heads, D width of a head, K keys


def row_stable_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """One attention call per query row, on exactly the keys it sees, as plain decoding makes it.

    On a GPU one call for each sequence as well: kernels there divide the keys among processors by the number of
    sequences. query: (B, H, n, D); key, value: (B, key-value heads, K, D). Returns (B, n, H, D).
    """
    attend = _sdpa_row if module.own_config._attn_implementation == "sdpa" else _eager_row
    sights = getattr(attention_mask, "tree_sights", None)
    if sights is not None:
        sequences = [
            _tree_rows(
                functools.partial(attend, module), query[b : b + 1], key[b : b + 1], value[b : b + 1], sight, options
            )
            for b, sight in enumerate(sights)
        ]
        return torch.cat(sequences) if len(sequences) > 1 else sequences[0], None
    ranges = visible_ranges(attention_mask, query.shape[2], key.shape[2])
    rows = []
    for index, spans in enumerate(ranges):
        one = query[:, :, index : index + 1]
        if len(spans) == 1 and (query.shape[0] == 1 or query.device.type == "cpu"):
            keys = slice(*spans[0])
            rows.append(attend(module, one, key[:, :, keys], value[:, :, keys], options))
            continue
        sequences = []
        for b, span in enumerate(spans * (query.shape[0] // len(spans))):
            keys, own = slice(*span), slice(b, b + 1)
            sequences.append(attend(module, one[own], key[own, :, keys], value[own, :, keys], options))
        rows.append(torch.cat(sequences))
    return torch.cat(rows, dim=1) if len(rows) > 1 else rows[0], None


@dataclass(frozen=True, slots=True)
class TreeSight:
    """What the nodes of one tree see of the keys of a call."""

    start: int
    """The key of the tree's root; the keys before it are those of the text, those after it the nodes in their order."""
    firsts: list[int]
    """The first key that each query sees."""
    paths: list[list[int]]
    """Nodes on the path from the root to each query, itself included."""


def _tree_rows(
    attend: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, sight: TreeSight, options: dict[str, Any]
) -> Tensor:
    """One call per node, on the text and its path as plain decoding would hold them: side by side, in order.

    The nodes' keys and values change places for that and are put back. (1, H, n, D) -> (1, n, H, D)
    """
    start = sight.start
    nodes = key[:, :, start:].clone(), value[:, :, start:].clone()
    standing = list(range(nodes[0].shape[2]))  # node at each place from the start on
    rows = []
    for index in range(query.shape[2]):
        path = sight.paths[min(index, len(sight.paths) - 1)]
        for place, node in enumerate(path):
            if standing[place] != node:
                standing[place] = node
                for held, own in zip((key, value), nodes, strict=True):
                    held[:, :, start + place].copy_(own[:, :, node])
        seen = slice(sight.firsts[min(index, len(sight.firsts) - 1)], start + len(path))
        rows.append(attend(query[:, :, index : index + 1], key[:, :, seen], value[:, :, seen], options))
    for held, own in zip((key, value), nodes, strict=True):
        held[:, :, start:] = own
    return torch.cat(rows, dim=1)


def _sdpa_row(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    if options.get("softcap") is not None:
        raise UnsupportedModelError("sdpa attention cannot soft-cap its scores: use attn_implementation='eager'")
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, scale=options.get("scaling"), enable_gqa=query.shape[1] != key.shape[1]
    )
    return output.transpose(1, 2).contiguous()


def _eager_row(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    family = sys.modules[type(module).__module__]
    return family.eager_attention_forward(module, query.contiguous(), key, value, None, **options)[0]


def causal_ranges(num_queries: int, num_keys: int, window: int | None) -> list[list[tuple[int, int]]]:
    """What `visible_ranges` finds in the mask of the last queries of a text, without reading it from a device."""
    ends = range(num_keys - num_queries + 1, num_keys + 1)
    return [[(0 if window is None else max(0, end - window), end)] for end in ends]


def visible_ranges(mask: Tensor | None, num_queries: int, num_keys: int) -> list[list[tuple[int, int]]]:
    """First and last + 1 key of each query: one pair for all sequences where they agree, else one pair for each.

    mask: additive (1 or B, 1, n, K), zero where a key is seen; None is causal. All layers of a call get the same
    mask tensor, so that the answer is kept on it.
    """
    if mask is None:
        return [[(0, num_keys - num_queries + 1 + index)] for index in range(num_queries)]
    known = getattr(mask, "visible_ranges", None)
    if known is not None:
        return known
    seen = (mask if mask.dtype == torch.bool else mask == 0)[:, 0].int()
    last = seen.shape[-1] - seen.flip(-1).argmax(-1)
    first, last, count = torch.stack((seen.argmax(-1), last, seen.sum(-1))).transpose(1, 2).tolist()
    ranges = []
    for index in range(num_queries):
        spans = []
        for low, high, seen_keys in zip(first[index], last[index], count[index], strict=True):
            if seen_keys not in (0, high - low):
                raise UnsupportedModelError("bitwise exactness needs masks that show each token one run of keys")
            spans.append((low, high))  # a token that sees nothing is padding: it gets all keys, and no one reads it
        ranges.append(spans if len(set(spans)) > 1 else spans[:1])
    mask.visible_ranges = ranges  # type: ignore[attr-defined]
    return ranges
