"""Progress of long commands: one log line every few seconds with rate and time left.

Lines are used instead of a bar because several training jobs share one terminal under Snakemake.
"""

import logging
import time

from tqdm import tqdm

log = logging.getLogger("ctadam")


class Progress:
    """Count finished work and log it every ``every`` seconds and at the end.

    Args:
        label: start of every line; what is being done.
        total: total number of units.
        unit: name of a unit.
        every: seconds between lines.
    """

    def __init__(self, label: str, total: int, *, unit: str, every: float = 5.0) -> None:
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done, self.start = 0, time.monotonic()
        self.last_logged = self.start

    def advance(self, amount: int) -> None:
        """Add ``amount`` finished units."""
        self.done += amount
        now = time.monotonic()
        if now - self.last_logged >= self.every or self.done >= self.total:
            self.last_logged = now
            meter = tqdm.format_meter(self.done, self.total, now - self.start, ncols=100, ascii=" =", unit=self.unit)
            log.info("%s %s", self.label, meter)
