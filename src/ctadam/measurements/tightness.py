"""The update of each run of `ctadam.experiments.tightness`: the raw value is the measurement."""


def measure(runs):
    """``run``, ``draw``, ``kind`` and ``update``, |u_n| at the run's own step."""
    return runs[["run", "draw", "kind", "update"]]
