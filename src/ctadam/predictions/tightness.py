"""The bounds at the steps that `ctadam.experiments.tightness` looks at."""

from ctadam.theory.stability import update_bound

#: Parameters of a run, of which the predictions are made.
COLUMNS = ["run", "kind", "beta1", "beta2", "step"]


def predict(points):
    """``bound_paper`` and ``bound_exact`` on |u_n| at each run's own step n."""
    arguments = {name: points[name].to_numpy() for name in ("beta1", "beta2", "step")}
    return points[COLUMNS].assign(
        bound_paper=update_bound(**arguments, law="paper"), bound_exact=update_bound(**arguments, law="exact")
    )
