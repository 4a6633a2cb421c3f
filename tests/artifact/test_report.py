"""What is generated from results: the README's table, `ctadam results`, the pages of the report; and that none is stale."""

import re
import shutil

import pytest

from ctadam import cli
from ctadam.artifact import figures, reviewers, scales
from ctadam.artifact import report as pages
from ctadam.artifact.figures import FIGURES
from ctadam.artifact.ledger import CLAIMS, read_ledger, sources_of_ledger
from ctadam.artifact.report import html
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS
from ctadam.storage.provenance import write_derived
from ctadam.storage.store import DERIVED, checked_shards, read_runs


@pytest.fixture
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


def test_the_table_in_the_readme_is_not_stale(root, readme):
    assert pages.with_table(readme, pages.figure_table(root)) == readme, "run `ctadam docs`"


@pytest.fixture
def checkout(root, shipped, tmp_path, monkeypatch):
    """A directory that looks like a checkout, with smoke runs shipped."""
    (tmp_path / "workflow").symlink_to(root / "workflow")
    shutil.copytree(shipped, tmp_path / "results/cached/smoke")
    monkeypatch.setattr(pages, "HEADLINE_SCALES", ("smoke",))
    (tmp_path / "README.md").write_text(f"before\n{pages.BEGIN}\nold\n{pages.END}\nafter\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_table_follows_the_ledger(checkout):
    """Or the test above could not fail."""
    table = pages.figure_table(checkout, "smoke")
    rows = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    assert rows.keys() == FIGURES.keys()
    ledger = read_ledger(checkout / "results/cached/smoke/claims.csv")
    assert f"{len(ledger)} claims, each at the largest scale that decides it ({len(ledger)} at smoke scale)" in table
    assert pages.ONLY_ABSTRACT in table and all(line in table for line in pages.counts_by_source(ledger))
    path = checkout / "results/cached/smoke/claims.csv"
    changed = ledger.assign(verdict=ledger["verdict"].where(ledger["id"] != "S7", "contradicted"))
    write_derived(changed, path, sources_of_ledger(changed, path.parent))
    other = pages.figure_table(checkout, "smoke")
    (row,) = (line for line in other.splitlines() if line.startswith("| `fig7`"))
    assert other != table and "contradicted: [S7](docs/claims.md#s7)" in row and "contradicted" not in rows["fig7"]
    path.write_text(path.read_text().replace("contradicted", "reproduced"))
    with pytest.raises(ArtifactError, match="was edited"):
        pages.figure_table(checkout, "smoke")


def test_times_and_sizes_are_those_of_the_provenance(checkout, monkeypatch):
    real = pages.checked_shards
    monkeypatch.setattr(
        pages, "checked_shards",
        lambda directory, name: {p: r | {"wall_s": 300.0, "cpu_s": 90.0} for p, r in real(directory, name).items()},
    )  # fmt: skip
    row = next(line for line in pages.figure_table(checkout, "smoke").splitlines() if line.startswith("| `fig2`"))
    cpu, gpu, disk = (cell.strip() for cell in row.split("|")[5:8])
    assert cpu == "3 min" and gpu == "—" and re.fullmatch(r"[\d.]+ [kM]B", disk)  # two shards of 90 s of CPU time
    monkeypatch.setattr(
        pages, "checked_shards",
        lambda directory, name: {p: r | {"wall_s": 20.0, "device": "NVIDIA H100"} for p, r in real(directory, name).items()},
    )  # fmt: skip
    row = next(line for line in pages.figure_table(checkout, "smoke").splitlines() if line.startswith("| `fig2`"))
    assert [cell.strip() for cell in row.split("|")[5:7]] == ["—", "40 s"]


def test_the_command_renews_the_readme_between_its_marks(checkout, monkeypatch, readme):
    monkeypatch.setattr(pages, "figure_table", lambda root: "new")
    monkeypatch.setattr(reviewers, "page", lambda root: "new")
    (checkout / "docs").mkdir()
    (checkout / "docs/scales.md").write_text(f"{scales.BEGIN}\n{scales.END}\n")
    assert cli.main(["docs"]) == 0
    assert "| `smoke` | 9 of 9 |" in (checkout / "docs/scales.md").read_text()
    assert (checkout / "README.md").read_text() == f"before\n{pages.BEGIN}\n\nnew\n\n{pages.END}\nafter\n"
    (checkout / "README.md").write_text("no marks")
    assert cli.main(["docs"]) == 1


def test_every_figure_has_a_caption_with_a_title(root):
    for figure in FIGURES:
        assert len(figures.caption_title(root, figure)) > 5


def test_results_lists_what_is_shipped(checkout, capsys):
    assert cli.main(["results"]) == 0
    said = capsys.readouterr().out
    for name in EXPERIMENTS:
        line = next(line for line in said.splitlines() if line.startswith(name))
        assert " smoke " in line and " cpu " in line
        assert line.split("MB")[-1].split("kB")[-1].split() == [c.id for c in CLAIMS if c.experiment == name]
    assert f"{len(EXPERIMENTS)} sets of runs" in said


@pytest.mark.parametrize("which", ["smoke", "smoke/"])
def test_results_lists_one_scale(checkout, capsys, which):
    (checkout / "results/cached/other").mkdir()
    (checkout / "results/cached/other/SHA256SUMS").touch()
    assert cli.main(["results", which]) == 0
    header, *rows, total = capsys.readouterr().out.splitlines()
    assert header.split()[1] == "scale" and [row.split()[1] for row in rows] == ["smoke"] * len(EXPERIMENTS)
    assert total.startswith(f"{len(EXPERIMENTS)} sets of runs")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_results_shows_provenance_and_summary(checkout, capsys, name):
    assert cli.main(["results", f"smoke/{name}"]) == 0
    said = capsys.readouterr().out
    for path, record in checked_shards(checkout / "results/cached/smoke", name).items():
        assert path.name in said and record["sha256"] in said and record["code"] in said
    assert all(f"\n  {column} " in said for column in read_runs(checkout / "results/cached/smoke", name))


@pytest.mark.parametrize(
    "which, message",
    [
        ("smoke/nothing", "no shipped runs smoke/nothing (there are: smoke/"),
        ("paper/growth", "no shipped runs paper/growth (there are: smoke/"),
        (
            "growth",
            "'growth' is not SCALE/EXPERIMENT, such as laptop/growth, nor a scale with shipped results (there are: ",
        ),
        ("../cached/smoke/growth", "no shipped runs ../cached/smoke/growth"),
        ("/growth", "no shipped runs /growth"),
    ],
)
def test_results_that_are_not_there_are_one_line(checkout, capsys, which, message):
    assert cli.main(["results", which]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and message in said[0]


def test_the_report_s_pages_show_the_ledger_and_the_provenance(checkout):
    results = checkout / "results/redrawn/smoke"
    shutil.copytree(checkout / "results/cached/smoke", results, ignore=shutil.ignore_patterns("shard-*", "SHA256SUMS"))
    assert cli.main(["pages", str(results)]) == 0
    ledger = (results / "claims.html").read_text(encoding="utf-8")
    assert all(f"<b>{claim.id}</b>" in ledger for claim in CLAIMS) and "shipped" not in ledger
    provenance = (results / "provenance.html").read_text(encoding="utf-8")
    assert all(f"<h2>{name}</h2>" in provenance for name in EXPERIMENTS)
    assert not re.search("https?://", ledger + provenance)


def test_ones_own_ledger_shows_the_shipped_verdicts(checkout):
    from ctadam.artifact import ledger as claims

    results = checkout / "results/cached/smoke"
    claims.write(claims.add_shipped_columns(claims.judge(results), claims.ledger_path(results)), results)
    page = html.ledger_page(results)
    assert page.count("shipped: ") == len(CLAIMS)


def test_the_ledger_s_page_escapes_what_it_shows(checkout):
    path = checkout / "results/cached/smoke/claims.csv"
    ledger = read_ledger(path).assign(statistic="a < b & c")
    write_derived(ledger, path, sources_of_ledger(ledger, path.parent))
    page = html.ledger_page(path.parent)
    assert "<small>a &lt; b &amp; c</small>" in page and "a < b" not in page


def documented(page, name):
    """Words in backticks in results/README.md: before all sections, in those of one experiment, and in those they refer to."""
    first, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    own = "".join(section for section in sections if re.match(rf"{name}\b", section))
    others = re.findall(r"\bas `(\w+)`, ", own)
    own += "".join(section for section in sections for other in others if re.match(rf"{other}\b", section))
    return set(re.findall(r"`([^`\s]+)`", first + own))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_results_readme_explains_every_column(root, smoke, name):
    """Raw, predicted and measured; of numbered columns the first and the last, of a slope's columns the suffixes."""
    import pandas as pd

    words = documented((root / "results/README.md").read_text(encoding="utf-8"), name)
    columns = set(read_runs(smoke, name))
    for table in DERIVED:
        columns |= set(pd.read_csv(smoke / name / f"{table}.csv", nrows=0).columns)

    def explained(column):
        stem = re.sub(r"\d+$", "", column)
        numbered = stem != column and any(re.fullmatch(rf"{re.escape(stem)}\d+", word) for word in words)
        suffixed = any(column.endswith(word) and column.removesuffix(word) in words for word in words if word[0] == "_")
        return column in words or numbered or suffixed

    assert not [column for column in sorted(columns) if not explained(column)]
