"""The ledger: what is stored, how it is read again, and how it is rendered and explained."""

import dataclasses
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from ctadam import cli
from ctadam.analysis.verdicts import CLAIMS, Judgement, Level, exact, within
from ctadam.artifact import code, explain, ledger, report
from ctadam.artifact.figures import FIGURES
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS


def test_the_workflow_knows_every_claim():
    """It names its targets by the ids that it reads from the source files."""
    found = {(id, name) for name in EXPERIMENTS for id in code.claim_ids(name)}
    assert found == {(claim.id, claim.experiment) for claim in CLAIMS}
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)


def test_every_claim_is_complete():
    for claim in CLAIMS:
        assert claim.source in report.SOURCES and claim.figure in ("", *FIGURES) and claim.columns, claim.id
        assert all(claim.targets) or len(claim.targets) == 1, claim.id
        for text in (claim.text, claim.statistic, claim.rule):
            assert text and not text.endswith("."), claim.id


def test_the_ledger_holds_levels_numbers_and_verdicts(smoke):
    table = ledger.read_ledger(ledger.ledger_path(smoke))
    assert list(table["id"]) == [claim.id for claim in CLAIMS]
    levels = ledger.levels_of(table)
    assert set(levels["id"]) == set(table["id"]) and set(table["verdict"]) <= set(ledger.VERDICTS)
    assert levels[levels["verdict"] != "inconclusive"]["estimate"].notna().all()
    by_level = pd.Series(ledger.by_level(table))
    for id, rows in by_level.groupby(level=0):
        verdict = table.set_index("id").loc[id, "verdict"]
        assert verdict == (rows.iloc[0] if rows.nunique() == 1 else "in part"), id


def test_an_empty_tree_is_one_error(tmp_path):
    with pytest.raises(ArtifactError, match="no results in"):
        ledger.judge(tmp_path / "nothing")


