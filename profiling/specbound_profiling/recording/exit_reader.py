"""Reads what every exit says of one prompt's positions, a block of them at a time, and follows wrong drafts.

Heads are read many rows in one matrix product, since nothing waits for them; at the token level such rows differ from
the decoder's single ones by rounding. Chooses no token of the continuation.
"""

# E exit layers, V vocabulary, N tokens of a draft vocabulary, D hidden width, n positions of a block

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.model.trained_head import TrainedHead
from specbound.decoding.noise import NOISE_RANGE, gumbel_noise
from specbound.decoding.request import Request
from specbound.decoding.sequence import draft_choice
from specbound.decoding.signals import logit_statistics
from specbound.decoding.step import DraftChoice
from specbound_controller.lookup import LOOKUP_EXIT, NO_TOKEN, ContextLookup, Lookup
from specbound_controller.sources.source import MOST_CANDIDATES
from specbound_profiling.log.branches import Branches
from specbound_profiling.log.later import Later
from specbound_profiling.recording.columns import (
    candidate_columns,
    exit_columns,
    lookup_columns,
    no_candidates,
    unknown_columns,
)
from specbound_profiling.recording.rollout import branch_logits, exit_logits
from specbound_profiling.recording.settings import RecordSettings

NUM_CANDIDATES = 4
"""Tokens of each exit that are recorded for trees: as many as one adds by default."""
BLOCK_LOGITS = 1 << 18
"""Exits' logits that are read at once, where that is more than one position: what a processor's cache holds."""


