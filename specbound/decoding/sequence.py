"""One sequence while it is decoded: which token comes next, as plain decoding would choose it, and when it ends.

Knows the logits that it is shown; knows nothing of layers, caches and policies.
"""

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import logits_process

from specbound.decoding.model.draft_head import DraftHead
from specbound.decoding.noise import NOISE_RANGE, gumbel_noise
from specbound.decoding.request import Request
from specbound.decoding.signals import best_tokens
from specbound.decoding.step import Draft, DraftChoice
from specbound_controller.lookup import ContextLookup, Lookup
from specbound_controller.sources.recycled import RecycledSource
from specbound_controller.sources.source import MOST_CANDIDATES, DraftSource
from specbound_controller.trees.growth import grow
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.tree import ROOT, DraftTree

# V vocabulary, n rows, T tokens

STATELESS_PROCESSORS = (
    logits_process.EpsilonLogitsWarper,
    logits_process.EtaLogitsWarper,
    logits_process.ExponentialDecayLengthPenalty,
    logits_process.ForcedBOSTokenLogitsProcessor,
    logits_process.ForcedEOSTokenLogitsProcessor,
    logits_process.InfNanRemoveLogitsProcessor,
    logits_process.LogitNormalization,
    logits_process.MinLengthLogitsProcessor,
    logits_process.MinNewTokensLengthLogitsProcessor,
    logits_process.MinPLogitsWarper,
    logits_process.NoBadWordsLogitsProcessor,
    logits_process.NoRepeatNGramLogitsProcessor,
    logits_process.RepetitionPenaltyLogitsProcessor,
    logits_process.SequenceBiasLogitsProcessor,
    logits_process.SuppressTokensAtBeginLogitsProcessor,
    logits_process.SuppressTokensLogitsProcessor,
    logits_process.TemperatureLogitsWarper,
    logits_process.TopKLogitsWarper,
    logits_process.TopPLogitsWarper,
    logits_process.TypicalLogitsWarper,
)
"""Processors that depend on nothing but the prefix and the logits: drafts may call them as often as they like."""


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
        self._sources: dict[str, tuple[DraftSource, int]] = {}
        """Sources of draft trees by name, with how many tokens each has seen."""
        self._of_drafts = LogitsProcessorList(p for p in request.processors if type(p) in STATELESS_PROCESSORS)
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

    def commit_token(self, logits: Tensor) -> int:
        """Appends the next token by the full model's logits (1, V)."""
        token = next(self._verified(logits))
        self._append(token)
        return token

    def commit(self, draft: Draft, logits: Tensor) -> tuple[list[int], int]:
        """Appends the accepted drafts and the bonus token, up to the end of the sequence.

        logits: (w + 1, V) of the full model at the pending positions. Returns the new tokens and how many drafts were
        accepted. No processor and no criterion is called that plain decoding would not have called.
        """
        emitted: list[int] = []
        num_accepted = 0
        for index, token in enumerate(self._verified(logits)):
            emitted.append(token)
            self._append(token)
            is_accepted = index < draft.num_drafted and draft.tokens[index + 1] == token
            num_accepted += is_accepted
            if not is_accepted or self.is_finished:
                break
        return emitted, num_accepted

    def grow_tree(self, plan: TreePlan, most_depth: int) -> DraftTree:
        """The draft tree after the tokens so far, by the plan's sources, at most so deep."""
        sources = [self._source(name, plan) for name in plan.rates]
        return grow(self.tokens, sources, plan, most_depth, self.eos_token_ids)

    def _source(self, name: str, plan: TreePlan) -> DraftSource:
        """A source that has seen every committed token."""
        source, num_seen = self._sources.get(name, (None, 0))
        if source is None:
            source = plan.stores.source(name)
        if num_seen < len(self.tokens):
            source.extend(self.tokens[num_seen:])
            self._sources[name] = source, len(self.tokens)
        return source

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
                self._recycle(tree, accepted, logits)
                return emitted, accepted

    def _recycle(self, tree: DraftTree, accepted: SequenceOf[int], logits: Tensor) -> None:
        """Shows the full model's best tokens along the path to the source that proposes them again."""
        source, _ = self._sources.get("recycled", (None, 0))
        if not isinstance(source, RecycledSource):
            return
        nodes = [ROOT, *accepted]
        count = min(MOST_CANDIDATES, logits.shape[1])
        rows = logits[nodes] if len(nodes) < logits.shape[0] else logits
        for node, best in zip(nodes, rows.topk(count).indices.tolist(), strict=False):
            source.observe(tree.tokens[node], best)

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

    def _verified(self, logits: Tensor) -> Iterator[int]:
        """The full model's token at each row, one after the other: the tokens before it are appended by then."""
        logits = self._as_chosen(logits)
        if self._is_argmax:
            yield from best_tokens(logits)
            return
        for row in range(logits.shape[0]):
            scores = self._processed(self.request.processors, logits[row : row + 1], [])
            if self.request.output_logits:
                self.logits.append(logits[row : row + 1].to(torch.float32, copy=True))
            if self.request.output_scores:
                self.scores.append(scores)
            noised, token_ids = self._noised(scores, len(self.tokens))
            yield int(token_ids[noised.argmax(0, keepdim=True)])

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
            self._ids[0, end : end + len(drafted)] = torch.tensor(drafted)
        return processors(self._ids[:, : end + len(drafted)], scores)

    def _noised(self, scores: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """What the token at a position is the argmax of, and the tokens these belong to. (1, V) -> (k,), (k,) int64

        On the CPU tokens so far below the best that no noise could lift them are left out: after top-k few are left.
        """
        if self.request.do_sample and scores.device.type == "cpu":
            token_ids = (scores[0] > scores.max() - NOISE_RANGE).nonzero()[:, 0]
        else:
            token_ids = torch.arange(scores.shape[-1], device=scores.device)
        if not self.request.do_sample:
            return scores[0], token_ids
        return scores[0, token_ids].double() + gumbel_noise(self.request.seed, position, token_ids), token_ids

    def _append(self, token: int) -> None:
        self.tokens.append(token)
        self.is_finished = token in self.eos_token_ids or len(self.tokens) >= self.limit
        if not self._needs_ids:
            return
        end = self._first + len(self.tokens)
        self._ids[0, end - 1] = token
        if self.request.criteria:
            scores = tuple(self.scores) if self.request.output_scores else None
            self.is_finished |= bool(self.request.criteria(self._ids[:, :end], scores)[0])


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
