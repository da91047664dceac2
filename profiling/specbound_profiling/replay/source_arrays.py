"""Sources that cost no layer, asked at many places of many texts at once: what `DraftSource.propose` says there, as
arrays.

Equal to the sources themselves (a test compares the trees). A place is a text, how many of its tokens are committed,
and the newest tokens of a path that begins there. Knows no tree and no rates.
"""

# T tokens of all texts, n places, R rows of an index

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.sources import context, own_text
from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.own_text import OwnText
from specbound_controller.sources.source import MOST_CANDIDATES, TAIL
from specbound_controller.sources.stores import Stores
from specbound_profiling.log.trace import PromptTrace

NOTHING = -1
"""In place of a token where nothing is proposed, or where no token stands."""
ARRAY_SOURCES = ("context", "own_text", "recycled", "bigrams")
"""Sources that can be asked so."""
_MULTIPLIER, _LENGTHS = np.uint64(own_text.MULTIPLIER), np.uint64(own_text.LENGTH_SEED)
_TOKEN_BITS, _POSITION_BITS = 24, 20


@dataclass(frozen=True, slots=True)
class Places:
    """Where sources are asked. All arrays are of the same n places."""

    text: np.ndarray
    """Which text. (n,) int64"""
    start: np.ndarray
    """Generated tokens. (n,) int64"""
    end: np.ndarray
    """Where the committed tokens end, among the tokens of all texts. (n,) int64"""
    tails: np.ndarray
    """Newest tokens of the path, the newest last, `NOTHING` before the text begins. (n, 8) int64"""

    def some(self, chosen: np.ndarray) -> "Places":
        """A part of them. chosen: an index, or n booleans"""
        return Places(self.text[chosen], self.start[chosen], self.end[chosen], self.tails[chosen])


class Texts:
    """Prompts and continuations of some traces, one after the other."""

    def __init__(self, traces: Sequence[PromptTrace]) -> None:
        """traces: of logs that know trees."""
        parts, self.best = [], list[np.ndarray]()
        for trace in traces:
            assert trace.prompt_tokens is not None and trace.best_tokens is not None  # the caller has checked
            parts += [trace.prompt_tokens, trace.tokens]
            self.best.append(trace.best_tokens[:, :MOST_CANDIDATES])
        self.traces = traces
        self.tokens = np.concatenate(parts).astype(np.int64)
        self.prompt_lengths = np.array([trace.prompt_length for trace in traces])
        self.num_positions = np.array([trace.num_positions for trace in traces])
        lengths = self.prompt_lengths + self.num_positions
        self.first = np.cumsum(lengths) - lengths
        """Where each text begins."""
        self.text = np.repeat(np.arange(len(traces)), lengths)
        """Of every token."""
        self._context: ContextArrays | None = None
        self._recycled: RecycledArrays | None = None

    def places(self, text: np.ndarray, start: np.ndarray) -> Places:
        """The roots of steps. text, start: (n,)"""
        end = self.first[text] + self.prompt_lengths[text] + start
        return Places(text, start, end, self.before(end, text))

    def rows(self, text: np.ndarray, start: np.ndarray | int) -> np.ndarray:
        """Where a place stands among the generated tokens of all texts, one after the other. (n,)"""
        lengths = self.num_positions
        found: np.ndarray = (np.cumsum(lengths) - lengths)[text] + start
        return found

    def before(self, end: np.ndarray, text: np.ndarray) -> np.ndarray:
        """The newest tokens before some places, `NOTHING` before the text. (n, 8)"""
        at = end[:, None] - np.arange(TAIL, 0, -1)
        return np.where(at >= self.first[text][:, None], self.tokens[np.maximum(at, 0)], NOTHING)

    def source(self, name: str, stores: Stores) -> "ArraySource":
        """One of `ARRAY_SOURCES`; its store is there."""
        if name == "context":
            self._context = self._context or ContextArrays(self)
            return self._context
        if name == "recycled":
            self._recycled = self._recycled or RecycledArrays(self)
            return self._recycled
        if name == "own_text" and stores.own_text is not None:
            return OwnTextArrays(stores.own_text)
        assert name == "bigrams" and stores.bigrams is not None  # no other source is asked in arrays
        return BigramArrays(stores.bigrams)


