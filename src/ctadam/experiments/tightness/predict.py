"""The bounds at the steps that `ctadam.experiments.tightness.runs` looks at. A row a draw, or a place of its unstable stage: the
same for all kinds of gradients."""

import numpy as np

from ctadam.theory.stability import growth_rate, stability_coefficient, update_bound

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["draw", "place", "beta1", "beta2", "step"]


def predict(points):
    """``C``; ``bound_paper`` and ``bound_exact`` on |u_n| at the draw's own step n; ``limit_exact``, the latter's limit;
    ``rate_exact``. Of k stages those of the last."""
    arguments = {name: points[name].to_numpy() for name in ("beta1", "beta2", "step")}
    pair = {name: arguments[name] for name in ("beta1", "beta2")}
    return points[COLUMNS].assign(
        C=stability_coefficient(**pair),
        rate_exact=growth_rate(**pair, law="exact"),
        limit_exact=update_bound(**pair, step=np.inf, law="exact"),
        bound_paper=update_bound(**arguments, law="paper"),
        bound_exact=update_bound(**arguments, law="exact"),
    )