class ExitReader:
    """Collects hidden states and reads the exits' heads a block of positions at a time; follows wrong drafts."""

    def __init__(self, adapter: ModelAdapter, request: Request, settings: RecordSettings, prompt_index: int) -> None:
        self.adapter, self.request, self.settings, self.prompt_index = adapter, request, settings, prompt_index
        self.read_layers = tuple(e for e in settings.exit_layers if e != LOOKUP_EXIT)
        """Exit layers with a head to read. At least one"""
        self.num_lookups = len(settings.exit_layers) - len(self.read_layers)
        """1 where the context is looked up too, else 0: its column comes first."""
        self.lookup = ContextLookup()
        self.context = list(request.prompt)
        """Prompt and output so far."""
        self.found: list[Lookup] = []
        """What the context says at positions not read yet."""
        self.head = adapter.draft_head(settings.draft_vocabulary)
        """What exits read, where it is not the whole head."""
        num_logits = adapter.vocab_size if self.head is None else len(self.head.vocabulary)
        self.block = max(1, BLOCK_LOGITS // (num_logits * len(self.read_layers)))
        self.num_candidates = min(NUM_CANDIDATES, num_logits)
        self.token_ids = torch.arange(adapter.vocab_size, device=adapter.device)
        self.states: list[Tensor] = []
        """Exits' hidden states of positions not read yet, (1, E, D) each."""
        self.verified: list[Tensor] = []
        """The full model's last hidden state before each of them, (1, 1, D) each, for trained exits."""
        self.newest_verified: Tensor | None = None
        """That of the newest position."""
        self.full_logits: list[Tensor] = []
        """(1, V) each."""
        self.tokens: list[int] = []
        self.num_read = 0
        reads_state = isinstance(self.head, TrainedHead) and self.head.exits.shape.reads_state
        self.num_drafts = settings.num_drafts if reads_state else 1
        """Drafts of a step of which the exits say something of their own."""
        self.earlier: list[Tensor] = []
        """The full model's states before those of `verified`, as many as the last of these drafts may read."""
        self.parts: list[dict[str, np.ndarray]] = []
        self.later_parts: list[list[dict[str, np.ndarray]]] = [[] for _ in range(1, self.num_drafts)]
        self.branch_parts: list[dict[str, np.ndarray]] = []

    def add(self, states: Sequence[Tensor], full_logits: Tensor, token: int, verified: Tensor) -> None:
        """Takes the exits' hidden states (1, 1, D) of a position, the full model's logits (1, V) and its token.

        verified: the full model's last hidden state at the position before, (1, 1, D).
        """
        self.states.append(torch.cat(list(states), dim=1))
        self.newest_verified = verified
        self.verified.append(verified)
        self.full_logits.append(full_logits)
        self.tokens.append(token)
        if self.num_lookups:
            self.found.append(self.lookup.find(self.context))
        self.context.append(token)
        if len(self.states) == self.block:
            self._read()

    def _read(self) -> None:
        states = torch.cat(self.states, dim=1)
        known = [*self.earlier, *self.verified]
        for draft_index, parts in enumerate(self.later_parts, start=1):
            first = len(self.earlier) - draft_index
            places = range(first, first + len(self.states))
            verified = torch.cat([known[max(0, place)] for place in places], dim=1)
            parts.append(self._said(states, verified, draft_index))
        part = self._said(states, torch.cat(self.verified, dim=1), 0)
        full_logits = torch.cat(self.full_logits)
        full = logit_statistics(full_logits)
        part["best_tokens"] = full_logits.topk(min(MOST_CANDIDATES, full_logits.shape[1])).indices.cpu().numpy()
        part |= {f"full_{name}": getattr(full, name).cpu().numpy() for name in ("confidence", "entropy_nats", "margin")}
        self.parts.append(part)
        self.num_read += len(self.states)
        self.earlier = known[max(0, len(known) - self.num_drafts + 1) :]
        self.states, self.verified, self.full_logits, self.tokens, self.found = [], [], [], [], []

    def _said(self, states: Tensor, verified: Tensor, draft_index: int) -> dict[str, np.ndarray]:
        """Columns of what the exits say at the positions not read yet, each a step's first draft (0), second, ...

        states: (1, n * E, D). verified: (1, n, D), the full model's before the step's first draft.
        """
        shape = (len(self.states), len(self.read_layers))
        distances = [1 + draft_index] * shape[0]
        logits = exit_logits(self.adapter, states, self.read_layers, self.head, verified, distances).float()
        labels = torch.tensor(self.tokens, device=logits.device).repeat_interleave(shape[1])
        first = len(self.request.prompt) + self.num_read
        noised = self._noised(logits, range(first, first + shape[0]))
        choice = None if noised is None else draft_choice(*noised, self.token_ids)
        part = exit_columns(logits, self.settings.temperatures, choice, labels, self.head)
        part |= candidate_columns(*((logits, self.head) if noised is None else (noised[1], None)), self.num_candidates)
        part = {name: values.reshape(*shape, *values.shape[1:]) for name, values in part.items()}
        return self._with_lookups(part, self.found, np.array(self.tokens))

    def _with_lookups(
        self, columns: dict[str, np.ndarray], found: Sequence[Lookup], labels: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The same columns with those of exit layer 0 before them, where it is recorded."""
        if not self.num_lookups:
            return columns
        own = lookup_columns(found, len(self.settings.temperatures), labels)
        own |= no_candidates(len(found), self.num_candidates)
        return {
            name: np.concatenate([own[name][:, None].astype(values.dtype), values], 1)
            for name, values in columns.items()
        }

    def _choice(self, logits: Tensor, positions: Sequence[int]) -> DraftChoice | None:
        """What the exits draft at some positions of the sequence, by the rule of the decoder.

        logits: (n * E, V), or (n * E, N) of a draft head.
        """
        noised = self._noised(logits, positions)
        return None if noised is None else draft_choice(*noised, self.token_ids)

    def _noised(self, logits: Tensor, positions: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Scores (n * E, V) and the same with the positions' noise, -inf where none can lift them; None where nothing
        is sampled."""
        if not self.request.do_sample:
            return None
        if self.head is not None:
            logits = self.head.full_rows(logits)
        no_ids = torch.empty(len(logits), 0, dtype=torch.int64, device=logits.device)
        scores = self.request.processors(no_ids, logits)  # temperature, top-k and top-p look at the logits only
        noise = torch.stack([gumbel_noise(self.request.seed, position, self.token_ids) for position in positions])
        below = scores.double() - scores.double().amax(-1, keepdim=True)
        noised = (below.view(len(positions), -1, scores.shape[-1]) + noise[:, None]).view_as(below)
        is_far = below < -NOISE_RANGE
        return scores, noised.masked_fill_(is_far, -torch.inf)

    def roll_out(self, cache: DecodeCache) -> None:
        """Follows those wrong drafts of the newest position that are drawn, and rolls the cache back; a wrong lookup
        always, along lookups.

        The cache holds the true tokens before the position, in every layer.
        """
        settings, position = self.settings.rollouts, self.num_read + len(self.states) - 1
        if settings is None or position == 0:  # no step drafts what prefill yields
            return
        # a draft never reaches the last token that is wanted: it would come as the bonus of a shorter one
        length = min(settings.width - 1, self.settings.max_new_tokens - 2 - position)
        if length < 1:
            return
        exits = self.settings.exit_layers
        drawn = [i for i, e in enumerate(exits) if settings.is_drawn(self.prompt_index, position, e)]
        if self.num_lookups and 0 not in drawn:
            self._follow_lookup(position, length)
        if not drawn:
            return
        if self.states:
            self._read()
        drafts, accepted = self.parts[-1]["draft_token"][-1], self.parts[-1]["is_accepted"][-1]
        for index in drawn:
            if not accepted[index] and drafts[index] != NO_TOKEN:
                self._follow(cache, position, index, int(drafts[index]), length)

    def _follow_lookup(self, position: int, length: int) -> None:
        """Records what the context says after a wrong lookup at the newest position, for which no layer has to run."""
        *context, label = self.context
        found = self.found[-1] if self.found else self.lookup.find(context)
        if found.token in (label, NO_TOKEN):
            return
        token, drafted, along = found.token, list[int](), list[Lookup]()
        while len(along) < length and token != NO_TOKEN and token not in self.request.eos_token_ids:
            drafted.append(token)
            along.append(self.lookup.find(context, drafted))
            token = along[-1].token
        if along:
            columns = unknown_columns((len(along), len(self.read_layers)), len(self.settings.temperatures))
            self._add_branch(position, 0, self._with_lookups(columns, along))

    def _add_branch(self, position: int, exit_index: int, columns: Mapping[str, np.ndarray]) -> None:
        """Keeps a branch that begins with an exit's wrong draft. columns: of its rows, (n, E, ...)"""
        num_rows = len(columns["draft_token"])
        self.branch_parts.append(
            {
                "branch_position": np.full(num_rows, position),
                "branch_exit_layer": np.full(num_rows, self.settings.exit_layers[exit_index]),
                "position": position + 1 + np.arange(num_rows),
                **columns,
            }
        )

    def _follow(self, cache: DecodeCache, position: int, exit_index: int, token: int, length: int) -> None:
        """Records one branch: at most `length` positions, fewer where the exit drafts an end token."""
        exits, held = self.settings.exit_layers, len(self.request.prompt) + position
        rows: list[Tensor] = []
        choices: list[DraftChoice | None] = []
        drafted: list[int] = []
        found: list[Lookup] = []
        while len(rows) < length and token != NO_TOKEN and token not in self.request.eos_token_ids:
            at = held + len(rows)
            drafted.append(token)
            verified, distance = self.newest_verified, 2 + len(rows)
            rows.append(
                branch_logits(self.adapter, token, self.read_layers, cache, at, self.head, verified, distance).float()
            )
            choices.append(self._choice(rows[-1], [at + 1]))
            if self.num_lookups:
                found.append(self.lookup.find(self.context[:-1], drafted))
            if exits[exit_index] == LOOKUP_EXIT:
                token = found[-1].token
                continue
            read = exit_index - self.num_lookups
            token = self._drafted(rows[-1], choices[-1], read)
        cache.truncate(held)
        if not rows:
            return
        chosen = [choice for choice in choices if choice is not None]
        choice = DraftChoice(*map(torch.cat, zip(*chosen, strict=True))) if chosen else None
        columns = exit_columns(torch.cat(rows), self.settings.temperatures, choice, head=self.head)
        shape = (len(rows), len(self.read_layers))
        columns = {name: values.reshape(*shape, *values.shape[1:]) for name, values in columns.items()}
        self._add_branch(position, exit_index, self._with_lookups(columns, found))

    def _drafted(self, logits: Tensor, choice: DraftChoice | None, read: int) -> int:
        """What one exit drafts at one position. logits: (E, V), or (E, N) of a draft head"""
        if choice is not None:
            return int(choice.token[read])
        best = int(logits[read].argmax())
        return best if self.head is None else self.head.token(best)

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays of the trace."""
        if self.states:
            self._read()
        return _joined(self.parts)

    def later(self, num_positions: int) -> tuple[Later, ...]:
        """What the exits say of later drafts at the trace's first positions."""
        found = [_joined(parts) for parts in self.later_parts]
        names = [each.name for each in fields(Later)]
        return tuple(Later(**{name: columns[name][:num_positions] for name in names}) for columns in found)

    def branches(self, num_positions: int) -> Branches | None:
        """The branches that leave the trace within its first positions."""
        parts = [part for part in self.branch_parts if part["branch_position"][0] < num_positions]
        return Branches(**_joined(parts)) if parts else None


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
