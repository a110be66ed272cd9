"""The queue: requests that arrive together are written as one batch, by one thread.

While a batch is written, others gather. The next batch begins with the oldest of them and
takes all that end sooner in it than they would alone.
"""

import asyncio
import contextlib
import threading

from tfgpt.generation.settings import Wish
from tfgpt.serving.asking import WireError

GATHERING = 0.005  # seconds that the first request of an idle server waits for others


class Job:
    """One request on its way: what it asks for, and what of its texts has been written.

    Args:
        ask: Ask.
        served: Served, which makes its ids.
        loop: asyncio event loop of the request.

    Raises:
        WireError: if the model cannot write what is asked for.
    """

    def __init__(self, ask, served, loop):
        self.ask = ask
        encoded = [served.encode(prompt) for prompt in ask.prompts]
        self.num_prompt_tokens = sum(map(len, encoded))
        self.rows_of_ids = [ids for ids in encoded for _ in range(ask.num_samples)]
        lengths = [len(ids) for ids in self.rows_of_ids]
        self.max_new_tokens = served.length(ask.max_new_tokens, max(lengths))
        settings = {"temperature": ask.temperature, "top_p": ask.top_p, "seed": ask.seed}
        self.wish = Wish(self.rows_of_ids, self.max_new_tokens, **settings)
        self.start, self.end = served.span(lengths, self.max_new_tokens)
        served.check(self)
        self.num_tokens = 0
        self.is_gone = False  # nobody waits for it
        self.loop = loop
        self.news = asyncio.Queue()

    def tell(self, *news):
        """Send news from the writing thread to the request's task."""
        with contextlib.suppress(RuntimeError):  # the server has been closed meanwhile
            self.loop.call_soon_threadsafe(self.news.put_nowait, news)

    def fail(self, error):
        """Send the error that ended the writing."""
        self.is_gone = True
        if not isinstance(error, WireError):
            words = f"{type(error).__name__}: {str(error)[:200]}"
            error = WireError(f"The model failed: {words}", 500)
        self.tell("error", None, error)

    def leave(self):
        """Give the place up: the client went away, or has all."""
        self.is_gone = True
        self.news.put_nowait(("gone", None, None))

    async def pieces(self):
        """Yield (row, piece, None) as they are written and (row, "", reason) at ends of rows.

        Raises:
            WireError: if writing failed, or the server ends before.
        """
        unfinished = len(self.rows_of_ids)
        while unfinished:
            try:
                kind, row, content = await self.news.get()
            except asyncio.CancelledError as error:  # the time after SIGTERM is over
                raise WireError("The server ends: ask again later.", 503) from error
            if kind == "gone":
                return
            if kind == "error":
                raise content
            unfinished -= kind == "end"
            yield (row, content, None) if kind == "piece" else (row, "", content)

    def usage(self):
        """Count the tokens, as the answer says it."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_tokens,
        }


class Batcher:
    """The queue and the thread that writes.

    Args:
        served: Served.
    """

    def __init__(self, served):
        self.served = served
        self.waiting = []
        self.changed = threading.Condition()
        self.is_closed = False
        self.batches = 0  # how many were written
        self.thread = threading.Thread(target=self.run, name="tfgpt-writer", daemon=True)

    def submit(self, job):
        """Put a job into the queue; raise WireError if it is full."""
        with self.changed:
            self.waiting = [other for other in self.waiting if not other.is_gone]
            if len(self.waiting) >= self.served.limits.waiting:
                message = f"{len(self.waiting)} requests are waiting: try again later."
                raise WireError(message, 429, code="queue_full")
            self.waiting.append(job)
            self.changed.notify()

    def close(self):
        """End the thread after the piece that it is writing."""
        with self.changed:
            self.is_closed = True
            self.changed.notify()

    def take(self):
        """Wait for jobs and return those of the next batch; none if the server ends."""
        with self.changed:
            if not self.waiting:
                self.changed.wait_for(lambda: self.waiting or self.is_closed)
                self.changed.wait_for(lambda: self.is_closed, timeout=GATHERING)
            if self.is_closed:
                return []
            jobs = choose_jobs([job for job in self.waiting if not job.is_gone], self.served.rows)
            self.waiting = [job for job in self.waiting if job not in jobs and not job.is_gone]
            return jobs

    def run(self):
        """Write batch after batch."""
        while not self.is_closed:
            jobs = self.take()
            if not jobs:
                continue
            try:
                self.write(jobs)
            except Exception as error:  # one bad batch must not end the server
                for job in jobs:
                    job.fail(error)

    def write(self, jobs):
        """Write the texts of some jobs; rows whose client went away are left alone."""
        self.batches += 1
        rows = self.served.begin(jobs)
        while rows and not self.is_closed:
            row = min(rows, key=lambda row: row.place)
            try:
                piece = None if row.job.is_gone else next(row.pieces, None)
            except Exception as error:  # the others of the batch may go on
                row.job.fail(error)
                piece = None
            if piece is not None:
                row.job.tell("piece", row.index, piece)
                continue
            rows.remove(row)
            row.job.num_tokens += row.num_tokens
            row.job.tell("end", row.index, row.reason)


def choose_jobs(jobs, most_rows):
    """Choose the jobs of a batch: the oldest, and all that it delays by less than they take.

    Args:
        jobs: list of Job, the oldest first.
        most_rows: int, rows of a batch; the oldest job may have more.

    Returns:
        list of Job.
    """
    chosen, rows = [], 0
    for job in jobs:
        start = min(other.start for other in [*chosen, job])
        end = max(other.end for other in [*chosen, job])
        # Rows share steps, so a batch takes as many as there are between both.
        before = max(o.end for o in chosen) - min(o.start for o in chosen) if chosen else 0
        is_faster = end - start - before < job.end - job.start
        if not chosen or (is_faster and rows + len(job.rows_of_ids) <= most_rows):
            chosen.append(job)
            rows += len(job.rows_of_ids)
    return chosen
