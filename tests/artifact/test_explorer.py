"""The explorer: its formulas agree with Python's, and it embeds the runs that were made."""

import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from chromium import axe, needs_axe, needs_chromium, open_page

from ctadam import cli
from ctadam.artifact.report import explorer
from ctadam.artifact.report.html import TEMPLATES
from ctadam.errors import ArtifactError
from ctadam.optim.stages import stage_betas
from ctadam.storage.store import read_joined
from ctadam.theory import stability

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")

#: Prints the values of an expression for each row of arguments; JSON has no infinities, so they travel as text.
EVALUATE = """
const theory = require(process.argv[1]);
const rows = JSON.parse(require("fs").readFileSync(0, "utf8"));
const decode = (x) => (typeof x === "string" && x.startsWith("#") ? Number(x.slice(1)) : x);
const encode = (x) => (Array.isArray(x) ? x.map(encode) : typeof x === "number" ? String(x) : x);
console.log(JSON.stringify(rows.map(([name, ...args]) => encode(theory[name](...args.map(decode))))));
"""


def in_javascript(calls):
    """Return the results of calls ``(function, *arguments)`` of theory.js."""
    encoded = [[call[0], *(f"#{x!r}" if isinstance(x, float) else x for x in call[1:])] for call in calls]
    text = json.dumps(encoded).replace("#inf", "#Infinity").replace("#nan", "#NaN")
    command = ["node", "-e", EVALUATE, str(TEMPLATES / "theory.js")]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    decode = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}

    def decoded(x):
        return [decoded(y) for y in x] if isinstance(x, list) else decode.get(x, x)

    return [decoded(x) for x in json.loads(done.stdout)]


def numbers(values):
    return np.array([float(value) for value in values])


#: Decays over the whole range: the edge 0, tiny ones, an even grid, pairs in common use, and up to the last float below 1.
DECAYS = [
    0.0, 5e-324, 1e-300, 1e-12, 1e-6, 1e-4, 0.001, *(i / 16 for i in range(1, 16)), 0.7, 0.72, 0.81, 0.9, 0.9025, 0.95, 0.98,
    0.99, 0.995, 0.999, 0.9999, 0.99999, 1 - 1e-9, 1 - 1e-13, 1 - 2**-52, 1 - 2**-53,
]  # fmt: skip
#: All pairs of them, and pairs on both boundaries and a few floats beside: there the verdicts change.
PAIRS = [(g, b) for g in DECAYS for b in DECAYS]
for _gamma in DECAYS:
    for _law in ("paper", "exact"):
        _edge = float(stability.boundary_beta2(beta1=_gamma, law=_law))
        PAIRS += [(_gamma, b) for b in (_edge, *(np.nextafter(_edge, x) for x in (0.0, 1.0)), _edge * (1 - 1e-12))]
        PAIRS += [(_gamma, _edge * (1 + d)) for d in (1e-14, 1e-10, 1e-5)]
PAIRS = [(float(g), float(b)) for g, b in PAIRS if b < 1]
GAMMA, BETA = np.array(PAIRS).T


def same(found, expected, rtol=1e-12):
    """Whether numbers agree; infinities and NaN must be the same ones."""
    np.testing.assert_allclose(numbers(found), expected, rtol=rtol, atol=0)


@needs_node
@pytest.mark.parametrize("law", ["paper", "exact"])
def test_coefficients_and_rates_agree(law):
    found = in_javascript([("coefficient", g, b, law) for g, b in PAIRS])
    same(found, stability.stability_coefficient(beta1=GAMMA, beta2=BETA, law=law))
    found = in_javascript([("growthRate", g, b, law) for g, b in PAIRS])
    same(found, stability.growth_rate(beta1=GAMMA, beta2=BETA, law=law))


@needs_node
def test_verdicts_agree():
    expected = [stability.verdict(beta1=g, beta2=b).name.lower() for g, b in PAIRS]
    assert in_javascript([("verdict", g, b) for g, b in PAIRS]) == expected
    assert set(expected) == {"stable", "bounded", "boundary", "unstable"}


@needs_node
@pytest.mark.parametrize("law", ["paper", "exact"])
@pytest.mark.parametrize("step", [0.0, 1.0, 2.0, 499.0, 1e5, math.inf])
def test_bounds_agree(law, step):
    found = in_javascript([("updateBound", g, b, step, law) for g, b in PAIRS])
    expected = stability.update_bound(beta1=GAMMA, beta2=BETA, step=step, law=law)
    # exp(n·rate) enlarges the rounding of the coefficient by its exponent.
    same(found, expected, rtol=1e-10)
    same(
        in_javascript([("prefactor", g, b, step) for g, b in PAIRS]),
        stability.prefactor(beta1=GAMMA, beta2=BETA, step=step),
    )