class SortedKeys:
    """Finds 64-bit hashes among ascending ones, by their first bits."""

    def __init__(self, keys: np.ndarray) -> None:
        """keys: ascending, each once. (R,) uint64"""
        self.keys = keys
        bits = min(20, max(1, len(keys).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._starts = np.searchsorted(keys >> self._shift, np.arange(2**bits + 1, dtype=np.uint64))

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """Places among the keys, -1 for what is not there. (n,) uint64 -> (n,) int64"""
        bucket = (wanted >> self._shift).astype(np.int64)
        at, last = self._starts[bucket], self._starts[bucket + 1]
        found = np.full(len(wanted), -1)
        rows = np.flatnonzero(at < last)
        at, last, left = at[rows], last[rows], wanted[rows]
        while len(rows):
            is_hit = self.keys[at] == left
            found[rows[is_hit]] = at[is_hit]
            stays = ~is_hit & (at + 1 < last)
            rows, at, last, left = rows[stays], at[stays] + 1, last[stays], left[stays]
        return found


class Proposals:
    """At most so many tokens for each place, each once, in the order in which they are offered."""

    def __init__(self, num_places: int, most: int) -> None:
        self.tokens = np.full((num_places, most), NOTHING)
        self.cells = np.zeros((num_places, most), dtype=np.int64)
        self._counts, self._most = np.zeros(num_places, dtype=np.int64), most

    def offer(self, rows: np.ndarray, tokens: np.ndarray, place: int, extra: np.ndarray, num_extra: int) -> None:
        """One token for some places. Its cell is that of a match, a rank and something more, as sources number them."""
        is_new = (tokens != NOTHING) & (self._counts[rows] < self._most)
        is_new &= ~(self.tokens[rows] == tokens[:, None]).any(axis=1)
        rows, rank = rows[is_new], self._counts[rows[is_new]]
        self.tokens[rows, rank] = tokens[is_new]
        self.cells[rows, rank] = (place * self._most + rank) * num_extra + extra[is_new]
        self._counts[rows] += 1


class ContextArrays:
    """`ContextSource`: every match of every text, and what followed it, the latest first."""

    def __init__(self, texts: Texts) -> None:
        tokens, text = texts.tokens, texts.text
        index = np.arange(len(tokens))
        self._seeds = _mixed(np.full(len(texts.traces), _LENGTHS), np.arange(len(texts.traces)))
        before, hashes = texts.before(index, text), self._seeds[text]
        keys, followers = [], []
        for length in range(1, TAIL + 1):
            hashes = _mixed(hashes, before[:, -length])
            if length in context.MATCHES:
                is_whole = index - texts.first[text] >= length
                keys.append(hashes[is_whole])
                followers.append(index[is_whole])
        unique, group = np.unique(np.concatenate(keys), return_inverse=True)
        order = np.argsort(group, kind="stable")
        group, follower = group[order], np.concatenate(followers)[order]
        self._keys = SortedKeys(unique)
        self._group, self._tokens = group, tokens[follower]
        self._num_tokens = len(tokens) + 1
        self._order = group * self._num_tokens + follower
        self._slots = _newest_rows(group, self._tokens, context.RANKS)
        self._is_repeated = _is_repeated(group, self._tokens)

    def propose(self, places: Places) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, and their cells. (n, 4), (n, 4)"""
        proposals, matches = Proposals(len(places.text), context.RANKS), []
        rows = np.arange(len(places.text))
        hashes = self._seeds[places.text]
        for length in range(1, TAIL + 1):
            hashes = _mixed(hashes, places.tails[rows, -length])
            if length in context.MATCHES:
                group = self._keys.find(hashes)
                newest = np.searchsorted(self._order, group * self._num_tokens + places.end[rows]) - 1
                is_match = (group >= 0) & (newest >= 0)
                is_match[is_match] = self._group[newest[is_match]] == group[is_match]
                rows, hashes = rows[is_match], hashes[is_match]
                matches.append((length, rows, newest[is_match]))
        for length, matched, newest in reversed(matches):
            for slot in range(context.RANKS):
                row = self._slots[newest, slot]
                has = row >= 0
                matched, newest, row = matched[has], newest[has], row[has]
                if len(row):
                    place = context.MATCHES.index(length)
                    proposals.offer(matched, self._tokens[row], place, self._is_repeated[row], 2)
        return proposals.tokens, proposals.cells


class OwnTextArrays:
    """`OwnTextSource`."""

    def __init__(self, store: OwnText) -> None:
        self._store, self._keys = store, SortedKeys(np.asarray(store.keys))
        self._bucket = np.array(own_text.BUCKET_OF)

    def propose(self, places: Places) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, and their cells. (n, 4), (n, 4)"""
        proposals, store = Proposals(len(places.text), own_text.RANKS), self._store
        for number, order in enumerate(own_text.ORDERS):
            keys = np.full(len(places.text), np.uint64((order * own_text.LENGTH_SEED) & own_text.MASK))
            for back in range(order, 0, -1):
                keys = _mixed(keys, places.tails[:, -back])
            found = self._keys.find(keys | np.uint64(1))
            rows = np.flatnonzero((found >= 0) & (places.tails[:, -order] != NOTHING))
            at, last = (store.starts[found[rows] + more].astype(np.int64) for more in (0, 1))
            for _ in range(own_text.RANKS):
                has = at < last
                rows, at, last = rows[has], at[has], last[has]
                if len(rows):
                    tokens = store.tokens[at].astype(np.int64)
                    extra = self._bucket[store.counts[at]]
                    proposals.offer(rows, tokens, number, extra, len(own_text.COUNT_BUCKETS))
                at = at + 1
        return proposals.tokens, proposals.cells


class RecycledArrays:
    """`RecycledSource`: the full model's best tokens at the newest verified position that held a token."""

    def __init__(self, texts: Texts) -> None:
        keys = []
        for text, (first, count) in enumerate(zip(texts.first, texts.num_positions, strict=True)):
            begin = first + texts.prompt_lengths[text] - 1
            positions = np.arange(1, count)
            keys.append(self._key(np.full(len(positions), text), texts.tokens[begin + positions], positions))
        flat = np.concatenate(keys)
        order = np.argsort(flat)
        self._sorted = flat[order]
        self._best = np.concatenate([best[1:] for best in texts.best]).astype(np.int64)[order]

    @staticmethod
    def _key(text: np.ndarray, token: np.ndarray, position: np.ndarray) -> np.ndarray:
        key: np.ndarray = (((text << _TOKEN_BITS) + token) << _POSITION_BITS) + position
        return key

    def propose(self, places: Places) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, and their cells. (n, 8), (n, 8)"""
        wanted = self._key(places.text, places.tails[:, -1], places.start)
        row = np.searchsorted(self._sorted, wanted) - 1
        if not len(self._sorted):
            return _none(len(row))
        has = (row >= 0) & (self._sorted[row] >> _POSITION_BITS == wanted >> _POSITION_BITS)
        tokens = np.where(has[:, None], self._best[row], NOTHING)
        return tokens, np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)


class BigramArrays:
    """`BigramSource`."""

    def __init__(self, table: BigramTable) -> None:
        self._best = table.best

    def propose(self, places: Places) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, and their cells. (n, 8), (n, 8)"""
        last = places.tails[:, -1]
        has = (last >= 0) & (last < len(self._best))
        found = self._best[np.where(has, last, 0)].astype(np.int64)
        tokens = np.where(has[:, None] & (found >= 0), found, NOTHING)
        return tokens, np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)


ArraySource = ContextArrays | OwnTextArrays | RecycledArrays | BigramArrays


def _none(num_places: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((num_places, 1), NOTHING), np.zeros((num_places, 1), dtype=np.int64)


def _mixed(hashes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """One more token in each hash, as `own_text.context_key` mixes it. (n,) uint64, (n,) int64 -> (n,) uint64"""
    mixed: np.ndarray = (hashes ^ (tokens + 1).astype(np.uint64)) * _MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    return mixed


def _newest_rows(group: np.ndarray, tokens: np.ndarray, most: int) -> np.ndarray:
    """For each row of sorted groups the newest rows, itself first, that hold different tokens, else -1. (R, most)"""
    count = len(group)
    index = np.arange(count)
    begins_run = np.ones(count, dtype=bool)
    begins_run[1:] = (group[1:] != group[:-1]) | (tokens[1:] != tokens[:-1])
    run_start = np.maximum.accumulate(np.where(begins_run, index, 0))
    before = run_start - 1  # the last row with another token
    before[(before < 0) | (group[before] != group)] = -1
    slots = np.full((count, most), -1)
    slots[:, 0] = index
    for slot in range(1, most):
        at, rows = slots[:, slot - 1].copy(), index
        at[at >= 0] = before[at[at >= 0]]
        while True:
            rows = rows[at[rows] >= 0]
            held = tokens[slots[rows, :slot]]
            rows = rows[(held == tokens[at[rows]][:, None]).any(axis=1)]
            if not len(rows):
                break
            at[rows] = before[at[rows]]
        slots[:, slot] = at
    return slots


def _is_repeated(group: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Whether a row's token has followed in the same group before. (R,) bool"""
    order = np.lexsort((tokens, group))
    is_same = (group[order][1:] == group[order][:-1]) & (tokens[order][1:] == tokens[order][:-1])
    found = np.zeros(len(group), dtype=bool)
    found[order[1:]] = is_same
    return found
