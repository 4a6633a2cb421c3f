"""Figures 2, 10 and 11: what their panels show."""

import numpy as np
import pytest

from ctadam.analysis import style
from ctadam.experiments.growth import figure
from ctadam.storage.store import read_joined


@pytest.fixture
def panels(smoke):
    """A function that returns the panels of a figure."""
    pictures = []

    def draw(function):
        with style.context():
            pictures.append(function(smoke))
        return pictures[-1].axes

    yield draw
    for picture in pictures:
        style.close(picture)


def test_region_shows_both_boundaries_the_pairs_and_the_rule(smoke, panels):
    region, _ = panels(figure.draw)
    labels = [text.get_text() for text in region.get_legend().get_texts()]
    assert sum(label.startswith(("exact", "paper")) for label in labels) == 2
    assert {"batch-size rule", "rule with floor under $\\beta$"} < set(labels)
    rule = next(line for line in region.lines if line.get_label() == "batch-size rule")
    runs = read_joined(smoke, "growth").query("variant == 'rule'").drop_duplicates("batch_size")
    np.testing.assert_allclose(rule.get_xdata(), 1 - runs["beta2"])
    names = {text.get_text() for text in region.texts}
    assert {"(0.999, 0.9)", "(0.99, 0.9)", "(0.95, 0.9)", "(0.95, 0.95)", "$B=128$", "$B=2048$"} < names


def test_both_laws_are_smooth_curves_over_both_measured_rates(panels):
    _, rates = panels(figure.draw)
    laws = [line for line in rates.lines if len(line.get_xdata()) > 1000]
    measured = [line for line in rates.lines if line.get_marker() in ("o", ".")]
    assert len(laws) == 2 and len(measured) == 2
    assert min(law.get_zorder() for law in laws) > max(line.get_zorder() for line in measured)


def test_every_pair_has_a_line_and_growth_is_predicted_in_both_panels(smoke, panels):
    updates, displacements, _ = panels(figure.draw_growth)
    curve = read_joined(smoke, "growth").query("variant == 'curve'")
    for ax in (updates, displacements):
        predicted = [line for line in ax.lines if line.get_linestyle() == "--"]
        assert len(ax.lines) - len(predicted) == curve["point"].nunique() and predicted
        for line in predicted:
            rates = np.diff(np.log(line.get_ydata())) / np.diff(line.get_xdata())
            assert np.abs(rates[0] - curve["rate_exact"]).min() < 1e-6


def test_the_rule_is_drawn_at_its_batch_sizes_and_the_floor_where_it_changes_the_pair(panels):
    peaks, losses, differences = panels(figure.draw_batch_size_rule)
    for ax in (peaks, losses, differences):
        assert [text.get_text() for text in ax.get_xticklabels()] == ["128", "2048"]
    sizes = {look["marker"]: len(peaks.lines[0].get_xdata()) for look in figure.VARIANTS.values()}
    drawn = {marker: [len(line.get_xdata()) for line in peaks.lines if line.get_marker() == marker] for marker in sizes}
    assert drawn == {"o": [2, 1], "s": [1, 1]}  # by ε, the recipe's first
