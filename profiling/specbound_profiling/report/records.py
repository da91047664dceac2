"""The figures of a report: plain values that tables, plots and JSON are made of."""

from dataclasses import dataclass

from specbound.decoding.stats import ratio

SCORE_NAMES = ("plain", "annealed", "temperature", "logistic", "isotonic")
"""Confidence as it is; after annealing; after the exit's own temperature; after a slope and an offset on its log odds;
after isotonic regression."""


FEW_POSITIONS = 200
"""Judged positions below which plots by probability say little."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows with neighbouring values."""

    value: float
    """Mean of what they were ordered by."""
    share: float
    """Share of accepted drafts."""
    count: int


@dataclass(frozen=True, slots=True)
class Measures:
    """How well a probability of acceptance fits what happened, one row a draft."""

    ece: float
    """Expected calibration error, 10 bins of equal count."""
    brier: float
    """Mean squared error."""
    auroc: float
    """Area under the ROC curve; nan where all outcomes are the same."""


@dataclass(frozen=True, slots=True)
class ExitCalibration:
    """One exit layer on one kind of content, judged on prompts that nothing was fitted on."""

    task: str
    """Kind of content; `all` holds the totals."""
    exit_layer: int
    num_rows: int
    """Judged positions: generated tokens but the first of each prompt."""
    acceptance: float
    """Share of drafts that equal the full model's token."""
    confidence: float
    """Mean plain confidence."""
    entropy_nats: float
    """Mean entropy."""
    measures: dict[str, Measures]
    """By `SCORE_NAMES`."""
    reliability: dict[str, tuple[Bin, ...]]
    """By `SCORE_NAMES`; filled in for `all` only."""
    by_confidence: tuple[Bin, ...]
    """Acceptance by plain confidence; filled in for `all` only."""
    by_entropy: tuple[Bin, ...]
    """Acceptance by entropy, nats; filled in for `all` only."""


@dataclass(frozen=True, slots=True)
class LiveDrafts:
    """Draft tokens of live steps whose predecessors in the step were all accepted."""

    num_judged: int
    acceptance: float
    """Share accepted; nan where there are none."""
    num_scored: int
    """Of these, drafts that a score let pass; the others were drafted without a test."""
    score: float
    """Mean score; nan where none was scored."""
    scored_acceptance: float
    """Share of the scored ones accepted: what the mean score should be."""
    measures: Measures
    """Of the scored ones."""


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """The live steps of one policy that the log holds (`steps/`)."""

    policy: str
    num_prompts: int
    num_steps: int
    num_emitted: int
    num_drafted: int
    num_accepted: int
    stop_reasons: dict[str, int]
    """Why drafts ended -> number of steps."""
    drafts: LiveDrafts
    by_place: tuple[LiveDrafts, ...]
    """First drafts of the steps, second ones, ..."""

    @property
    def tokens_per_step(self) -> float:
        return ratio(self.num_emitted, self.num_steps)


@dataclass(frozen=True, slots=True)
class LevelCalibration:
    """One compression level."""

    compression: str
    num_layers: int
    num_fitted: int
    """Prompts that alpha, temperatures and curves were fitted on."""
    num_judged: int
    """Other prompts, which all figures below come from."""
    alpha: float
    """Strength of annealing that is judged."""
    likely_alpha: float
    """Strength of annealing by likelihood of the full model's tokens."""
    largest_alpha: float
    """The largest one that the log's temperatures allow."""
    annealed_temperatures: dict[int, float]
    """Exit layer -> `T_e` of annealing."""
    own_temperatures: dict[int, float]
    """Exit layer -> its own temperature by the same likelihood."""
    temperature_range: tuple[float, float]
    """The log's grid; a temperature at its edge may really lie beyond."""
    exits: tuple[ExitCalibration, ...]
    """Totals first, then each kind of content; shallow exits first."""
    live: tuple[LivePolicy, ...] = ()
    """The policies whose live steps the log holds, plain decoding left out."""

    @property
    def exits_at_edge(self) -> tuple[int, ...]:
        """Exit layers whose own temperature is one end of the log's grid, so that the best one may lie beyond it.

        Exit layer 0 looks drafts up, and has no logits and no temperature.
        """
        return tuple(e for e, t in self.own_temperatures.items() if e > 0 and t in self.temperature_range)

    def of_task(self, task: str) -> tuple[ExitCalibration, ...]:
        """One kind of content, shallow exits first."""
        return tuple(each for each in self.exits if each.task == task)

    @property
    def few(self) -> str:
        """A warning where what is judged is too little for plots by probability; else empty."""
        num_rows = max((each.num_rows for each in self.of_task("all")), default=0)
        if num_rows >= FEW_POSITIONS:
            return ""
        return (
            f"judged on {num_rows} positions of {self.num_judged} prompts, fewer than {FEW_POSITIONS}: "
            "the curves may be chance; profile more prompts"
        )

    @property
    def summary(self) -> str:
        """What the figures say, in one or two sentences."""
        exits = [each for each in self.of_task("all") if each.exit_layer > 0]
        if not exits:
            return "No exit layer was recorded."
        best = max(exits, key=lambda each: each.acceptance)
        least = min(each.acceptance for each in exits)
        words = (
            "shallow layers know little of what the last one says"
            if best.acceptance < 0.3
            else "shallow layers often say what the last one says"
        )
        text = (
            f"Exits {exits[0].exit_layer} to {exits[-1].exit_layer} agree with the full model in {least:.0%} to "
            f"{best.acceptance:.0%} of the positions: {words}."
        )
        return f"{text} {self.few[:1].upper()}{self.few[1:]}." if self.few else text

    @property
    def tasks(self) -> tuple[str, ...]:
        """Kinds of content, `all` first."""
        return tuple(dict.fromkeys(each.task for each in self.exits))
