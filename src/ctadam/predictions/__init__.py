"""What theory says about an experiment, from its runs' parameters alone: no outcome of a run is read.

A module an experiment: ``COLUMNS``, the parameters it reads, and ``predict(points)``, a row a run.
"""
