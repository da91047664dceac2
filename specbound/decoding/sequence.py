"""One sequence while it is decoded: which token comes next, as plain decoding would choose it, and when it ends.

Knows the logits that it is shown; knows nothing of layers, caches and policies.
"""

import math
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.noise import NOISE_RANGE
from specbound.decoding.position_noise import PositionNoise
from specbound.decoding.request import Request
from specbound.decoding.row_processors import STATELESS_PROCESSORS, WARPERS_OF_ANY_ROWS
from specbound.decoding.signals import best_tokens
from specbound.decoding.step import Draft, DraftChoice
from specbound_controller.errors import InputError
from specbound_controller.lookup import ContextLookup, Lookup
from specbound_controller.sources.of_sequence import SequenceSources
from specbound_controller.sources.source import MOST_CANDIDATES, DraftSource
from specbound_controller.trees.exit_growth import ExitGrowth
from specbound_controller.trees.growth import grow
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.tree import ROOT, DraftTree

# V vocabulary, n rows, T tokens


class Sequence:
    """Tokens, choice and end of one sequence."""

    def __init__(self, request: Request, device: torch.device) -> None:
        self.request = request
        self.tokens: list[int] = list(request.prompt)
        """Prompt and output so far."""
        self.is_finished = False
        self.scores: list[Tensor] = []
        """Processed logits (1, V) of every new token, float32, where they were asked for."""
        self.logits: list[Tensor] = []
        """The full model's logits (1, V) of every new token, float32, where they were asked for."""
        self._lookup: ContextLookup | None = None
        self._sources = SequenceSources()
        """Sources of draft trees."""
        self._of_drafts = LogitsProcessorList(p for p in request.processors if type(p) in STATELESS_PROCESSORS)
        self._noise = PositionNoise(request.seed)
        self._is_argmax = not (
            request.do_sample or request.processors or request.output_scores or request.output_logits
        )
        self._needs_ids = bool(request.processors or request.criteria)
        self._first = len(request.padding)
        if self._needs_ids:
            self._ids = torch.empty(1, self._first + self.limit, dtype=torch.int64, device=device)
            self._ids[0, : self._first + len(self.tokens)] = torch.tensor([*request.padding, *request.prompt])

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return self.request.eos_token_ids

    @property
    def limit(self) -> int:
        """Most tokens of prompt and output together."""
        return len(self.request.prompt) + self.request.max_new_tokens

    @property
    def num_new_tokens(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    def new_token(self, index: int) -> int | None:
        """A new token by its number from 0 on; None where there are not so many yet."""
        return self.tokens[len(self.request.prompt) + index] if index < self.num_new_tokens else None

    def ends_at(self, num_new_tokens: int) -> bool:
        """Whether an end token or the limit ends the sequence after so many of its new tokens."""
        is_limit = num_new_tokens >= self.request.max_new_tokens
        return is_limit or self.new_token(num_new_tokens - 1) in self.eos_token_ids

    def cut(self, num_new_tokens: int) -> None:
        """Ends the sequence after so many new tokens; what was decided beyond them is dropped."""
        del self.tokens[len(self.request.prompt) + num_new_tokens :]
        del self.scores[num_new_tokens:], self.logits[num_new_tokens:]
        self.is_finished = True

    def take_logits(self) -> list[Tensor]:
        """The logits (1, V) of the new tokens since the last call, where they were asked for; they are not kept."""
        taken, self.logits = self.logits, []
        return taken

    def commit_token(self, logits: Tensor) -> int:
        """Appends the next token by the full model's logits (1, V)."""
        token = next(self._verified(logits))
        self._append(token)
        return token

    def commit_scores(self, scores: Tensor, logits: Tensor) -> None:
        """Appends the next token by scores that have gone through the processors. scores, logits: (1, V)"""
        self._record(scores, logits)
        self._append(self._best(scores))

    def commit(self, draft: Draft, logits: Tensor) -> tuple[list[int], int]:
        """Appends the accepted drafts and the bonus token, up to the end of the sequence.

        logits: (w + 1, V) of the full model at the pending positions. Returns the new tokens and how many drafts were
        accepted. No processor and no criterion is called that plain decoding would not have called.
        """
        emitted: list[int] = []
        num_accepted = 0
        for index, token in enumerate(self._verified(logits, draft.tokens[1:])):
            emitted.append(token)
            self._append(token)
            is_accepted = index < draft.num_drafted and draft.tokens[index + 1] == token
            num_accepted += is_accepted
            if not is_accepted or self.is_finished:
                break
        self._show(len(emitted), range(num_accepted + 1), logits)
        return emitted, num_accepted

    def grow_tree(self, plan: TreePlan, most_depth: int) -> DraftTree:
        """The draft tree after the tokens so far, by the plan's sources, at most so deep."""
        sources = self._sources_of(plan)
        if plan.score is None:
            return grow(self.tokens, sources, plan, most_depth, self.eos_token_ids)
        recent = self._sources.watch(tuple(plan.rates)).of(plan.score.sources)
        return grow(self.tokens, sources, plan, most_depth, self.eos_token_ids, recent=recent)

    def begin_tree(self, plan: TreePlan, most_depth: int) -> ExitGrowth:
        """The same where an exit drafts too: a tree that grows while nodes run to the exit."""
        return ExitGrowth(self.tokens, self._sources_of(plan), plan, most_depth, self.eos_token_ids)

    def _sources_of(self, plan: TreePlan) -> list[DraftSource]:
        return self._sources.asked(tuple(plan.rates), plan.stores, self.tokens, len(self.tokens))

    def commit_tree(self, tree: DraftTree, logits: Tensor) -> tuple[list[int], list[int]]:
        """Appends the tokens of the path through a tree that the full model takes, and the bonus token after it.

        logits: (n, V) of the full model at the nodes. Returns the new tokens, up to the end of the sequence, and the
        accepted nodes. Processors and criteria are called for these nodes alone, as plain decoding would have called
        them.
        """
        emitted: list[int] = []
        accepted: list[int] = []
        node = ROOT
        best = best_tokens(self._as_chosen(logits)) if self._is_argmax else None
        while True:
            token = best[node] if best is not None else next(self._verified(logits[node : node + 1]))
            emitted.append(token)
            self._append(token)
            node = tree.child(node, token)
            if node >= 0:
                accepted.append(node)
            if node < 0 or self.is_finished:
                self._show(len(emitted), [ROOT, *accepted], logits)
                return emitted, accepted

    def _show(self, num_emitted: int, rows: SequenceOf[int], logits: Tensor) -> None:
        """Shows sources what was verified: what they foretold, and the full model's best tokens to those who ask.

        Of chains too, so that what sources know of a text does not depend on how the text was drafted.

        rows: of the step's root and accepted drafts in the logits.
        """
        sources = self._sources
        if not sources.learns:
            return
        best: list[list[int]] = [[] for _ in rows]
        if sources.recycled is not None:
            own = logits[list(rows)] if len(rows) < logits.shape[0] else logits
            best = own.topk(min(MOST_CANDIDATES, logits.shape[1])).indices.tolist()
        first = len(self.tokens) - num_emitted - 1
        for position, own_best in enumerate(best[:num_emitted], first):
            sources.verified(self.tokens, position, own_best)

    def draft_token(self, logits: Tensor, drafted: list[int], head: DraftHead | None = None) -> int:
        """The token of `choose_draft` alone, for a draft that nobody tests. logits: as there"""
        if self._drafts_most_probable:
            best = best_tokens(logits)[0]
            return best if head is None else head.token(best)
        _, noised, token_ids = self._draft_scores(logits, drafted, head)
        return int(token_ids[noised.argmax(0, keepdim=True)])

    def choose_draft(self, logits: Tensor, drafted: list[int], head: DraftHead | None = None) -> DraftChoice | None:
        """The token that an exit drafts after `drafted`, chosen as at verification; None for the most probable one.

        logits: (1, V) of the exit, or (1, N) of a draft head: processors and noise, which know tokens, then see the
            others at -inf. Shares the noise of the position, and calls the stateless processors only.
        """
        if self._drafts_most_probable:
            return None
        scores, noised, token_ids = self._draft_scores(logits, drafted, head)
        return draft_choice(scores, noised[None], token_ids)

    def exit_candidates(
        self, logits: Tensor, paths: SequenceOf[list[int]], temperature: float, count: int, head: DraftHead | None
    ) -> list[list[tuple[int, float]]]:
        """An exit's best tokens after each drafted path with their chances, the best first.

        Chances are those of the softmax at a temperature. Stateless processors are called, and under sampling the noise
        of the position is added before: what the noise favours here it favours at verification too.

        logits: (k, V) of the exit, or (k, N) of a draft head.
        """
        if self._drafts_most_probable:
            chances, token_ids = (logits.float() / temperature).softmax(-1), None if head is None else head.ids
            return _best_of(chances, token_ids, count)
        found = []
        for row, drafted in zip(logits.split(1), paths, strict=True):
            _, noised, tokens = self._draft_scores(row, drafted, head)
            found += _best_of((noised[None] / temperature).softmax(-1), tokens, count)
        return found

    def look_up(self, drafted: list[int]) -> Lookup:
        """What the context says comes after `drafted`."""
        if self._lookup is None:
            self._lookup = ContextLookup()
        return self._lookup.find(self.tokens, drafted)

    @property
    def _drafts_most_probable(self) -> bool:
        return not self._of_drafts and not self.request.do_sample

    def _draft_scores(
        self, logits: Tensor, drafted: list[int], head: DraftHead | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores after the stateless processors (1, V), with noise (k,), and the tokens of those (k,)."""
        logits = logits if head is None else head.full_rows(logits)
        scores = self._processed(self._of_drafts, logits, drafted)
        return scores, *self._noised(scores, len(self.tokens) + len(drafted))

    def top_margin(self, logits: Tensor) -> float:
        """How far the next token's score is above the second best, processors and noise included. logits: (1, V)"""
        noised, _ = self._noised(self._processed(self.request.processors, logits, []), len(self.tokens))
        top = noised.topk(min(2, noised.shape[0])).values
        return float(top[0] - top[-1]) if top.shape[0] > 1 else NOISE_RANGE

    def extend(self, tokens: Iterable[int]) -> None:
        """Appends tokens that were chosen elsewhere."""
        for token in tokens:
            self._append(token)

    def _verified(self, logits: Tensor, drafted: SequenceOf[int] = ()) -> Iterator[int]:
        """The full model's token at each row, one after the other: the tokens before it are appended by then.

        drafted: the tokens before each row but the first. Rows are read at once where that saves something: on a
        device, by processors that may be called for rows that are never reached.
        """
        logits = self._as_chosen(logits)
        if self._is_argmax:
            yield from best_tokens(logits)
            return
        if logits.shape[0] > 1 and logits.device.type != "cpu" and len(self._of_drafts) == len(self.request.processors):
            yield from self._verified_at_once(logits, drafted)
            return
        for row in range(logits.shape[0]):
            scores = self._processed(self.request.processors, logits[row : row + 1], [])
            self._record(scores, logits[row : row + 1])
            yield self._best(scores)

    def _verified_at_once(self, logits: Tensor, drafted: SequenceOf[int]) -> Iterator[int]:
        """The same in one transfer to the host."""
        processors = self.request.processors
        if all(type(processor) in WARPERS_OF_ANY_ROWS for processor in processors):
            scores = self._processed(processors, logits, [])
        else:
            rows = [
                self._processed(processors, row, list(drafted[:index])) for index, row in enumerate(logits.split(1))
            ]
            scores = torch.cat(rows)
        noised = self._noise.noised_rows(scores, len(self.tokens)) if self.request.do_sample else scores
        best, tokens = noised.max(-1)
        for row, (score, token) in enumerate(torch.stack((best.double(), tokens.double()), 1).tolist()):
            self._record(scores[row : row + 1], logits[row : row + 1])
            self._require_finite(score)
            yield int(token)

    def _record(self, scores: Tensor, logits: Tensor) -> None:
        """Keeps what was asked for of a new token. (1, V) each"""
        if self.request.output_logits:
            self.logits.append(logits.to(torch.float32, copy=True))
        if self.request.output_scores:
            self.scores.append(scores)

    def _best(self, scores: Tensor) -> int:
        """The next token by its processed scores (1, V).

        Raises:
            InputError: scores that cannot be sampled from, as transformers refuses them.
        """
        noised, token_ids = self._noised(scores, len(self.tokens))
        best = noised.argmax(0, keepdim=True)
        if not self.request.do_sample:
            return int(token_ids[best])
        score, token = torch.cat((noised[best], token_ids[best].double())).tolist()
        self._require_finite(score)
        return int(token)

    def _require_finite(self, score: float) -> None:
        """Raises InputError under sampling where the best noised score is no number."""
        if self.request.do_sample and not math.isfinite(score):  # +inf less itself, or nan, or all at -inf
            raise InputError(
                f"scores must be numbers below infinity for sampling, got others after {len(self.tokens)} tokens (the "
                "model's, or temperature is too low): remove_invalid_values=True keeps the model's within bounds"
            )

    @staticmethod
    def _as_chosen(logits: Tensor) -> Tensor:
        return logits.float() if logits.dtype == torch.float64 else logits  # as transformers does before it chooses

    def _processed(self, processors: LogitsProcessorList, logits: Tensor, drafted: list[int]) -> Tensor:
        """A copy of the logits after the processors, which see the sequence and the drafts so far. (1, V) float32"""
        scores = logits.to(torch.float32, copy=True)
        if not processors:
            return scores
        end = self._first + len(self.tokens)
        if drafted:
            for place, token in enumerate(drafted, end):
                self._ids[0, place] = token  # filled there: a copy to a device would wait for it
        prefix = self._ids[:, : end + len(drafted)]
        if type(processors) is not LogitsProcessorList or len(processors) > len(self._of_drafts):
            return processors(prefix, scores)
        for processor in processors:  # the list would look at the signature of each, which takes as long as its work
            scores = processor(prefix, scores)
        return scores

    def _noised(self, scores: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """What the token at a position is the argmax of, and the tokens these belong to. (1, V) -> (k,), (k,) int64

        Under sampling those that can be one of the two best.
        """
        if self.request.do_sample:
            return self._noise.noised(scores[0], position)
        return scores[0], torch.arange(scores.shape[1], device=scores.device)

    def _append(self, token: int) -> None:
        self._noise.forget(len(self.tokens))
        self.tokens.append(token)
        self.is_finished = token in self.eos_token_ids or len(self.tokens) >= self.limit
        if not self._needs_ids:
            return
        end = self._first + len(self.tokens)
        self._ids[0, end - 1] = token
        if self.request.criteria:
            scores = tuple(self.scores) if self.request.output_scores else None
            self.is_finished |= bool(self.request.criteria(self._ids[:, :end], scores)[0])


def _best_of(chances: Tensor, token_ids: Tensor | None, count: int) -> list[list[tuple[int, float]]]:
    """The largest chances of each row (k, V) with their tokens, in one transfer to the host. token_ids: (V,)"""
    best, places = chances.topk(min(count, chances.shape[1]))
    tokens = places if token_ids is None else token_ids[places]
    rows = torch.stack((tokens.double(), best.double()), -1).tolist()
    return [[(int(token), chance) for token, chance in row] for row in rows]


def draft_choice(scores: Tensor, noised: Tensor, token_ids: Tensor) -> DraftChoice:
    """What exits draft by their processed logits (n, V): the best of the noised scores (n, k) of some tokens (k,).

    Noised scores of tokens that are too far below the best for any noise may be left out, or be -inf.
    """
    best = noised.argmax(-1, keepdim=True)
    if noised.shape[1] > 1:
        top = noised.topk(2).values
        margin = (top[:, 0] - top[:, 1]).clamp_(max=NOISE_RANGE)
    else:
        margin = noised.new_full((noised.shape[0],), NOISE_RANGE)  # only one token is left
    tokens = token_ids[best]
    return DraftChoice(tokens[:, 0], margin, scores.softmax(-1).gather(-1, tokens)[:, 0])
