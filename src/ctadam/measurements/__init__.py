"""What the raw runs show, without asking theory: rates, their intervals, shares, peaks.

A module an experiment: ``measure(runs)``, a row a run.
"""
