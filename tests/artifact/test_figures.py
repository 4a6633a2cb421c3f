"""Figures: drawn from results alone, the same bytes every time, and the stages keep to their own."""

import importlib
import os
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text

from ctadam import cli
from ctadam.analysis import style
from ctadam.artifact import figures
from ctadam.errors import ArtifactError
from ctadam.storage.provenance import sha256
from ctadam.storage.store import read_csv

#: What a user may have set, in a matplotlibrc or a style.
SETTINGS = {
    "lines.linewidth": 9, "axes.grid": True, "font.family": "serif", "savefig.bbox": "tight", "pdf.compression": 0,
    "axes.prop_cycle": "cycler('color', ['r'])", "legend.loc": "center", "text.usetex": True,
}  # fmt: skip


#: Figures that are drawn twice in the default tests too: image, many points, words, layout with a shared legend.
DRAWN = ("fig6", "fig9")


@pytest.mark.parametrize(
    "figure", [pytest.param(name, marks=[pytest.mark.slow] * (name not in DRAWN)) for name in figures.FIGURES]
)
def test_same_data_same_bytes_whatever_the_user_has_set(smoke, tmp_path, figure):
    first = figures.draw(figure, smoke, tmp_path / "a")
    with mpl.rc_context(SETTINGS):
        second = figures.draw(figure, smoke, tmp_path / "b")
        assert mpl.rcParams["lines.linewidth"] == 9
    assert [p.suffix for p in first] == [".pdf", ".png"] and all(p.stat().st_size > 10_000 for p in first)
    assert [sha256(p) for p in first] == [sha256(p) for p in second]


