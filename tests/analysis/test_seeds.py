"""Intervals over seeds."""

import numpy as np
import pandas as pd

from ctadam.analysis.seeds import chosen_by_others, over_seeds


def test_interval_over_seeds_covers_the_mean():
    rng = np.random.default_rng(0)
    inside = [low < 1 < high for _, low, high in (over_seeds(rng.normal(1, 2, 5)) for _ in range(400))]
    assert 0.92 < np.mean(inside) < 0.98
    assert over_seeds([2.0]) == (2.0, -np.inf, np.inf)
    # The interval is clipped to the range of possible values.
    mean, low, high = over_seeds([0.9, 0.99, 1.0])
    assert high > 1 and over_seeds([0.9, 0.99, 1.0], within=(-1, 1)) == (mean, low, 1)


def test_a_seed_does_not_choose_its_own_setting_and_missing_numbers_do_not_count():
    runs = pd.DataFrame([(s, seed) for s in "ab" for seed in range(3)], columns=["setting", "seed"])
    group = pd.Series("all", index=runs.index)

    def chosen(*scores):
        found = runs[chosen_by_others(pd.Series(scores), runs["setting"], group, runs["seed"])]
        return "".join(found.sort_values("seed")["setting"])

    assert chosen(0.9, 0.1, 0.1, 0.2, 0.2, 0.2) == "baa"
    assert chosen(np.nan, 0.1, 0.3, 0.2, 0.2, 0.2) == "aab"  # the mean of what is left
    assert chosen(0.2, 0.2, 0.2, 0.2, 0.2, 0.2) == "aaa"
    assert not chosen_by_others(runs["seed"] * 1.0, runs["setting"], group.mask(group == "all"), runs["seed"]).any()
