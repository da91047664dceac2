"""The thread that decodes: a queue, one running batch, and what each answer's owner is told. Knows no HTTP.

Answers join and leave the batch between steps; at most one prompt is run between two steps, so that those that run go
on. Tokens of an answer depend on its prompt, its settings and its seed, never on what runs beside it.
"""

import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from specbound.decoding.decoder import SpecBoundDecoder, request_of
from specbound.decoding.running import Progress, RunningBatch
from specbound.serve.errors import ApiError, failed, overloaded, stopping
from specbound.serve.jobs import Event, Failure, Job
from specbound.serve.logprobs import ChancesOfAnswer
from specbound.serve.metrics import Metrics
from specbound.serve.prefixes import PrefixCaches
from specbound.serve.room import Room
from specbound.serve.running_answer import RunningAnswer
from specbound.serve.text_stream import TextStream
from specbound_controller.errors import InputError

logger = logging.getLogger(__name__)


class Engine:
    """Decodes jobs, several side by side."""

    def __init__(
        self,
        decoder: SpecBoundDecoder,
        tokenizer: PreTrainedTokenizerBase,
        metrics: Metrics,
        cache_bytes: int,
        max_batch: int = 8,
        max_queue: int = 64,
        max_seconds: float = 600.0,
        prefix_cache_bytes: int = 0,
        threads: int = 1,
    ) -> None:
        """Stands still until `start`.

        cache_bytes: for keys and values of all that runs and of the prefixes that are kept; what does not fit beside
            those that run waits.
        max_seconds: of a job, from its arrival.

        Raises:
            InputError: so little memory that nothing can be decoded.
        """
        self.room = Room(decoder.running(), cache_bytes)
        self._decoder, self._metrics = decoder, metrics
        self._tokenizer = copy.deepcopy(tokenizer)  # one thread each
        self._max_batch, self._max_queue, self._max_seconds = max_batch, max_queue, max_seconds
        self._prefixes = PrefixCaches(prefix_cache_bytes if decoder.exactness != "bitwise" else 0)
        self._threads = threads
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._answers: list[RunningAnswer] = []
        self._is_closing = self._is_aborted = False
        self._thread = threading.Thread(target=self._run, name="specbound-engine", daemon=True)

    # for any thread

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether jobs are worked on."""
        return self._thread.is_alive() and not self._is_closing

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues jobs, all or none. Raises ApiError (503) where there is no room, or the server stops."""
        with self._changed:
            if not self.is_alive:
                raise stopping()
            room = self._max_batch + self._max_queue - len(self._waiting) - len(self._answers)
            if len(jobs) > room:
                raise overloaded(f"{len(self._waiting)} answers wait already: try again")
            self._waiting.extend(jobs)
            self._metrics.num_waiting.set(len(self._waiting))
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more: their places are free at the next step."""
        with self._changed:
            for job in jobs:
                job.is_gone = True
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Takes no more jobs, gives those that there are so many seconds, and refuses what is left then."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.ident is None:
            return
        self._thread.join(seconds)
        with self._changed:
            self._is_aborted = True
            self._changed.notify()
        self._thread.join()

    # the engine's own thread

    def _run(self) -> None:
        torch.set_num_threads(self._threads)  # of this thread
        try:
            batch = self._decoder.running()
            while self._wait_for_work():
                self._turn(batch)
        except BaseException:
            logger.exception("the engine has stopped")
            raise
        finally:
            self._is_closing = True
            self._refuse_all(stopping())

    def _wait_for_work(self) -> bool:
        """Sleeps while there is none. Whether to go on."""
        with self._changed:
            while not (self._waiting or self._answers or self._is_closing):
                self._changed.wait()
            return not self._is_aborted and bool(self._waiting or self._answers)

    def _turn(self, batch: RunningBatch) -> None:
        """Frees places, fills at most one, and decodes a step."""
        try:
            self._leave_overdue(batch)
            job = self._next_job() if len(self._answers) < self._max_batch else None
            if job is not None:
                self._join(batch, job)
            if self._answers:
                self._step(batch)
        except Exception:  # also out of memory: whoever runs is told, and the next ones are served
            logger.exception("a step failed; %d answers are lost", len(self._answers))
            self._lose_all(batch)
        self._metrics.num_running.set(len(self._answers))
        self._metrics.cache_share.set(batch.num_bytes / self.room.max_bytes)

    def _next_job(self) -> Job | None:
        """The oldest job that is still wanted; none where it has to wait for memory. Prefixes make room for it."""
        with self._changed:
            while self._waiting:
                job = self._waiting[0]
                is_overdue = self._is_overdue(job)
                if not (job.is_gone or is_overdue or self._fits(job)):
                    return None
                self._waiting.popleft()
                self._metrics.num_waiting.set(len(self._waiting))
                if job.is_gone:
                    self._metrics.finished("abort")
                elif is_overdue:
                    self._fail(job, overloaded(f"no place was free within {self._max_seconds:g} s"))
                else:
                    return job
        return None

    def _fits(self, job: Job) -> bool:
        """Whether a job has room beside those that run; prefixes make it where they can."""
        left = self.room.left([*self._sizes(), job.most_tokens])
        if left < 0 and self._answers:  # one alone has room: the service refuses others
            return False
        self._prefixes.shrink(left)
        return True

    def _sizes(self) -> list[int]:
        """Most tokens of each answer that runs."""
        return [answer.job.most_tokens for answer in self._answers]

    def _is_overdue(self, job: Job) -> bool:
        return time.perf_counter() - job.arrived > self._max_seconds

    def _join(self, batch: RunningBatch, job: Job) -> None:
        """Runs a job's prompt; where that fails, only this job does."""
        started = time.perf_counter()
        try:
            ids = torch.tensor([job.prompt], dtype=torch.long)
            request = request_of(self._decoder, ids, job.arguments)
            past = self._prefixes.longest(job.prompt) if not self._prefixes.is_off else None
            num_held = len(past.tokens) if past is not None else 0
            text = TextStream(self._decode, job.stops)
            chances = None if job.num_best is None else ChancesOfAnswer(self._decode_all, job.num_best)
            row = batch.join(request, past)
        except (InputError, ValueError) as error:
            self._fail(job, ApiError(400, str(error)))
            return
        except (MemoryError, torch.OutOfMemoryError):
            logger.warning("a prompt of %d tokens was refused: out of memory", len(job.prompt))
            self._prefixes.clear()
            self._fail(job, overloaded("not enough memory for this prompt now"))
            return
        except Exception:
            logger.exception("a prompt failed")
            self._fail(job, failed())
            return
        answer = RunningAnswer(job, row, text, chances)
        self._answers.append(answer)
        metrics, now = self._metrics, answer.first_token_at
        metrics.queue_s.observe(started - job.arrived)
        metrics.prefill_s.observe(now - started)
        metrics.first_token_s.observe(now - job.arrived)
        metrics.prompt_tokens.inc(len(job.prompt))
        metrics.prompt_lengths.observe(len(job.prompt))
        metrics.generation_tokens.inc()
        if not self._prefixes.is_off:
            metrics.prefix_queries.inc(len(job.prompt))
            metrics.prefix_hits.inc(num_held)
        self._take(answer, row.sequence.tokens[-1:])
        self._leave_ended(batch)

    def _step(self, batch: RunningBatch) -> None:
        started = time.perf_counter()
        progress = {each.row: each for each in batch.step()}
        seconds = time.perf_counter() - started
        for answer in self._answers:
            self._advance(answer, progress[answer.row], seconds)
        self._leave_ended(batch)

    def _advance(self, answer: RunningAnswer, progress: Progress, seconds: float) -> None:
        """Hands on what a step gave to one answer."""
        if progress.error is not None or progress.record is None:
            answer.row.sequence.is_finished = answer.job.is_gone = True
            self._fail(answer.job, ApiError(400, str(progress.error)))
            return
        self._metrics.step(progress.record, len(progress.tokens))
        for _ in progress.tokens:
            self._metrics.between_tokens_s.observe(seconds / len(progress.tokens))
        self._take(answer, progress.tokens)

    def _take(self, answer: RunningAnswer, tokens: Sequence[int]) -> None:
        """Hands on what tokens say."""
        piece = answer.take(tokens)
        if piece is not None:
            self._tell(answer.job, piece)

    def _leave_ended(self, batch: RunningBatch) -> None:
        """Ends answers that are complete, and keeps their caches."""
        ended = [each for each in self._answers if each.is_ended]
        for answer in ended:
            self._end(answer)
        self._leave(batch, ended)

    def _leave_overdue(self, batch: RunningBatch) -> None:
        """Frees the places of those that nobody waits for, and of those that have had their time."""
        gone = [each for each in self._answers if each.job.is_gone or self._is_overdue(each.job)]
        for answer in gone:
            if answer.job.is_gone:
                self._metrics.finished("abort")
            else:
                self._end(answer)
        self._leave(batch, gone)

    def _leave(self, batch: RunningBatch, answers: Sequence[RunningAnswer]) -> None:
        if not answers:
            return
        for answer in answers:
            if not self._prefixes.is_off and not answer.job.is_gone:
                self._prefixes.keep(batch.copy_of(answer.row))
        batch.leave([answer.row for answer in answers])
        self._answers = [each for each in self._answers if each not in answers]
        self._prefixes.shrink(self.room.left(self._sizes()))

    def _end(self, answer: RunningAnswer) -> None:
        """Tells the owner that the answer is complete; nothing where he has been told otherwise."""
        if answer.job.is_gone:
            return
        rest = answer.rest()
        if rest is not None:
            self._tell(answer.job, rest)
        end, now = answer.end(), time.perf_counter()
        self._metrics.finished(end.reason)
        self._metrics.whole_s.observe(now - answer.job.arrived)
        self._metrics.decode_s.observe(now - answer.first_token_at)
        self._metrics.answer_lengths.observe(end.num_tokens)
        self._tell(answer.job, end)

    def _lose_all(self, batch: RunningBatch) -> None:
        """Every answer of a batch that broke."""
        for answer in self._answers:
            if not answer.job.is_gone:
                self._fail(answer.job, failed())
        self._answers = []
        batch.clear()
        self._prefixes.clear()

    def _refuse_all(self, error: ApiError) -> None:
        with self._changed:
            jobs = [*(answer.job for answer in self._answers), *self._waiting]
            self._answers, self._waiting = [], deque()
        for job in jobs:
            self._fail(job, error)

    def _fail(self, job: Job, error: ApiError) -> None:
        self._metrics.finished("error")
        self._tell(job, Failure(error))

    def _tell(self, job: Job, event: Event) -> None:
        """Where the owner's own loop has ended, nobody waits."""
        try:
            job.tell(event)
        except RuntimeError:
            job.is_gone = True

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _decode_all(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens))
