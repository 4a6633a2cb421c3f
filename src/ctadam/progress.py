"""How a long command tells where it is: one line every few seconds, with rate and time left, to terminal and log alike.

Lines instead of a bar, because several training jobs share one terminal under Snakemake.
"""

import logging
import time

from tqdm import tqdm

log = logging.getLogger("ctadam")


class Progress:
    """Count work done and say so every ``every`` seconds, and at the end.

    Args:
        label: what is being done, the start of every line.
        total: how many units in all.
        unit: their name.
    """

    def __init__(self, label, total, *, unit, every=5.0):
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done, self.start = 0, time.monotonic()
        self.said = self.start

    def advance(self, amount):
        self.done += amount
        now = time.monotonic()
        if now - self.said >= self.every or self.done >= self.total:
            self.said = now
            meter = tqdm.format_meter(self.done, self.total, now - self.start, ncols=100, ascii=" =", unit=self.unit)
            log.info("%s %s", self.label, meter)