@needs_node
@pytest.mark.parametrize("law", ["paper", "exact"])
def test_nearest_stable_pairs_agree(law):
    """As text, because they are typed."""
    expected = [repr(stability.nearest_stable_beta2(beta1=g, beta2=b, law=law)) for g, b in PAIRS]
    found = in_javascript([("nearestStableBeta2", g, b, law) for g, b in PAIRS])
    assert [repr(float(value)) for value in found] == expected


@needs_node
def test_boundaries_agree():
    for law in ("paper", "exact"):
        found = in_javascript([("boundaryBeta2", g, law) for g in DECAYS])
        same(found, stability.boundary_beta2(beta1=DECAYS, law=law))
        back = in_javascript([("boundaryBeta1", float(b), law) for b in found if float(b) > 0])
        same(back, [g for g, b in zip(DECAYS, found, strict=True) if float(b) > 0], rtol=1e-9)
    for c in (-1.0, -0.1, 0.0, 0.3):
        with np.errstate(over="ignore"):
            expected = stability.level_curve(coefficient=c, beta2=DECAYS)
        same(in_javascript([("levelCurve", c, b) for b in DECAYS]), expected)


@needs_node
@pytest.mark.parametrize("eps, root", [(1e-8, 1.0), (1e-15, 1.0), (1e-6, 1e-3), (10.0, 1.0)])
def test_epsilon_s_cap_agrees(eps, root):
    # At the boundary both logarithms cancel, and an ulp of either changes the result.
    rate = stability.growth_rate(beta1=GAMMA, beta2=BETA, law="exact")
    unstable = [pair for pair, r in zip(PAIRS, rate, strict=True) if min(pair) > 0 and r > -1e-6 * math.log(pair[0])]
    gamma, beta = np.array(unstable).T
    found = np.array([numbers(pair) for pair in in_javascript([("epsilonCap", g, b, eps, root) for g, b in unstable])])
    expected = np.stack(stability.epsilon_cap(beta1=gamma, beta2=beta, eps=eps, root=root), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@needs_node
@pytest.mark.parametrize("strategy", ["naive", "exp", "inverse-exp", "uniform"])
def test_stages_agree(strategy):
    cases = [(k, g, b) for k in (1, 2, 3, 5) for g, b in PAIRS]
    found = in_javascript([("stageBetas", strategy, *case) for case in cases])
    for (k, g, b), stages in zip(cases, found, strict=True):
        expected = stage_betas(strategy, k, betas=(g, b))
        np.testing.assert_allclose(np.array(stages, dtype=float), expected, rtol=1e-12, atol=1e-300)


@pytest.fixture(scope="module")
def shipped_runs(root):
    return explorer.data(root)["runs"]


@pytest.fixture(scope="module")
def alone(root):
    """The explorer as a page of its own."""
    return explorer.page(root)


def test_explorer_is_one_file_of_at_most_300_kb(alone):
    assert len(alone.encode()) <= 300_000
    assert "default-src 'none'" in alone and not re.search(r"https?://(?!www\.w3\.org/2000/svg)", alone)


def test_embedded_runs_are_those_that_were_made(root, shipped_runs):
    scale = shipped_runs[0]["scale"]
    table = read_joined(root / "results/cached" / scale, "growth")
    own = [run for run in shipped_runs if run["scale"] == scale]
    assert sum(run["seeds"] for run in own) == len(table)
    for run in own:
        rows = table[
            np.isclose(table["beta1"], run["betas"][0], rtol=1e-11)
            & np.isclose(table["beta2"], run["betas"][1], rtol=1e-11)
            & (table["eps"] == run["eps"])
            & (table["variant"] == run["variant"])
        ]
        assert len(rows) == run["seeds"]
        assert run["peak"] == pytest.approx(rows["peak"].max(), rel=1e-3)
        assert run["rate"] == pytest.approx(rows["held_rate"].mean(), rel=1e-3, abs=1e-12)
        assert run["rates"] == pytest.approx(list(rows[["rate_paper", "rate_exact"]].iloc[0]), rel=1e-3)
        steps, updates = run["curve"]
        assert steps == sorted(set(steps)) and len(steps) == len(updates) and steps[-1] == run["steps"] - 1
        assert max(value for value in updates if value is not None) <= run["peak"] * 1.01


def test_a_checkout_without_runs_has_an_explorer(tmp_path):
    assert explorer.data(tmp_path)["runs"] == explorer.data(None)["runs"] == [] and "explorer-data" in explorer.page(
        tmp_path
    )


def test_explore_writes_the_explorer(tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, "page", lambda checkout: "the page")
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: not opened.append(url))
    path = tmp_path / "explorer.html"
    assert cli.main(["explore", "--out", str(path), "--no-browser"]) == 0 and opened == []
    assert path.read_text() == "the page"
    assert cli.main(["explore", "--out", str(path)]) == 0 and opened == [path.as_uri()]
    assert cli.main(["explore", "--out", str(tmp_path)]) == 1

    def missing():
        raise ArtifactError("no checkout")

    monkeypatch.setattr(explorer, "root", missing)
    monkeypatch.setattr(explorer, "page", str)
    assert cli.main(["explore", "--out", str(path), "--no-browser"]) == 0 and path.read_text() == "None"


