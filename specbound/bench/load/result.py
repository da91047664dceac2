"""What servers gave under load: a row for each server and number of clients. Measures nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from specbound.bench.load.client import Measured
from specbound.results.tables import Cells
from specbound_controller.figures import number, times

HIGH = 95
"""Percentile that stands beside the median."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement, by what was measured."""

    round: int
    """From 0."""
    num_clients: int
    server: str
    measured: Measured


@dataclass(frozen=True, slots=True)
class LoadRow:
    """A server at a number of clients; seconds over all answers of all rounds."""

    num_clients: int
    server: str
    num_rounds: int
    tokens_per_second: float
    """Of all clients together; the median over rounds."""
    lowest_tokens_per_second: float
    """Of the slowest round."""
    highest_tokens_per_second: float
    first_token_s: float
    """From the request to the first text, its wait included; median."""
    first_token_s_high: float
    """95th percentile."""
    per_token_s: float
    """Of an answer after its first token; median over answers."""
    per_token_s_high: float
    pause_s_high: float
    """Between one piece of text and the next; 95th percentile. Drafted tokens come together."""
    num_answers: int
    num_as_alone: int
    """Answers that are the same server's to its first client alone; -1 where nobody was alone."""
    num_as_plain: int
    """Answers that are those of plain decoding to one client; -1 where it was not measured."""


@dataclass(slots=True)
class LoadResult:
    """All cells that were measured."""

    cells: list[Cell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_whole: bool = False
    """Whether nothing is missing."""

    def rows(self) -> list[LoadRow]:
        """By clients, then in the order of the servers."""
        keys = dict.fromkeys((cell.num_clients, cell.server) for cell in self.cells)
        return [self._row(num_clients, server) for num_clients, server in sorted(keys, key=lambda key: key[0])]

    def ratios(self) -> dict[int, dict[str, float]]:
        """Clients -> other server -> how many times its tokens per second ours gives, the median over rounds."""
        found: dict[int, dict[str, float]] = {}
        speeds = {(c.round, c.num_clients, c.server): c.measured.tokens_per_second for c in self.cells}
        for num_clients, server in sorted({(cell.num_clients, cell.server) for cell in self.cells}):
            pairs = [
                ours / speeds[round_, num_clients, server]
                for (round_, clients, name), ours in speeds.items()
                if (clients, name) == (num_clients, "specbound") and (round_, num_clients, server) in speeds
            ]
            if pairs and server != "specbound":
                found.setdefault(num_clients, {})[server] = median(pairs)
        return found

    def _row(self, num_clients: int, server: str) -> LoadRow:
        runs = [c.measured for c in self.cells if (c.num_clients, c.server) == (num_clients, server)]
        answers = [answer for run in runs for answer in run.answers]
        speeds = [run.tokens_per_second for run in runs]
        firsts = [answer.first_s for answer in answers if answer.text]
        per_token = [each for answer in answers if not math.isnan(each := answer.seconds_per_token)]
        texts = [answer.text for answer in answers]
        return LoadRow(
            num_clients,
            server,
            len(runs),
            median(speeds),
            min(speeds),
            max(speeds),
            _percentile(firsts, 50),
            _percentile(firsts, HIGH),
            _percentile(per_token, 50),
            _percentile(per_token, HIGH),
            _percentile([pause for answer in answers for pause in answer.pauses_s], HIGH),
            len(answers),
            _num_equal(texts, self._alone(server)),
            _num_equal(texts, self._alone("plain")),
        )

    def _alone(self, server: str) -> list[str]:
        """A server's answers to one client, the first time; none where nobody was alone."""
        found = [cell for cell in self.cells if (cell.num_clients, cell.server) == (1, server)]
        return [answer.text for answer in found[0].measured.answers] if found else []


def table(rows: Sequence[LoadRow]) -> Cells:
    """For people; times in milliseconds."""
    headings = (
        *("clients", "server", "tokens\nper s", "lowest to\nhighest", "first token\nms", "95 %"),
        *("per token\nms", "95 %", "pause\nms, 95 %", "as alone", "as plain"),
    )
    shown = [
        (
            str(row.num_clients),
            row.server,
            number(row.tokens_per_second, 1),
            f"{row.lowest_tokens_per_second:.1f} to {row.highest_tokens_per_second:.1f}",
            *(_ms(each) for each in (row.first_token_s, row.first_token_s_high)),
            *(_ms(each) for each in (row.per_token_s, row.per_token_s_high, row.pause_s_high)),
            _equal(row.num_as_alone, row.num_answers),
            _equal(row.num_as_plain, row.num_answers),
        )
        for row in rows
    ]
    starts = [index for index in range(1, len(rows)) if rows[index].num_clients != rows[index - 1].num_clients]
    return Cells("", headings, shown, 2, starts)


def ratio_lines(ratios: dict[int, dict[str, float]]) -> list[str]:
    """One line for each number of clients."""
    return [
        f"{num_clients} client{'s' if num_clients > 1 else ''}: specbound gives "
        + ", ".join(f"{times(ratio)} {server}'s tokens per second" for server, ratio in servers.items())
        for num_clients, servers in ratios.items()
    ]


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else math.nan


def _num_equal(texts: Sequence[str], alone: Sequence[str]) -> int:
    """texts: of any number of rounds. -1 where there is nothing to compare with."""
    if not alone:
        return -1
    return sum(text == alone[index % len(alone)] for index, text in enumerate(texts))


def _ms(seconds: float) -> str:
    return number(1000 * seconds, 0)


def _equal(count: int, total: int) -> str:
    return "–" if count < 0 else f"{count}/{total}"