def test_unknown_claims_are_one_line(smoke, capsys):
    assert cli.main(["judge", str(smoke), "--only", "Z9"]) == 1
    assert cli.main(["explain", "Z9"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all("there is no claim 'Z9' (there are: S1" in line for line in said)


@pytest.mark.parametrize("which", ["fig7", "S7"])
def test_a_figure_or_a_claim_is_judged_alone(results, which, capsys):
    assert cli.main(["judge", str(results), "--only", which, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    ids = list(ledger.read_ledger(ledger.ledger_path(results, which))["id"])
    assert ids == [claim.id for claim in CLAIMS if which in (claim.figure, claim.id)] and ids
    assert cli.main(["ledger", str(results), "--only", which]) == 0
    assert capsys.readouterr().out.startswith(f"{ids[0]} ")


def made(levels, id="S7", **columns):
    """A ledger of one claim with the given levels, judged by a target of 1 ± 0.1."""
    claim = dataclasses.replace(ledger.find(id), targets={"": within(0.1), "b": within(0.1)}, needed=None)
    found = dataclasses.replace(claim, measure=lambda e: Judgement(levels, {"further": 2.5})).judge(None)
    row = {name: getattr(claim, name) for name in ("id", "source", "statistic", "rule", "experiment", "figure")} | {
        "claim": claim.text, "verdict": found.verdict, "command": "", "data": "pydoc",
        "levels": json.dumps([ledger._as_dict(level) for level in found.levels]), "numbers": json.dumps(dict(found.numbers)),
    }  # fmt: skip
    return pd.DataFrame([row | columns])


def test_numbers_survive_the_file_with_six_digits():
    table = made([Level(1.23456789, math.nan, math.inf, "γ = 0"), exact(1 + 2e-9, "γ = 0.9")])
    levels = ledger.levels_of(table)
    assert levels["estimate"].tolist() == [1.23457, 1.000000002]
    assert np.isnan(levels["low"].iloc[0]) and np.isnan(levels["high"].iloc[0])
    assert ledger.numbers_of(table) == {"S7": {"further": 2.5}}


def test_detectable_difference_has_its_power():
    """In simulated data with this true difference, the interval excludes zero in about 80 % of the draws."""
    from ctadam.analysis.seeds import over_seeds

    rng = np.random.default_rng(0)
    mean, low, high = over_seeds(rng.normal(0, 1, 200))
    assert ledger.detectable(Level(mean, low, high, n=200)) == pytest.approx(2.8 / math.sqrt(200), rel=0.1)
    half = 1.242  # of the interval of five seeds with standard deviation 1
    shift = ledger.detectable(Level(0, -half, half, n=5))
    found = [over_seeds(row + shift)[1] > 0 for row in rng.normal(0, 1, (4000, 5))]
    assert 0.75 < np.mean(found) < 0.9
    assert np.isnan(ledger.detectable(exact(1.0)))


def test_the_terminal_shows_each_level_with_its_verdict_and_the_shipped_one():
    levels = [Level(1.0, 0.95, 1.05, "γ = 0", n=5), Level(1.3, 1.2, 1.4, "γ = 0.9", n=5)]
    text = report.ledger_text(made(levels))
    assert "\ndata: pydoc\n" in text
    assert "in part" in text and "1 [0.95, 1.05]" in text and "1.3 [1.2, 1.4]" in text and "contradicted" in text
    other = made(levels[:1])
    text = report.ledger_text(made(levels).assign(shipped_levels=other["levels"], shipped_verdict=other["verdict"]))
    assert "shipped 1 [0.95, 1.05]" in text and "(shipped: reproduced)" in text


def test_many_levels_are_summarized_by_verdict():
    levels = [exact(1.0 + (i > 15), f"λ = {i}") for i in range(20)]
    lines = report.level_lines(made(levels), "S7")
    assert [(line[0][:8], line[2]) for line in lines] == [("16 of 20", "reproduced"), ("4 of 20 ", "contradicted")]


def test_counts_are_by_source():
    table = pd.concat([made([exact(1.0)], source="P"), made([exact(2.0)], source="D")])
    assert report.counts_by_source(table) == [
        "the paper's claims (1): 1 reproduced",
        "derived for this artifact (1): 1 contradicted",
    ]


def test_explain_leads_from_the_verdict_to_files_and_lines(root, capsys, monkeypatch):
    for claim in CLAIMS:
        assert cli.main(["explain", claim.id]) == 0
        said = capsys.readouterr().out
        assert claim.statistic in said and claim.rule in said and f"snakemake {claim.id}" in said
        files = re.findall(r"(src/ctadam/\S+?):(\d+) (\w+)$", said, re.MULTILINE)
        assert {"run", "measure", "predict"} <= {name for *_, name in files}
        for path, line, name in files:
            lines = (root / path).read_text(encoding="utf-8").splitlines()[int(line) - 1 :]
            assert any(re.match(rf"def {name}\b", text) for text in lines[:40]), (claim.id, path, name)


def test_the_page_of_claims_is_up_to_date(root):
    assert (root / "docs/claims.md").read_text(encoding="utf-8") == explain.page(root), "run `ctadam docs`"


def test_the_readme_links_every_claim(root):
    page = (root / "docs/claims.md").read_text(encoding="utf-8")
    readme = (root / "README.md").read_text(encoding="utf-8")
    for claim in CLAIMS:
        assert f"(docs/claims.md#{claim.id.lower()})" in readme and f"\n## {claim.id}\n" in page, claim.id


def test_the_headline_is_the_largest_scale_that_decides(tmp_path, monkeypatch):
    tables = {
        "paper": made([exact(1.0, lost=1)]),
        "desk": pd.concat([made([exact(2.0)]), made([exact(2.0, lost=1)], id="S8").assign(verdict="inconclusive")]),
        "laptop": pd.concat([made([exact(1.0)]), made([exact(1.0, lost=1)], id="S8")]),
    }
    monkeypatch.setattr(report, "ledgers", lambda root: tables)
    found = report.headline(tmp_path).set_index("id")
    assert found.loc["S7", ["scale", "verdict"]].tolist() == ["desk", "contradicted"]
    assert found.loc["S8", ["scale", "verdict"]].tolist() == ["laptop", "inconclusive"]
