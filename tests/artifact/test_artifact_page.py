"""The artifact's page: what it shows, that it stands alone, and that it works in a browser without a network."""

import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from chromium import axe, needs_axe, needs_chromium, open_page

from ctadam import cli
from ctadam.artifact import report
from ctadam.artifact.figures import FIGURES, paths
from ctadam.artifact.ledger import CLAIMS, read_ledger, sources_of_ledger
from ctadam.artifact.report import page as pages
from ctadam.storage.provenance import write_derived


class Elements(HTMLParser):
    """All elements of a page as ``(tag, attributes)``."""

    def __init__(self, html):
        super().__init__()
        self.all = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))

    def of(self, *tags):
        return [attributes for tag, attributes in self.all if tag in tags]


@pytest.fixture(scope="module")
def html(root):
    """The page of the shipped results."""
    return pages.page(root)


@pytest.fixture(scope="module")
def elements(html):
    return Elements(html)


@pytest.fixture
def small(root, tmp_path, monkeypatch):
    """A checkout with the results and figures of scale paper only, which a test may change."""
    for name in ("results/cached/paper", "paper_figures/cached/paper", "workflow/report", "docs"):
        shutil.copytree(root / name, tmp_path / name)
    (tmp_path / "workflow/config").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_page_is_one_file_of_at_most_4_mb(html, elements):
    assert len(html.encode()) <= 4_000_000
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S+", html)
    assert not elements.of("link", "iframe") and not [a for a in elements.of("script") if "src" in a]
    assert all(image["src"].startswith("data:image/") for image in elements.of("img"))
    (policy,) = (m["content"] for m in elements.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_every_claim_has_a_row_and_an_entry(root, html, elements):
    shown = report.headline(root)
    rows = re.findall(r'<tr data-source="(\w)" data-verdict="([\w ]+)">\s*<th scope="row"><a href="#(\w+)">', html)
    assert rows == list(zip(shown["source"], shown["verdict"], shown["id"], strict=True)) and len(rows) > 40
    entries = {a["id"]: a for a in elements.of("details") if a.get("class") == "claim"}
    assert list(entries) != [] and set(entries) == set(shown["id"])
    for claim in CLAIMS:
        entry = unescape(re.search(rf'<details class="claim" id="{claim.id}">(.*?)<dt>Again</dt>', html, re.DOTALL)[1])
        assert claim.rule in entry and claim.statistic in entry and report.target_text(claim.id) in entry
        assert all(f"<code>{column}</code>" in entry for column in claim.columns)
        assert "Rule fixed on 2026-" in entry and f"experiments/{claim.experiment}/claims.py#L" in entry


def test_verdicts_come_first_then_figures_explorer_provenance(html):
    assert re.findall(r'<section id="(\w+)"', html) == ["verdicts", "figures", "explorer", "provenance"]


def test_every_figure_stands_beside_its_claims(html, elements):
    for figure in FIGURES:
        article = re.search(rf'<article class="figure" id="{figure}".*?</article>', html, re.DOTALL)[0]
        own = [claim.id for claim in CLAIMS if claim.figure == figure]
        assert re.findall(r'<details class="claim" id="(\w+)"', article) == own
        assert article.count("<img ") >= 1 and f"<code>snakemake {figure}</code>" in article
    assert all(len(image["alt"]) > 40 and image["width"] and image["height"] for image in elements.of("img"))
    assert len({image["alt"] for image in elements.of("img")}) == len(elements.of("img"))


def test_links_lead_somewhere(root, elements):
    ids = [attributes["id"] for _, attributes in elements.all if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for attributes in elements.of("a") if "href" in attributes}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    files = {link.partition("#")[0] for link in links if not link.startswith("#")}
    assert len(files) > 50 and not [file for file in files if not (root / file).exists()]


def test_links_follow_the_page_and_a_published_address(small):
    assert cli.main(["page", "--out", "below/page.html"]) == 0
    text = (small / "below/page.html").read_text()
    assert 'href="../docs/ledger_history.md"' in text and 'href="docs/' not in text
    assert cli.main(["page", "--base", "https://example.org/artifact"]) == 0
    text = (small / "artifact.html").read_text()
    assert 'href="https://example.org/artifact/docs/ledger_history.md"' in text
    assert cli.main(["page", "--out", "below"]) == 1


def test_same_results_give_the_same_bytes(small):
    assert pages.page(small) == pages.page(small)


def test_page_follows_the_ledger(small):
    path = small / "results/cached/paper/claims.csv"
    ledger = read_ledger(path)
    id = ledger["id"].iloc[0]
    changed = ledger.assign(verdict=ledger["verdict"].where(ledger["id"] != id, "contradicted"))
    write_derived(changed, path, sources_of_ledger(changed, path.parent))
    row = re.search(
        rf'<tr data-source="\w" data-verdict="([\w ]+)">\s*<th scope="row"><a href="#{id}">', pages.page(small)
    )
    assert row[1] == "contradicted" != ledger["verdict"].iloc[0]


def test_ones_own_verdicts_are_shown_beside(small, capsys):
    (small / "results/fresh").mkdir()
    shutil.copytree(small / "results/cached/paper", small / "results/fresh/paper")
    text = pages.page(small)
    assert text.count('class="t-yours"') == len(read_ledger(small / "results/cached/paper/claims.csv"))
    assert "<summary>paper (yours): " in text
    # A damaged one costs no page.
    with open(small / "results/fresh/paper/claims.csv", "a") as file:
        file.write("x")
    assert 't-yours"' not in pages.page(small)


def test_captions_cannot_pass_html(small):
    caption = small / "workflow/report/fig6.rst"
    caption.write_text(
        "**A <b>title</b>** (note & more). (a) <script>alert(1)</script> *slanted*. (b) Second.\n\n"
        ".. raw:: html\n\n   <iframe src='x'></iframe>\n"
    )
    text = pages.page(small)
    assert "<script>alert" not in text and "<iframe" not in text and "A &lt;b&gt;title" in text
    assert "<em>slanted</em>" in text and "&lt;script&gt;alert" in text and "<b>(b)</b> Second" in text


def test_further_pictures_are_linked_where_the_page_would_be_too_large(root, html, monkeypatch):
    """Of figure 6 there are two scales."""
    shipped = [s for s in report.HEADLINE_SCALES if (root / paths("fig6", f"paper_figures/cached/{s}")[1]).exists()]
    assert len(shipped) > 1 and len(re.findall(r"<summary>The same figure at", html)) >= 1
    monkeypatch.setattr(pages, "LIMIT", 0)
    text = pages.page(root)
    assert len(Elements(text).of("img")) == len(FIGURES) and "Not embedded, to keep this page small" in text


def test_a_figure_that_is_not_shipped_keeps_its_claims(small):
    shutil.rmtree(small / "paper_figures")
    text = pages.page(small)
    assert "This figure has not been shipped." in text and '<details class="claim" id="S9">' in text


@needs_chromium
def test_filters_narrow_the_table(root, html, tmp_path):
    script = """
      const all = [...document.querySelectorAll("#table tbody tr")];
      const rows = () => all.filter((row) => row.offsetParent).map((row) => row.cells[0].textContent);
      const result = {all: rows()};
      document.querySelector('[name=source][value=P]').click();
      result.paper = rows();
      document.querySelector('[name=verdict][value="in part"]').click();
      result.both = rows();
      result.status = document.getElementById("shown").textContent;
      document.querySelector('[name=source][value=""]').click();
      document.querySelector('[name=verdict][value=""]').click();
      const find = document.getElementById("find");
      find.value = "s3";
      find.dispatchEvent(new Event("input", {bubbles: true}));
      result.found = rows();
      return result;
    """
    found = open_page(html, script, tmp_path)
    shown = report.headline(root)
    paper = shown[shown["source"] == "P"]
    both = list(paper.loc[paper["verdict"] == "in part", "id"])
    assert found["all"] == list(shown["id"]) and found["paper"] == list(paper["id"]) and found["both"] == both
    assert found["status"] == f"{len(both)} of {len(shown)} claims" and found["found"] == ["S3"]


@needs_chromium
def test_an_address_opens_its_claim(html, tmp_path):
    script = 'return [document.getElementById("S3").open, document.getElementById("S4").open];'
    assert open_page(html, script, tmp_path, fragment="#S3") == [True, False]


@needs_chromium
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_nothing_is_wider_than_the_window(html, tmp_path, width):
    """Chromium's windows have a minimum width, so the page is shown in a frame."""
    outer = f'<html><head></head><body><iframe style="width: {width}px; height: 900px"></iframe></body></html>'
    text = json.dumps(html).replace("</", "<\\/")
    script = f"""
      const frame = document.querySelector("iframe");
      const loaded = new Promise((resolve) => frame.addEventListener("load", resolve));
      frame.srcdoc = {text};
      await loaded;
      const inner = frame.contentDocument;
      for (const details of inner.querySelectorAll("details")) details.open = true;
      return [inner.getElementById("sentence").textContent, inner.documentElement.scrollWidth];
    """
    sentence, scroll = open_page(outer, script, tmp_path)
    assert sentence.startswith("Stable.") and scroll <= width


@needs_chromium
def test_figures_are_decoded_and_enlarge(html, tmp_path):
    script = """
      const images = [...document.querySelectorAll("article figure > img")];
      const shown = images.filter((image) => image.complete && image.naturalWidth === Number(image.getAttribute("width")));
      const zoom = document.getElementById("zoom");
      document.querySelector("#fig2 button[data-zoom]").click();
      const open = zoom.open, text = zoom.querySelector("img").alt;
      document.getElementById("zoom-close").click();
      return [shown.length, open, text, zoom.open];
    """
    shown, opened, text, still = open_page(html, script, tmp_path)
    assert shown == len(FIGURES) and opened and text.startswith("Figure 2: ") and not still


@needs_chromium
@needs_axe
@pytest.mark.parametrize("arguments", [[], ["--force-dark-mode"]], ids=["light", "dark"])
@pytest.mark.parametrize("width", [500, 1400])
def test_axe_finds_no_violations(html, tmp_path, width, arguments):
    assert axe(html, tmp_path, width=width, arguments=arguments) == []


def test_page_prints_its_claims_unfolded(html):
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "@media print" in style and "beforeprint" in html and ".claim::details-content" in style


def test_templates_are_all_used():
    """By a template, or by name in the code."""
    from ctadam.artifact.report.html import TEMPLATES

    files = sorted(TEMPLATES.iterdir())
    code = "".join(path.read_text(encoding="utf-8") for path in [*files, *TEMPLATES.parent.glob("*.py")])
    assert files and not [path.name for path in files if f'"{path.name}"' not in code and f"'{path.name}'" not in code]
    assert all(isinstance(path, Path) for path in files)
