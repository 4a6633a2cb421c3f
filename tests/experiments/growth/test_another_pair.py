"""docs/changing.md: its recipe for another pair in figure 2, executed."""

import re
import shlex

import pandas as pd
import pytest

from ctadam import cli
from ctadam.theory import stability


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    """The directory in which the recipe was executed."""
    directory = tmp_path_factory.mktemp("pair")
    page = (root / "docs/changing.md").read_text(encoding="utf-8")
    section = re.search(r"## Another pair in figure 2\n(.*?)\n## ", page, re.DOTALL)[1]
    commands = re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1].splitlines()
    assert len(commands) == 4
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "ctadam"
        # The page's relative paths, in a directory of this test.
        assert (
            cli.main(
                [str(directory / word) if word.startswith(("results/", "paper_figures/")) else word for word in words]
            )
            == 0
        )
    return directory


def test_the_pair_is_measured_beside_its_prediction(made):
    results = made / "results/fresh/pair/growth"
    tables = [
        pd.read_csv(results / f"{name}.csv").query("variant == 'pair'") for name in ("measurements", "predictions")
    ]
    for table in tables:
        assert len(table) == 1 and table[["beta1", "beta2"]].iloc[0].tolist() == [0.97, 0.9]
    rate = stability.growth_rate(beta1=0.97, beta2=0.9, law="exact")
    assert tables[1]["rate_exact"].iloc[0] == pytest.approx(rate) and tables[0]["held_rate"].notna().all()


def test_figure_2_is_drawn(made):
    figures = list((made / "paper_figures/fresh/pair").glob("fig2_stability.png"))
    assert len(figures) == 1 and figures[0].stat().st_size > 50_000