#: Helpers in the page: type betas, read what is shown.
HELPERS = """
  const $ = (id) => document.getElementById(id);
  const type = (text) => { $("betas").value = text; $("betas").dispatchEvent(new Event("input", {bubbles: true})); };
  const choose = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("change", {bubbles: true})); };
  const shown = () => ({betas: $("betas").value, snippet: $("snippet").textContent, sentence: $("sentence").textContent,
    sliders: [$("beta1").getAttribute("aria-valuetext"), $("beta2").getAttribute("aria-valuetext")],
    laws: [...$("laws").rows].map((row) => [...row.cells].map((cell) => cell.textContent)), hint: $("hint").textContent,
    error: $("betas-error").textContent, invalid: $("betas").getAttribute("aria-invalid"), run: $("run").textContent,
    cap: $("cap").textContent, stages: $("stages").textContent});
"""


def ask(alone, tmp_path, script):
    return open_page(alone, HELPERS + script, tmp_path)


@needs_chromium
def test_typed_betas_change_everything(alone, tmp_path):
    seen = ask(
        alone, tmp_path,
        'const start = shown(); type("betas=(0.95, 0.85)"); choose("eps", "1e-8"); choose("k", "3"); choose("strategy", "exp");'
        "return [start, shown()];",
    )  # fmt: skip
    start, then = seen
    assert start["snippet"] == "betas=(0.9, 0.999)" and start["sentence"].startswith("Stable.")
    assert then["snippet"] == "betas=(0.95, 0.85)" and then["sliders"] == ["0.95", "0.85"]
    assert then["sentence"].startswith("Unstable.") and "Nearest stable beta2: betas=(0.95, 0.9048)" in then["hint"]
    assert "Did you mean betas=(0.85, 0.95)?" in then["hint"]
    unseen, cap = stability.epsilon_cap(beta1=0.95, beta2=0.85, eps=1e-8)
    assert f"{unseen:.0f} steps" in then["cap"] and f"{cap:.3g} times" in then["cap"]
    ((gamma, beta), *_) = stage_betas("exp", 3, betas=(0.95, 0.85))
    assert f"betas=({gamma:.4g}, {beta:.4g})" in then["stages"] and 'k=3, stages="exp"' in then["stages"]
    for name, law in (("coefficient", 1), ("growth per step", 1)):
        row = next(row for row in then["laws"] if row[0] == name)
        function = stability.stability_coefficient if name == "coefficient" else stability.growth_rate
        for cell, key in zip(row[law:], ("paper", "exact"), strict=True):
            assert float(cell.replace("−", "-")) == pytest.approx(function(beta1=0.95, beta2=0.85, law=key), rel=1e-3)


@needs_chromium
@pytest.mark.parametrize(
    "text, error",
    [
        ("0.9, 1", "beta2 must be at least 0 and below 1."),
        ("-0.1 0.9", "beta1 must be at least 0 and below 1."),
        ("0.9", "Type two numbers: beta1, beta2."),
        ("", "Type two numbers: beta1, beta2."),
        ("0.9, 0.99, 0.999", "Type two numbers: beta1, beta2."),
    ],
)
def test_wrong_betas_are_explained_and_change_nothing(alone, tmp_path, text, error):
    seen = ask(alone, tmp_path, f"type({text!r}); return shown();")
    assert seen["error"] == error and seen["invalid"] == "true" and seen["snippet"] == "betas=(0.9, 0.999)"


@needs_chromium
@pytest.mark.parametrize("text", ["0.8, 0.9", "(0.8, 0.9)", "betas=(0.8, 0.9)", "beta1=0.8 beta2=.9", "8e-1 0.9"])
def test_betas_may_be_typed_as_in_code(alone, tmp_path, text):
    assert ask(alone, tmp_path, f"type({text!r}); return shown();")["snippet"] == "betas=(0.8, 0.9)"


