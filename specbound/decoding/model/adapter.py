"""Runs a decoder-only transformers model layer by layer over its own cache. One adapter for all families.

Knows nothing of drafts and policies. Never changes the model, its config or its modules. Which families there are, and
what is refused, says `families`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from specbound.decoding.model.cache import DecodeCache, KeyValueStore, causal_mask, visible_keys
from specbound.decoding.model.composition import Composition, Place, found
from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.model.exit_modules import ExitPlace, ExitSet
from specbound.decoding.model.families import (
    FAMILIES,
    SLIDING,
    body_of,
    layer_kinds,
    name_of,
    num_layers_of,
    refuse_unsupported,
)
from specbound.decoding.model.lean import (
    PROBE_POSITION,
    PROBE_ROWS,
    PROBE_TOLERANCE,
    LeanLayer,
    LeanNorm,
    is_bare,
    is_lean,
    lean_norm,
    lean_places,
    lean_projection,
    pack_mask,
    signed,
)
from specbound.decoding.model.left_out import is_library, left_out_places, refuse_changed_parts, refuse_left_out
from specbound.decoding.model.products import Packing
from specbound.decoding.model.ragged import RaggedCall, sent
from specbound.decoding.model.row_attention import causal_ranges
from specbound.decoding.model.static_cache import StaticView
from specbound.decoding.model.trained_head import TrainedHead
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.errors import InputError

# B rows, n tokens, D hidden width, V vocabulary, N tokens of a draft vocabulary, L layers, T positions,
# d width of a head

logger = logging.getLogger(__name__)

MAX_MASK_TABLE_ROWS = 32
"""Most query rows whose mask is kept as a table; longer blocks (prefill) get a mask of their own."""


class ShortCalls(Protocol):
    """Runs some calls of `ModelAdapter.run_layers` and `run_rows` in its place, whoever made it (`segments`)."""

    def refresh(self) -> None:
        """Looks again at the layers, as the adapter does."""

    def takes(self, hidden: Tensor, cache: DecodeCache, position: int) -> bool:
        """Whether it runs a call. hidden: (B, n, D)"""

    def run(self, hidden: Tensor, first: int, last: int, cache: DecodeCache, position: int) -> Tensor:
        """As `ModelAdapter.run_layers`. hidden: (B, n, D) -> (B, n, D)"""

    def takes_rows(self, cache: DecodeCache, call: RaggedCall) -> bool:
        """Whether it runs a call on rows of a cache."""

    def run_rows(self, hidden: Tensor, first: int, last: int, cache: DecodeCache, call: RaggedCall) -> Tensor:
        """As `ModelAdapter.run_rows`. hidden: (B, n, D) -> (B, n, D)"""


class ModelAdapter:
    """Layer-by-layer execution of one model."""

    def __init__(self, model: PreTrainedModel, exits: ExitSet | None = None) -> None:
        """Raises `UnsupportedModelError`, naming the model and the reason, for what cannot be run exactly.

        exits: trained for this model, where there are any.
        """
        self.model, self.exits = model, exits
        self.segments: ShortCalls | None = None
        """What runs short calls of one sequence, where they are to be compiled."""
        self._draft_heads: dict[DraftVocabulary, DraftHead] = {}
        self._look()
        self._copy_numbers()

    def refresh(self) -> None:
        """Follows what the owner has changed of the model since: modules, weights, hooks, formats, kernels, functions.

        Raises:
            UnsupportedModelError: the model as it is now cannot be run exactly.
        """
        if not self.composition.is_current():
            self._look()
        self._copy_numbers()
        self._draft_heads = {v: draft for v, draft in self._draft_heads.items() if draft.is_current(self.head)}
        if self.segments is not None:
            self.segments.refresh()

    def _look(self) -> None:
        """Reads from the model all that is relied on."""
        model = self.model
        refuse_unsupported(model)
        self.autocast = autocast_dtype(model)
        """The number format of the autocast region that the layers run in; None outside of any."""
        refuse_left_out(model)
        body = body_of(model)
        self.config = body.config
        self.family = FAMILIES[self.config.model_type]
        self.layers: nn.ModuleList = getattr(body, self.family.layers)
        self.num_layers = num_layers_of(model)
        self.embedding: nn.Module = model.get_input_embeddings()
        self.head: nn.Module = model.get_output_embeddings()
        self.final_norm: nn.Module | None = getattr(body, self.family.final_norm)
        self.project_in: nn.Module | None = getattr(body, "project_in", None)
        self.project_out: nn.Module | None = getattr(body, "project_out", None)
        self.position_table: nn.Embedding | None = getattr(body, "wpe", None) or getattr(body, "embed_positions", None)
        self.rotary: nn.Module | None = getattr(body, "rotary_emb", None)
        refuse_changed_parts(model, self.rotary, self.position_table)
        self.softcap: float | None = getattr(model.config, "final_logit_softcapping", None)
        self.vocab_size: int = model.config.vocab_size
        self.max_positions: int | None = getattr(self.config, "max_position_embeddings", None)
        self.device = self.embedding.weight.device
        self.dtype: torch.dtype = self.embedding.weight.dtype
        self.kinds = layer_kinds(self.config, self.num_layers)
        self.window: int | None = getattr(self.config, "sliding_window", None)
        self._rotary_tables: dict[str, tuple[Tensor, Tensor]] = {}
        self._lean_tables: dict[str, tuple[Tensor, Tensor]] = {}
        self._positions = torch.arange(0, device=self.device).unsqueeze(0)
        self._masks: dict[tuple[str, int, int], Tensor] = {}
        self._choose_layers()
        is_table = type(self.embedding) is nn.Embedding and self.embedding.max_norm is None and is_bare(self.embedding)
        is_table = is_table and type(self.embedding.weight.data) is Tensor
        is_table = is_table and all(is_library(found(place)) for place in table_places())
        self._embedding_rows: Any = self.embedding.weight if is_table and self.position_table is None else None
        called_once = [part for part in (self.rotary, self.position_table) if part is not None]
        places = left_out_places(model, called_once) + table_places()
        places += [place for layer in self._lean[:1] for place in lean_places(layer.layer)]
        self.composition = Composition(model, places, () if self.rotary is None else (self.rotary,))
        """What all this was read from."""

    def _choose_layers(self) -> None:
        """Layers of the Llama shape on the CPU run without the calls of their modules (`LeanLayer`) once one of them
        has been seen to give what its module gives; all others run as they are."""
        layers = [self.layers[index] for index in range(self.num_layers)]
        can_be_lean = self.autocast is None and all(map(is_lean, layers))
        modules = [self.head, *layers]
        self.packing = Packing(sum(p.numel() * p.element_size() for m in modules for p in m.parameters()))
        self._lean: list[LeanLayer] = [LeanLayer(layer, self.packing) for layer in layers] if can_be_lean else []
        if self._lean and not self._compare_lean():
            logger.info("%s: layers run as modules, because lean ones differ here", name_of(self.model))
            self._lean = []
        self._normalise = lean_norm(self.final_norm, self._lean[0].keeps_bits) if self._lean else self.final_norm
        self._project = lean_projection(self.head, self.packing) if self._lean else self.head

    def _copy_numbers(self) -> None:
        """Copies anew what lean layers hold copies of: an owner may write to weights without leaving a trace."""
        self.packing.begin_call()
        for layer in self._lean:
            layer.copy_numbers()
        if isinstance(self._normalise, LeanNorm):
            self._normalise.copy_numbers()

    @torch.inference_mode()
    def _compare_lean(self) -> bool:
        """Whether the first layer gives one row bitwise the same either way, and several rows but for rounding."""
        with torch.autocast(self.device.type, enabled=False):
            return self._is_lean_equal()

    def _is_lean_equal(self) -> bool:
        length = PROBE_POSITION + PROBE_ROWS
        self._extend_positions(length)
        lean, results = self._lean, []
        if self._lean_tables[self.kinds[0]][0].shape[-1] != lean[0].head_width:
            return False  # only a part of each head is turned
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(1, length, self.config.hidden_size, generator=generator).to(self.dtype)
        for self._lean in ([], lean):
            cache = self.new_cache(length)
            self.run_open(hidden[:, :PROBE_POSITION], 0, 1, cache, 0)
            one = self.run_open(hidden[:, -1:], 0, 1, cache, PROBE_POSITION)
            cache.layers[0].truncate(0, PROBE_POSITION)
            results.append((one, self.run_open(hidden[:, PROBE_POSITION:], 0, 1, cache, PROBE_POSITION)))
        (one, several), (lean_one, lean_several) = results
        most = PROBE_TOLERANCE * torch.finfo(self.dtype).eps * several.abs().max()
        return torch.equal(one, lean_one) and bool((several - lean_several).abs().max() <= most)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """End-of-sequence tokens of the model's generation config."""
        eos = self.model.generation_config.eos_token_id
        return () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)

    def new_cache(self, capacity: int = 256, batch_size: int = 1) -> DecodeCache:
        """An empty cache with room for `capacity` tokens; it doubles when full."""
        return DecodeCache([self._window(kind) for kind in self.kinds], max(1, capacity), batch_size, self.layers)

    def continued_cache(self, past: Cache | None, prompt: Sequence[int], capacity: int) -> DecodeCache:
        """A cache that holds as much of the prompt as `past` does, its last token left out; empty without `past`.

        This decoder's own cache is continued in place, up to the first token that differs. Another is copied, and
        taken at its word that it holds the prompt's first tokens, as transformers does.

        Raises:
            InputError: a cache of another model, number format or device, or of more tokens than the prompt has.
        """
        if past is not None:
            self._check_cache(past)
        if isinstance(past, DecodeCache):
            past.keep_prefix_of(prompt)
            past.owner = self.layers
            return past
        cache = self.new_cache(capacity)
        held = past.get_seq_length() if past is not None else 0
        if past is not None and held:
            if held >= len(prompt) or len(past.layers) != self.num_layers:
                raise InputError(
                    f"past_key_values must hold fewer than the {len(prompt)} tokens of the prompt in each of "
                    f"{self.num_layers} layers, got {held} in {len(past.layers)}"
                )
            cache.fill_from(past)
        return cache

    def _check_cache(self, past: Cache) -> None:
        """Raises where keys and values are not of this model as it is now."""
        name = name_of(self.model)
        if isinstance(past, DecodeCache):
            windows = [self._window(kind) for kind in self.kinds]
            if not past.is_of(self.layers) or [layer.window for layer in past.layers] != windows:
                raise InputError(f"past_key_values must come from {name}, got another model's cache")
            if past.batch_size != 1:
                raise InputError(f"past_key_values must hold one sequence, got {past.batch_size}")
        is_shape_known = isinstance(past, DecodeCache) and past.owner is self.layers
        for states in (s for layer in past.layers if layer.is_initialized for s in (layer.keys, layer.values)):
            shape = states.shape[1], states.shape[3]
            if not is_shape_known and shape != head_shape(self.config):
                raise InputError(
                    f"past_key_values must come from {name}, got {shape[0]} heads of width {shape[1]} in each layer"
                )
            is_spread = hasattr(self.model, "hf_device_map")  # a layer's keys are where the layer is
            is_format = states.dtype == self.dtype or self.autocast is not None
            if not is_format or (states.device != self.device and not is_spread):
                raise InputError(
                    f"past_key_values must be {self.dtype} on {self.device}, as {name} is now, got {states.dtype} on "
                    f"{states.device}: begin without a cache"
                )

    def embed(self, token_ids: Tensor, position: int) -> Tensor:
        """Hidden states before the first layer. token_ids: (B, n), the first at `position`. (B, n, D)"""
        end = position + token_ids.shape[1]
        self._extend_positions(end)
        return self._embed(token_ids, self._positions[:, position:end])

    def embed_token(self, token: int, position: int) -> Tensor:
        """Hidden state before the first layer of one token. (1, 1, D), which may be a view of the embedding."""
        if self._embedding_rows is None:
            return self.embed(torch.full((1, 1), token, device=self.device), position)  # filled there, not copied to it
        self._extend_positions(position + 1)
        return self._embedding_rows[token : token + 1].unsqueeze(0)  # no operation, and no copy to a device

    def embed_rows(self, token_ids: Tensor, positions: Sequence[int]) -> Tensor:
        """Hidden states before the first layer of one token per row, each at its own position. (B,) -> (B, 1, D)"""
        self._extend_positions(max(positions) + 1)
        ids = None
        if self.position_table is not None:
            ids = sent(list(positions), self.device).unsqueeze(1)
        return self._embed(token_ids.unsqueeze(1), ids)

    def _embed(self, token_ids: Tensor, ids: Tensor | None) -> Tensor:
        """ids: positions (1 or B, n). (B, n) -> (B, n, D)"""
        hidden = self.embedding(token_ids)
        if self.position_table is None:
            return hidden
        if self.family.positions == "wpe":
            return hidden + self.position_table(ids)
        if self.project_in is not None:
            hidden = self.project_in(hidden)
        return hidden + self.position_table(None, position_ids=ids)

    def run_layers(self, hidden: Tensor, first: int, last: int, cache: DecodeCache, position: int) -> Tensor:
        """Runs `layers[first:last]` on n tokens, the first at `position`, and appends them to these layers' caches.

        hidden: (B, n, D) -> (B, n, D). Every layer of the range must hold `position` tokens.
        """
        if self.segments is not None and self.segments.takes(hidden, cache, position):
            return self.segments.run(hidden, first, last, cache, position)
        return self.run_open(hidden, first, last, cache, position)

    def run_open(self, hidden: Tensor, first: int, last: int, cache: DecodeCache, position: int) -> Tensor:
        """The same without segments."""
        num_new = hidden.shape[1]
        lean = self._lean if num_new == 1 or (position > 0 and num_new <= MAX_MASK_TABLE_ROWS) else []
        kinds = set(self.kinds[first:last])
        group = lean[0].packed_heads if lean else 1
        masks = {kind: self._mask(kind, position, num_new, group) for kind in kinds}
        if lean:
            tables = self._rows_of(self._lean_tables, position, num_new)
            return self._run_lean(hidden, first, last, cache, tables, masks)
        positions = self._positions.narrow(1, position, num_new)
        tables = self._rows_of(self._rotary_tables, position, num_new)
        return self._run_modules(hidden, first, last, cache, positions, tables, masks)

    def run_static(
        self, hidden: Tensor, first: int, last: int, view: StaticView, tables: Mapping[str, tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Runs `layers[first:last]` on tokens whose positions the device alone knows: the same work for any.

        hidden: (1, n, D) -> (1, n, D). view: what the layers read and write. tables: as `position_tables` gives them.
        """
        masks: dict[str, Tensor | None] = {
            kind: view.mask(self._window(kind), self.dtype) for kind in set(self.kinds[first:last])
        }
        rows = {
            kind: (cos.index_select(1, view.positions), sin.index_select(1, view.positions))
            for kind, (cos, sin) in tables.items()
        }
        if not self._lean:
            return self._run_modules(hidden, first, last, view, view.positions.unsqueeze(0), rows, masks)
        group = self._lean[0].packed_heads
        packed = {kind: mask if mask is None else pack_mask(mask, group) for kind, mask in masks.items()}
        return self._run_lean(hidden, first, last, view, rows, packed)

    def run_rows(self, hidden: Tensor, first: int, last: int, cache: DecodeCache, call: RaggedCall) -> Tensor:
        """Runs `layers[first:last]` on some rows of a cache, each from its own position on, and appends to these.

        hidden: (B, n, D), padded as `call` says -> (B, n, D). Every layer of the range must hold `call.starts` tokens.
        """
        if call.is_level and call.slots == list(range(cache.batch_size)):
            return self.run_layers(hidden, first, last, cache, call.starts[0])
        if self.segments is not None and self.segments.takes_rows(cache, call):
            return self.segments.run_rows(hidden, first, last, cache, call)
        return self.run_rows_open(hidden, first, last, cache, call)

    def run_rows_open(self, hidden: Tensor, first: int, last: int, cache: DecodeCache, call: RaggedCall) -> Tensor:
        """The same without segments."""
        masks = {kind: call.mask(self._window(kind), self.dtype) for kind in set(self.kinds[first:last])}
        both = self._lean_tables if self._lean else self._rotary_tables
        tables = {kind: (cos[0][call.positions], sin[0][call.positions]) for kind, (cos, sin) in both.items()}
        cache.call = call
        try:
            if not self._lean:
                return self._run_modules(hidden, first, last, cache, call.positions, tables, masks)
            group = self._lean[0].packed_heads
            packed = {kind: mask if mask is None else pack_mask(mask, group) for kind, mask in masks.items()}
            return self._run_lean(hidden, first, last, cache, tables, packed, call.packing)
        finally:
            cache.call = None

    def _run_modules(
        self,
        hidden: Tensor,
        first: int,
        last: int,
        cache: KeyValueStore,
        positions: Tensor,
        tables: Mapping[str, tuple[Tensor, Tensor]],
        masks: Mapping[str, Tensor | None],
    ) -> Tensor:
        """Calls the layers as transformers does. positions: (1 or B, n); cosine and sine by kind: (1 or B, n, d)"""
        arguments: dict[str, dict[str, object]] = {}
        for kind, mask in masks.items():
            arguments[kind] = {
                "attention_mask": mask,
                "position_ids": positions,
                self.family.cache_argument: cache,
                "use_cache": True,
            }
            if self.rotary is not None:
                arguments[kind]["position_embeddings"] = tables[kind]
        for layer in range(first, last):
            output = self.layers[layer](hidden, **arguments[self.kinds[layer]])
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden

    def _run_lean(
        self,
        hidden: Tensor,
        first: int,
        last: int,
        cache: KeyValueStore,
        tables: Mapping[str, tuple[Tensor, Tensor]],
        masks: Mapping[str, Tensor | None],
        packing: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The same without the calls of modules. Cosine and signed sine by kind: (1 or B, n, 1, d); masks are packed

        packing: of a call that is padded; padding goes through no matrix product then.
        """
        batch_size, _, width = hidden.shape
        rows = hidden.reshape(-1, width)
        if packing is not None:
            rows = rows.index_select(0, packing[0])
        for layer in range(first, last):
            kind = self.kinds[layer]
            rows = self._lean[layer](rows, batch_size, *tables[kind], masks[kind], cache, packing)
        return (rows if packing is None else rows.index_select(0, packing[1])).view(hidden.shape)

    def read_head(self, hidden: Tensor) -> Tensor:
        """Final norm, head and soft-capping at any depth. (B, n, D) -> (B, n, V), in the model's dtype."""
        return self._read(hidden, self._project)

    def read_exit(self, hidden: Tensor, draft_head: DraftHead | None, place: ExitPlace | None = None) -> Tensor:
        """The same by a head of a draft vocabulary, where there is one. (B, n, D) -> (B, n, N or V)

        place: where the tokens stand, for trained exits; B is 1 then.
        """
        if draft_head is None:
            return self.read_head(hidden)
        if isinstance(draft_head, TrainedHead) and place is not None and draft_head.has(place.exit_layer):
            return self.project_rows(draft_head.prepare(hidden, place), draft_head)
        return self._read(hidden, draft_head)

    def draft_head(self, vocabulary: DraftVocabulary | None) -> DraftHead | None:
        """The head of a draft vocabulary, made at its first use; without one that of the trained exits, or None for all
        tokens.

        Raises:
            InputError: this model's head cannot be cut down (quantised, wrapped, with hooks), or has fewer tokens; the
                vocabulary is that of other trained exits.
        """
        if vocabulary is None:
            if self.exits is None:
                return None
            vocabulary = self.exits.vocabulary
        found = self._draft_heads.get(vocabulary)
        if found is None:
            found = self._draft_heads[vocabulary] = self._new_draft_head(vocabulary)
        return found

    def _new_draft_head(self, vocabulary: DraftVocabulary) -> DraftHead:
        name = name_of(self.model)
        if not vocabulary.exits:
            return DraftHead(self.head, vocabulary, name)
        if self.exits is None or self.exits.vocabulary != vocabulary:
            given = "none" if self.exits is None else self.exits.vocabulary.exits
            raise InputError(
                f"exits must be the trained exits {vocabulary.exits} that drafts were asked of, got {given}"
            )
        return TrainedHead(self.head, self.exits, name, self.dtype)

    def _read(self, hidden: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        if self._normalise is not None:
            hidden = self._normalise(hidden)
        return self.project_rows(hidden, project)

    def project_rows(self, hidden: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        if self.project_out is not None:
            hidden = self.project_out(hidden)
        logits = project(hidden)
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits.to(self.device)  # the head of a model on several devices may be elsewhere

    def position_tables(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosine and sine of all positions so far, by kind of layer, as its layers take them."""
        return dict(self._lean_tables if self._lean else self._rotary_tables)

    def reserve_positions(self, length: int) -> None:
        """Grows these tables to `length` positions, or to as many as the model has."""
        has_end = self.max_positions is not None and self.position_table is not None
        self._extend_positions(min(length, self.max_positions) if has_end and self.max_positions else length)

    def _window(self, kind: str) -> int | None:
        return self.window if kind == SLIDING else None

    @staticmethod
    def _rows_of(
        tables: Mapping[str, tuple[Tensor, Tensor]], position: int, num_new: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosine and sine of n positions from a first one on, by kind."""
        return {
            kind: (cos.narrow(1, position, num_new), sin.narrow(1, position, num_new))
            for kind, (cos, sin) in tables.items()
        }

    def _extend_positions(self, length: int) -> None:
        """Grows the position and rotary tables to at least `length` positions, by doubling."""
        if length <= self._positions.shape[1]:
            return
        if self.max_positions is not None and self.position_table is not None and length > self.max_positions:
            raise InputError(f"length must be <= {self.max_positions} positions of {name_of(self.model)}, got {length}")
        size = max(256, 2 * self._positions.shape[1], length)
        if self.max_positions is not None and self.position_table is not None:
            size = min(size, self.max_positions)
        positions = torch.arange(size, device=self.device).unsqueeze(0)
        if self.rotary is not None:
            like = torch.empty(1, 1, 1, dtype=self.dtype, device=self.device)
            for kind in set(self.kinds):
                arguments = (like, positions, kind) if self.family.positions == "rotary_by_kind" else (like, positions)
                self._rotary_tables[kind] = cos, sin = self.rotary(*arguments)
                self._lean_tables[kind] = cos.unsqueeze(2), signed(sin).unsqueeze(2)
        self._positions = positions

    def _mask(self, kind: str, position: int, num_new: int, group: int) -> Tensor | None:
        """Additive mask (1, 1, n, visible keys), or None where the kernel needs none. Each row comes `group` times."""
        if num_new == 1:
            return None  # one query sees all the keys it is given
        window = self._window(kind)
        keys = visible_keys(position, num_new, window)
        if position == 0 and (window is None or num_new <= window) and self.config._attn_implementation == "sdpa":
            return None  # sdpa is causal by itself from position 0; the user may switch kernels between two calls
        if num_new > MAX_MASK_TABLE_ROWS:
            return causal_mask(num_new, keys, window, self.dtype, self.device)[None, None]
        table = self._masks.get((kind, num_new, group))
        if table is None or table.shape[-1] < keys:
            table = causal_mask(num_new, max(256, 2 * keys), window, self.dtype, self.device)[None, None]
            self._masks[kind, num_new, group] = table = pack_mask(table, group)
        mask = table[..., table.shape[-1] - keys :]
        if self.device.type != "cpu":
            mask.visible_ranges = causal_ranges(num_new, keys, window)  # type: ignore[attr-defined]
        return mask


def table_places() -> list[Place]:
    """The functions whose work is left out where a row of the embedding is read from its table."""
    return [(nn.Embedding, name) for name in ("__call__", "_call_impl", "forward")] + [
        (vars(nn.functional), "embedding")
    ]


def head_shape(config: Any) -> tuple[int, int]:
    """Key-value heads of a layer, and the width of one."""
    num_heads = config.num_attention_heads
    num_key_heads = getattr(config, "num_key_value_heads", None) or num_heads
    return num_key_heads, getattr(config, "head_dim", None) or config.hidden_size // num_heads


def autocast_dtype(model: PreTrainedModel) -> torch.dtype | None:
    """The number format of the autocast region that the caller is in; None outside of any."""
    kind = model.get_input_embeddings().weight.device.type
    has_regions = torch.amp.is_autocast_available(kind)
    return torch.get_autocast_dtype(kind) if has_regions and torch.is_autocast_enabled(kind) else None
