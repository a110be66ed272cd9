"""An output filter in a server: nothing is sent before a classifier has read all of it."""

import asyncio
from collections import defaultdict

from tfgpt.serving.asking import WireError

REASON = "content_filter"  # OpenAI's word for a text that was refused


async def screened(pieces, output_filter):
    """Hold the pieces of each text back until a filter has read them all.

    Args:
        pieces: what `Job.pieces` yields.
        output_filter: OutputFilter.

    Yields:
        the same form: (row, whole text or refusal, None), then (row, "", reason).

    Raises:
        WireError: if the classifier failed: what nobody has read is not sent.
    """
    texts = defaultdict(str)
    async for row, piece, reason in pieces:
        texts[row] += piece
        if reason is None:
            continue
        try:
            # Beside the other requests: a classifier may take a while.
            (is_alarm,) = await asyncio.to_thread(output_filter.alarms, [texts[row]])
        except Exception as error:
            words = f"{type(error).__name__}: {str(error)[:200]}"
            raise WireError(f"The filter failed: {words}", 500) from error
        yield row, output_filter.refusal if is_alarm else texts[row], None
        yield row, "", REASON if is_alarm else reason