def test_an_inherited_backend_and_a_matplotlibrc_change_nothing(smoke, tmp_path):
    """In a process of its own, because matplotlib reads both once, when it is imported."""
    rc = "\n".join(f"{name}: {value}" for name, value in SETTINGS.items() if name != "axes.prop_cycle")
    (tmp_path / "matplotlibrc").write_text(f"{rc}\nbackend: TkAgg\n", encoding="utf-8")
    expected = figures.draw("fig6", smoke, tmp_path / "expected")
    backend = "module://a_notebook.backend_inline"
    program = (
        "import os, sys; from ctadam.cli import main; status = main(sys.argv[1:]);"
        "import matplotlib; assert matplotlib.rcParams['axes.grid'] is True, 'the matplotlibrc was not read';"
        f"assert os.environ['MPLBACKEND'] == {backend!r}; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "draw", "fig6", smoke, "--out", tmp_path / "drawn"],
        cwd=tmp_path, env=os.environ | {"MPLBACKEND": backend}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [sha256(p) for p in expected] == [sha256(tmp_path / "drawn" / p.name) for p in expected]


def module_in(file):
    """The module in a file below the package."""
    return importlib.import_module(f"ctadam.{file.removesuffix('.py').replace('/', '.')}")


@pytest.mark.parametrize(
    "figure, place, key",
    [
        ("fig1", "analysis/style.py: EQUATIONS", (1, "paper")),
        ("fig1", "analysis/style.py: MODEL_LINES", "mlp"),
        ("fig1", "experiments/trajectory/figure.py: MODELS", "mlp"),
        ("fig1", "experiments/trajectory/figure.py: EQUATIONS", (2, "paper")),
        ("fig2", "analysis/style.py: COLORS", "exact"),
        ("fig2", "analysis/style.py: LINES", "exact"),
        ("fig3", "experiments/generalization/figure.py: TASKS", "images"),
        ("fig12", "experiments/scale_invariance/figure.py: OPTIMIZERS", "2adam_inertial"),
        ("fig4", "experiments/scale_invariance/figure.py: MODEL_MARKERS", "mlp"),
        ("fig5", "analysis/style.py: STRATEGIES", "naive"),
        ("fig5", "experiments/k_sweep/figure.py: NETWORKS", False),
        ("fig6", "experiments/quadratic/figure.py: SWEEPS", "noise"),
        ("fig6", "experiments/quadratic/figure.py: NAMES", "noise"),
        ("fig13", "experiments/practice/figure.py: DTYPES", "float32"),
        ("fig8", "experiments/practice/figure.py: TOKENS", "characters"),
        ("fig9", "experiments/baselines/figure.py: NAMES", "text"),
    ],
)
def test_a_missing_colour_marker_or_name_says_where_to_add_it(smoke, tmp_path, monkeypatch, capsys, figure, place, key):
    """As when an experiment gets a new optimizer, strategy or model; nothing is left out silently either."""
    file, name = place.split(": ")
    monkeypatch.delitem(getattr(module_in(file), name), key)
    assert cli.main(["draw", figure, str(smoke), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said == f"ctadam: {place} has no entry for {key!r}: add one\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "figure, file, name",
    [
        ("fig11", "experiments/growth/figure.py", "FACES"),
        ("fig6", "experiments/quadratic/figure.py", "LOOKS"),
        ("fig8", "experiments/practice/figure.py", "EPS"),
        ("fig9", "analysis/style.py", "OPTIMIZERS"),
    ],
)
def test_more_values_than_markers_says_where_to_add_more(smoke, tmp_path, monkeypatch, capsys, figure, file, name):
    module = module_in(file)
    monkeypatch.setattr(module, name, getattr(module, name)[:1])
    assert cli.main(["draw", figure, str(smoke), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"ctadam: {file}: {name} has 1 entries, and ") and said.count("\n") == 1


@pytest.fixture
def drawn(smoke):
    """A function that draws a figure of the smoke results, not yet laid out."""
    pictures = []

    def draw(figure):
        place = figures._FOUND[figure]
        with style.context():
            pictures.append(getattr(module_in(f"experiments/{place.experiment}/figure.py"), place.function)(smoke))
        return pictures[-1]

    yield draw
    for picture in pictures:
        style.close(picture)


@pytest.mark.parametrize(
    "figure", [pytest.param(name, marks=[pytest.mark.slow] * (name not in DRAWN)) for name in figures.FIGURES]
)
def test_a_figure_fits_its_page_and_its_text_is_readable(drawn, figure):
    picture = drawn(figure)
    with style.context():
        style.freeze_layout(picture)
        box = picture.get_tightbbox()
    width, height = picture.get_size_inches()
    assert width <= style.TEXT_WIDTH
    assert min(*box.min, width - box.xmax, height - box.ymax) > -0.02, "cut off at the edge"
    sizes = [text.get_fontsize() for text in picture.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(sizes) >= style.SMALL
    letters = [ax.get_title(loc="left")[:14] for ax in picture.axes if ax.get_title(loc="left")]
    assert letters == [rf"$\mathbf{{({letter})}}$" for letter in "abcdefghi"[: len(letters)]]


@pytest.mark.parametrize("figure", ["fig3", "fig5", "fig11"])
def test_no_interval_is_cut_off(drawn, figure):
    for ax in drawn(figure).axes:
        low, high = ax.get_ylim()
        for line in ax.lines:
            values = np.asarray(line.get_ydata(), dtype=float)
            if line.get_transform().contains_branch_seperately(ax.transData)[1]:
                assert (values[np.isfinite(values)] >= min(low, high)).all(), ax.get_title(loc="left")
                assert (values[np.isfinite(values)] <= max(low, high)).all(), ax.get_title(loc="left")


def test_two_figures_with_one_number_are_an_error(monkeypatch):
    from ctadam.experiments import practice

    monkeypatch.setattr(practice, "FURTHER_FIGURES", {"fig2_practice": ("practice",)})
    with pytest.raises(ArtifactError, match=r"two figures have one number: .*fig2_practice, fig2_stability"):
        figures._find()


def test_figures_8_and_13_predict_beside_what_was_measured_and_name_every_setting(smoke, drawn):
    measured = read_csv(smoke, "practice", "measurements").query("variant != 'long'")
    holders, unseen, tokens, long = drawn("fig8").axes
    # Two runs, a prediction for the one that is predicted to grow, a name each.
    assert len(long.lines) == 3 and len(long.texts) == 2
    assert len(unseen.lines) == 2 + 2  # points and a line for each ε
    names = [text.get_text() for text in tokens.get_legend().get_texts()]
    assert names == ["words", "characters", "paper: $-C/2$"] and holders.texts
    ended, protection = drawn("fig13").axes
    assert len(ended.lines) == 4
    settings = [label.get_text() for label in protection.get_yticklabels()]
    assert len(settings) == len(set(settings)) == len(measured)
    points = sorted((y, x) for line in protection.lines for x, y in zip(*line.get_data(), strict=True))
    peaks = [peak for _, peak in points]
    assert peaks == sorted(peaks, reverse=True) and max(peaks) == measured["peak"].max()


def test_figures_4_and_12_show_every_law_and_optimizer_and_the_prediction_over_the_measurement(drawn):
    from ctadam.experiments.scale_invariance import figure as norms
    from ctadam.experiments.scale_invariance.measure import LAWS
    from ctadam.experiments.scale_invariance.runs import FIXED_NORM_OPTIMIZERS

    assert list(norms.LAWS) == list(LAWS) and list(norms.OPTIMIZERS) == list(FIXED_NORM_OPTIMIZERS)
    norm, fractions, cosines, _ = drawn("fig4").axes
    measured, *laws = norm.lines
    assert len(laws) == len(LAWS) and all(law.get_zorder() > measured.get_zorder() for law in laws)
    assert all(law.get_ydata()[0] == measured.get_ydata()[0] for law in laws)
    predicted = [line for line in fractions.lines if len(line.get_xdata()) > 100]  # curves, not chords
    assert len(predicted) == len(LAWS)
    labels = [text.get_text() for text in cosines.get_legend().get_texts()]
    assert labels == [r"$\gamma=0$", r"$\gamma=0.9$"]
    *_, distances, linear, mlp, _ = drawn("fig12").axes
    assert len({(line.get_color(), line.get_linestyle()) for line in distances.lines}) == len(FIXED_NORM_OPTIMIZERS)
    for ax in (linear, mlp):  # 2-Adam at two γ, and with the inertial law's rate at one
        markers = [line for line in ax.lines if line.get_marker() not in ("None", "")]
        assert sum(len(line.get_xdata()) for line in markers) == 3


def test_figure_5_shows_the_gain_of_every_strategy_at_equal_rates_and_at_equal_steps(smoke, drawn):
    from ctadam.experiments.k_sweep.measure import pairs

    compared = pairs(read_csv(smoke, "k_sweep", "measurements").query("not norm"))
    _, _, _, rates, steps, _ = drawn("fig5").axes
    for ax, column in ((rates, "gain"), (steps, "raised_gain")):
        means = compared[compared["lr"] <= 3e-3].groupby(["strategy", "lr"])[column].mean()
        drawn_means = [y for line in ax.lines if line.get_marker() in "os^D" for y in line.get_ydata()]
        np.testing.assert_allclose(sorted(drawn_means), np.sort(means), atol=1e-12)
    assert rates.get_ylim() == steps.get_ylim()


def test_figure_9_has_one_name_per_optimizer(drawn):
    picture = drawn("fig9")
    legend = [text.get_text() for text in picture.legends[0].get_texts()]
    for ax in picture.axes[1::2]:
        names = [label.get_text() for label in ax.get_yticklabels()]
        assert len(names) == len(set(names)) and set(legend) - set(names) == {"at Adam's memory traffic"}
