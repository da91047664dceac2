"""Records one prompt while the model decodes it: the full model's own continuation, and what every exit would draft.

The tokens are plain decoding's, chosen by the decoder's own code: prompts run on the model's own kernels, steps on
those of the level of exactness, and the full model's head is read one row at a time. The exits' heads are read
afterwards, many rows in one matrix product, since nothing waits for them; at the token level such rows differ from the
decoder's single ones by rounding. Knows no policy and no file.
"""

# P positions, E exit layers, K temperatures, V vocabulary, N tokens of a draft vocabulary, D hidden width,
# n positions of a block, R rows (n x E)

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specbound.decoding.arguments import batch_from_arguments
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.cache import DecodeCache
from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.noise import NOISE_RANGE, gumbel_noise
from specbound.decoding.request import Request
from specbound.decoding.sequence import Sequence as DecodedSequence
from specbound.decoding.sequence import draft_choice
from specbound.decoding.signals import logit_statistics
from specbound.decoding.step import DraftChoice
from specbound.decoding.step_model import step_adapter
from specbound_controller.draft_vocabulary import DraftVocabulary
from specbound_controller.lookup import LOOKUP_EXIT, NO_TOKEN, ContextLookup, Lookup, lookup_confidence
from specbound_profiling.log.trace import DEFAULT_TEMPERATURES, Branches, PromptTrace
from specbound_profiling.prompts.loops import LoopDetector
from specbound_profiling.recording.rollout import RolloutSettings, branch_logits, run_exits

BLOCK_LOGITS = 1 << 18
"""Exits' logits that are read at once, where that is more than one position: what a processor's cache holds."""


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """What to record of every prompt."""

    exit_layers: tuple[int, ...]
    """Layers to read the head after, shallow to deep, each in [1, L - 1]; 0 first for what the context says."""
    max_new_tokens: int
    eos_token_ids: tuple[int, ...] | None = None
    """Tokens that end a continuation; None takes the model's own."""
    temperatures: tuple[float, ...] = DEFAULT_TEMPERATURES
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"do_sample": False})
    """Arguments of the decoder that choose the tokens; its `seed` is that of the first prompt, the next one's is one
    higher, as in a batch of the decoder."""
    rollouts: RolloutSettings | None = None
    draft_vocabulary: DraftVocabulary | None = None
    """Tokens that exits read and draft; None is all."""


class Recorder:
    """Records prompts with one model."""

    def __init__(self, adapter: ModelAdapter, settings: RecordSettings, exactness: str = "token") -> None:
        """Raises `UnsupportedModelError` where the model cannot be run at this exactness here."""
        self.adapter, self.settings = adapter, settings
        self.step_adapter = step_adapter(adapter, exactness)
        self._greedy = greedy_twin(adapter.model)

    @torch.inference_mode()
    def record(self, prompt_ids: Tensor, index: int = 0, on_token: Callable[[], None] | None = None) -> PromptTrace:
        """Decodes a prompt and records every position.

        Args:
            prompt_ids: (1, T) int64.
            index: number of the prompt, from which its seeds follow.
            on_token: called after every token.

        Returns:
            The trace, cut where it begins to loop; its id, task and compression are for the caller to set.
        """
        settings, request = self.settings, self._request(prompt_ids, index)
        sequence, detector, cut = DecodedSequence(request, self.adapter.device), LoopDetector(), None
        length = len(request.prompt)
        reader = _ExitReader(self.step_adapter, request, settings, index)
        cache = self.adapter.new_cache(capacity=length + settings.max_new_tokens)
        adapter, inputs, position = self.adapter, prompt_ids.to(self.adapter.device), 0
        while True:
            states = run_exits(adapter, adapter.embed(inputs, position), reader.read_layers, cache, position)
            deepest = reader.read_layers[-1]
            hidden = adapter.run_layers(states[-1], deepest, adapter.num_layers, cache, position)
            logits = adapter.read_head(hidden[:, -1:])[0]
            token = sequence.commit_token(logits)
            reader.add([state[:, -1:] for state in states], logits, token)
            reader.roll_out(cache)
            cut = detector.add(token)
            if on_token is not None:
                on_token()
            if cut is not None or sequence.is_finished:
                break
            position += inputs.shape[1]
            adapter, inputs = self.step_adapter, torch.tensor([[token]], device=self.adapter.device)
        tokens = sequence.tokens[length:]
        is_final_eos = cut is None and tokens[-1] in request.eos_token_ids
        num_positions = len(tokens) if cut is None else cut
        return PromptTrace(
            prompt_id="",
            task="all",
            compression="none",
            prompt_length=length,
            tokens=np.array(tokens[:num_positions], dtype=np.int64),
            exit_layers=settings.exit_layers,
            temperatures=settings.temperatures,
            **{name: values[:num_positions] for name, values in reader.columns().items()},
            is_final_eos=is_final_eos,
            is_loop_cut=cut is not None,
            token_limit=settings.max_new_tokens,
            eos_token_ids=tuple(sorted(request.eos_token_ids)),
            branches=reader.branches(num_positions),
            seed=request.seed if request.do_sample else None,
            sampling_temperature=request.sampling_temperature,
        )

    def _request(self, prompt_ids: Tensor, index: int) -> Request:
        """What the decoder would make of the prompt."""
        settings = self.settings
        arguments = {**settings.sampling, "max_new_tokens": settings.max_new_tokens}
        seed = arguments.pop("seed", 0) + index
        ids = prompt_ids.tolist()
        (request,) = batch_from_arguments(self._greedy, self.adapter, ids, None, None, seed, arguments).requests
        eos = request.eos_token_ids if settings.eos_token_ids is None else frozenset(settings.eos_token_ids)
        return replace(request, eos_token_ids=eos)