@needs_chromium
@pytest.mark.parametrize("beta1, beta2", [(0, 0), (0, 0.9), (0.9, 0), (0.9, 0.81), (0.9999999, 0.9999999), (1e-9, 0.5)])
def test_edges_are_words_without_nan(alone, tmp_path, beta1, beta2):
    kind = stability.verdict(beta1=beta1, beta2=beta2)
    words = {"STABLE": "Stable.", "BOUNDED": "Bounded", "BOUNDARY": "On the boundary.", "UNSTABLE": "Unstable."}[
        kind.name
    ]
    for axes in ("axes-log", "axes-linear"):
        script = f'$("{axes}").click(); type("{beta1:.12f} {beta2:.12f}");'
        script += 'return [shown(), $("plane").innerHTML, $("bound").innerHTML];'
        seen, plane, bound = ask(alone, tmp_path, script)
        assert seen["sentence"].startswith(words) and "NaN" not in str(seen) + plane + bound
        assert "undefined" not in str(seen) and "Infinity" not in plane + bound


@needs_chromium
def test_sliders_move_the_pair_by_keyboard(alone, tmp_path):
    script = """
      const slider = $("beta2"), values = [];
      for (let i = Number(slider.min); i <= Number(slider.max); i++) {
        slider.value = String(i);
        slider.dispatchEvent(new Event("input", {bubbles: true}));
        values.push(Number(slider.getAttribute("aria-valuetext")));
      }
      slider.stepDown();  // what an arrow key does
      slider.dispatchEvent(new Event("input", {bubbles: true}));
      return [values, slider.type, slider.step, shown()];
    """
    values, kind, step, seen = ask(alone, tmp_path, script)
    assert kind == "range" and step == "1" and values == sorted(set(values)) and values[0] == 0 and values[-1] >= 0.9999
    assert {0.9, 0.95, 0.98, 0.99, 0.999} <= set(values)
    assert seen["snippet"] == f"betas=(0.9, {values[-2]:g})"


@needs_chromium
@pytest.mark.parametrize("axes", ["axes-log", "axes-linear"])
def test_the_point_is_dragged(alone, tmp_path, axes):
    """To a place in the unstable corner and back into the stable region."""
    script = """
      $("AXES").click();
      const plane = $("plane"), box = plane.getBoundingClientRect(), seen = [];
      plane.setPointerCapture = () => {};
      const at = (name, x, y) => plane.dispatchEvent(new PointerEvent(name, {bubbles: true, pointerId: 1, pointerType: "mouse",
        clientX: box.left + x * box.width, clientY: box.top + y * box.height}));
      at("pointerdown", 0.5, 0.5);
      at("pointermove", 0.2, 0.2);
      seen.push(shown());
      at("pointermove", 0.9, 0.8);
      at("pointerup", 0.9, 0.8);
      seen.push(shown());
      at("pointermove", 0.2, 0.2);
      seen.push(shown());
      return seen;
    """
    first, second, third = ask(alone, tmp_path, script.replace("AXES", axes))
    assert first["sentence"].startswith("Unstable.") and second["sentence"].startswith("Stable.")
    assert second == third, "the pointer was up"
    assert len(second["snippet"]) <= len("betas=(0.12345, 0.12345)")


@needs_chromium
def test_marks_and_the_nearest_run_are_chosen(alone, tmp_path, shipped_runs):
    run = next(run for run in shipped_runs if run["variant"] == "curve" and run["rates"][1] > 0.01)
    script = f"""
      document.querySelector("#pairs button[data-betas='0.9,0.95']").click();
      const chip = shown();
      type("{run["betas"][0]}, {run["betas"][1]}");
      const near = shown();
      $("run").querySelector("button").click();
      return [chip, near, shown(), location.hash];
    """
    chip, near, moved, fragment = ask(alone, tmp_path, script)
    assert chip["snippet"] == "betas=(0.9, 0.95)" and "betas=(0.9, 0.95)" in chip["run"]
    short = "betas=({}, {})".format(*(float(f"{x:.6g}") for x in run["betas"]))
    assert short in near["run"] and "growth per step" in near["run"] and moved["snippet"] == short
    assert f"{run['rate']:.4g}" in near["run"] and fragment.startswith("#betas=")


@needs_chromium
def test_an_address_chooses_the_pair(alone, tmp_path):
    assert (
        open_page(alone, HELPERS + "return shown().snippet;", tmp_path, fragment="#betas=0.8,0.7") == "betas=(0.8, 0.7)"
    )
    assert (
        open_page(alone, HELPERS + "return shown().snippet;", tmp_path, fragment="#betas=2,x") == "betas=(0.9, 0.999)"
    )


def test_the_sentence_is_announced(alone):
    assert re.search(r'<p id="sentence"[^>]*aria-live="polite"', alone)


@needs_chromium
@needs_axe
@pytest.mark.parametrize("width", [500, 1400])
def test_axe_finds_no_violations(alone, tmp_path, width):
    assert axe(alone, tmp_path, width=width) == []
