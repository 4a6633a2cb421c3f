"""Figures: drawn from results alone, the same bytes every time, and the stages keep to their own."""

import importlib
import os
import subprocess
import sys

import matplotlib as mpl
import pytest

from ctadam import cli
from ctadam.artifact import figures
from ctadam.storage.provenance import sha256

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
        ("fig4", "experiments/scale_invariance/figure.py: OPTIMIZERS", "2adam_inertial"),
        ("fig4", "experiments/scale_invariance/figure.py: MODEL_MARKERS", "mlp"),
        ("fig5", "analysis/style.py: STRATEGIES", "naive"),
        ("fig5", "experiments/k_sweep/figure.py: TITLES", False),
        ("fig6", "experiments/quadratic/figure.py: SWEEPS", "noise"),
        ("fig6", "experiments/quadratic/figure.py: NAMES", "noise"),
        ("fig8", "experiments/practice/figure.py: DTYPES", "float32"),
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
        ("fig2", "experiments/growth/figure.py", "FILLED"),
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


def test_figure_8_names_every_setting_and_predicts_beside_what_was_measured(smoke):
    from ctadam.analysis import style
    from ctadam.experiments.practice import figure as fig8_practice
    from ctadam.storage.store import read_csv

    measured = read_csv(smoke, "practice", "measurements")
    with style.context():
        picture = fig8_practice.draw(smoke)
        holders, tokens, ended, unseen, long, protection = picture.axes
        settings = [label.get_text() for label in protection.get_yticklabels()]
        assert len(settings) == len(set(settings)) == len(measured.query("variant != 'long'"))
        peaks = [line.get_xdata()[0] for line in protection.lines]
        assert peaks == sorted(peaks, reverse=True) and max(peaks) == measured.query("variant != 'long'")["peak"].max()
        assert len(ended.lines) == 4
        # Two runs, a line with its halo for the one that is predicted to grow, a name each.
        assert len(long.lines) == 4 and len(long.texts) == 2
        assert len(unseen.lines) == 2 + 2  # points and a line for each ε
        assert [text.get_text() for text in tokens.get_legend().get_texts()] == [
            "$|C|/2$ (paper)",
            "words",
            "characters",
        ]
        assert all(ax.get_xlabel() for ax in picture.axes) and holders.texts
        style.close(picture)


def test_figure_4_shows_every_law_and_optimizer_and_the_prediction_over_the_measurement(smoke):
    from ctadam.analysis import style
    from ctadam.experiments.scale_invariance import figure as fig4_norms
    from ctadam.experiments.scale_invariance.measure import LAWS
    from ctadam.experiments.scale_invariance.runs import FIXED_NORM_OPTIMIZERS

    assert list(fig4_norms.LAWS) == list(LAWS) and list(fig4_norms.OPTIMIZERS) == list(FIXED_NORM_OPTIMIZERS)
    with style.context():
        picture = fig4_norms.draw(smoke)
        norm, fractions, _, cosines, _, _, distances, ratios = picture.axes
        measured, *laws = norm.lines
        assert len(laws) == len(LAWS) and all(law.get_zorder() > measured.get_zorder() for law in laws)
        assert all(law.get_ydata()[0] == measured.get_ydata()[0] for law in laws)
        predicted = [line for line in fractions.lines if len(line.get_xdata()) == 2 and line.get_marker() == "None"]
        assert len(predicted) == len(LAWS)
        labels = [text.get_text() for text in cosines.get_legend().get_texts()]
        assert labels == [r"$\gamma=0$", r"$\gamma=0.9$", "random"]
        assert len({(line.get_color(), line.get_marker()) for line in distances.lines}) == len(FIXED_NORM_OPTIMIZERS)
        # Adam; for two models 2-Adam at two γ, and with the inertial law's rate at one.
        assert len(ratios.lines) == 1 + 2 * 3
        assert all(ax.get_ylabel() and ax.get_title(loc="left") for ax in picture.axes)
        style.close(picture)