def record_continuation(
    adapter: ModelAdapter,
    prompt_ids: Tensor,
    exit_layers: Sequence[int],
    max_new_tokens: int,
    eos_token_ids: Iterable[int] | None = None,
) -> PromptTrace:
    """Records one prompt greedily at the token level, without roll-outs. prompt_ids: (1, T) int64."""
    eos = None if eos_token_ids is None else tuple(eos_token_ids)
    return Recorder(adapter, RecordSettings(tuple(sorted(exit_layers)), max_new_tokens, eos)).record(prompt_ids)


class _ExitReader:
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
        self.token_ids = torch.arange(adapter.vocab_size, device=adapter.device)
        self.states: list[Tensor] = []
        """Exits' hidden states of positions not read yet, (1, E, D) each."""
        self.full_logits: list[Tensor] = []
        """(1, V) each."""
        self.tokens: list[int] = []
        self.num_read = 0
        self.parts: list[dict[str, np.ndarray]] = []
        self.branch_parts: list[dict[str, np.ndarray]] = []

    def add(self, states: Sequence[Tensor], full_logits: Tensor, token: int) -> None:
        """Takes the exits' hidden states (1, 1, D) of a position, the full model's logits (1, V) and its token."""
        self.states.append(torch.cat(list(states), dim=1))
        self.full_logits.append(full_logits)
        self.tokens.append(token)
        if self.num_lookups:
            self.found.append(self.lookup.find(self.context))
        self.context.append(token)
        if len(self.states) == self.block:
            self._read()

    def _read(self) -> None:
        shape = (len(self.states), len(self.read_layers))
        logits = self.adapter.read_exit(torch.cat(self.states, dim=1), self.head)[0].float()
        labels = torch.tensor(self.tokens, device=logits.device).repeat_interleave(shape[1])
        first = len(self.request.prompt) + self.num_read
        choice = self._choice(logits, range(first, first + shape[0]))
        part = exit_columns(logits, self.settings.temperatures, choice, labels, self.head)
        part = {name: values.reshape(*shape, *values.shape[1:]) for name, values in part.items()}
        part = self._with_lookups(part, self.found, np.array(self.tokens))
        full = logit_statistics(torch.cat(self.full_logits))
        part |= {f"full_{name}": getattr(full, name).cpu().numpy() for name in ("confidence", "entropy_nats", "margin")}
        self.parts.append(part)
        self.num_read += shape[0]
        self.states, self.full_logits, self.tokens, self.found = [], [], [], []

    def _with_lookups(
        self, columns: dict[str, np.ndarray], found: Sequence[Lookup], labels: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The same columns with those of exit layer 0 before them, where it is recorded."""
        if not self.num_lookups:
            return columns
        own = lookup_columns(found, len(self.settings.temperatures), labels)
        return {
            name: np.concatenate([own[name][:, None].astype(values.dtype), values], 1)
            for name, values in columns.items()
        }

    def _choice(self, logits: Tensor, positions: Sequence[int]) -> DraftChoice | None:
        """What the exits draft at some positions of the sequence, by the rule of the decoder.

        logits: (n * E, V), or (n * E, N) of a draft head.
        """
        if not self.request.do_sample:
            return None
        if self.head is not None:
            logits = self.head.full_rows(logits)
        no_ids = torch.empty(len(logits), 0, dtype=torch.int64, device=logits.device)
        scores = self.request.processors(no_ids, logits)  # temperature, top-k and top-p look at the logits only
        noise = torch.stack([gumbel_noise(self.request.seed, position, self.token_ids) for position in positions])
        noised = (scores.view(len(positions), -1, scores.shape[-1]) + noise[:, None]).view_as(scores)
        is_far = scores <= scores.amax(-1, keepdim=True) - NOISE_RANGE
        return draft_choice(scores, noised.masked_fill_(is_far, -torch.inf), self.token_ids)

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
            self._add_branch(position, 0, self._with_lookups(self._unknown_columns(len(along)), along))

    def _unknown_columns(self, num_rows: int) -> dict[str, np.ndarray]:
        """Columns of the exits with a head at rows where nobody has read them."""
        shape = (num_rows, len(self.read_layers))
        names = ("confidence", "entropy_nats", "margin", "noised_margin", "draft_probability")
        return {
            **{name: np.full(shape, NO_TOKEN, dtype=np.int64) for name in ("draft_token", "top1_token")},
            **{name: np.full(shape, np.nan, dtype=np.float32) for name in names},
            "confidence_at": np.full((*shape, len(self.settings.temperatures)), np.nan, dtype=np.float32),
        }

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
            rows.append(branch_logits(self.adapter, token, self.read_layers, cache, at, self.head).float())
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

    def branches(self, num_positions: int) -> Branches | None:
        """The branches that leave the trace within its first positions."""
        parts = [part for part in self.branch_parts if part["branch_position"][0] < num_positions]
        return Branches(**_joined(parts)) if parts else None


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def lookup_columns(
    found: Sequence[Lookup], num_temperatures: int, labels: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """A trace's columns of exit layer 0; `ExitScore` says what stands in them, where there are no logits.

    Args:
        found: what the context says at each position. n of them
        labels: the full model's tokens (n,), where they are known.
    """
    tokens, lengths = (np.array([each[k] for each in found], dtype=np.int64) for k in range(2))
    probability, entropy, margin, recency = (np.array([each[k] for each in found], dtype=float) for k in range(2, 6))
    confidence = lookup_confidence(lengths)
    columns = {
        "draft_token": tokens,
        "top1_token": tokens,
        "confidence": confidence,
        "entropy_nats": entropy,
        "margin": margin,
        "noised_margin": recency,
        "draft_probability": probability,
        "confidence_at": np.tile(confidence[:, None], num_temperatures),
        "label_nll_at": np.full((len(tokens), num_temperatures), np.nan),
    }
    return columns if labels is None else columns | {"is_accepted": tokens == labels}


def exit_columns(
    logits: Tensor,
    temperatures: Sequence[float],
    choice: DraftChoice | None = None,
    labels: Tensor | None = None,
    head: DraftHead | None = None,
) -> dict[str, np.ndarray]:
    """A trace's columns of exits.

    Args:
        logits: (R, V) float32, or (R, N) of a draft head.
        choice: what the exits draft; None takes the most probable tokens.
        labels: the full model's tokens (R,); without them the columns that need them are left out.
        head: what the logits were read by, where it was not the whole head. `label_nll_at` is nan where it has no row
            for the full model's token, which then has no probability at any temperature.
    """
    statistics = logit_statistics(logits)
    top1_token = statistics.top_token if head is None else head.ids[statistics.top_token.to(head.ids.device)]
    if choice is None:
        choice = DraftChoice(top1_token, statistics.margin, statistics.confidence)
    below_top = logits - logits.amax(-1, keepdim=True)
    powers, totals = torch.empty_like(below_top), []
    for temperature in temperatures:  # in place: new memory for every temperature would cost more than the arithmetic
        totals.append(torch.mul(below_top, 1.0 / temperature, out=powers).exp_().sum(-1))
    total = torch.stack(totals, dim=-1)
    columns = {
        "draft_token": choice.token,
        "top1_token": top1_token,
        "confidence": statistics.confidence,
        "entropy_nats": statistics.entropy_nats,
        "margin": statistics.margin,
        "noised_margin": choice.noised_margin.float(),
        "draft_probability": choice.probability,
        "confidence_at": total.reciprocal(),
    }
    if labels is not None:
        place, is_read = (labels, None) if head is None else head.places(labels)
        label = below_top.gather(-1, place[:, None]) / below_top.new_tensor(temperatures)
        nll = total.log() - label
        if is_read is not None:
            nll.masked_fill_(~is_read[:, None], torch.nan)
        columns |= {"is_accepted": choice.token == labels, "label_nll_at": nll}
    return {name: values.cpu().numpy() for name, values in columns.items()}
