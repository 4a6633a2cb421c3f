"""Figure 2: what its panels show."""

import pytest

from ctadam.analysis import style
from ctadam.experiments.growth import figure as fig2_stability


@pytest.fixture
def panels(smoke):
    with style.context():
        picture = fig2_stability.draw(smoke)
        yield picture.axes[:6]
        style.close(picture)


def test_every_point_has_a_line_and_every_panel_its_labels(panels):
    _, updates, _, displacements, *_ = panels
    assert len(updates.lines) == len(displacements.lines) == 8
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in panels)


def test_both_laws_are_drawn_over_both_measured_rates(panels):
    rates = panels[2]
    labels = [text.get_text() for text in rates.get_legend().get_texts()]
    assert {"slope in the window", "same row"} < set(labels) and sum("max" in label for label in labels) == 2


def test_the_rule_is_drawn_at_its_batch_sizes_and_the_floor_where_it_changes_the_pair(panels):
    peaks, losses = panels[4:]
    for ax in (peaks, losses):
        assert [text.get_text() for text in ax.get_xticklabels()] == ["128", "2048"]
    drawn = {line.get_label(): line.get_xdata() for line in peaks.lines}
    assert len(drawn["rule, $\\epsilon$ = 1e-15"]) == 2 and len(drawn["with the floor, $\\epsilon$ = 1e-15"]) == 1
    assert len(losses.containers) == 2  # one per ε
