"""Instruments that experiments share: intervals, ranks, slopes, verdicts and the style of the figures."""
