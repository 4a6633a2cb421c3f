"""docs/monitor.md and docs/in_the_field.md: their examples run, their numbers are computed, their measured tables current."""

import json
import math
import re

import pytest
import torch

from ctadam import check
from ctadam.storage.provenance import sha256
from ctadam.theory.stability import boundary_beta2


@pytest.fixture
def monitor_page(root):
    return (root / "docs" / "monitor.md").read_text(encoding="utf-8")


@pytest.fixture
def field_page(root):
    return (root / "docs" / "in_the_field.md").read_text(encoding="utf-8")


def block(page, before):
    """The first Python example after a text."""
    return page.split(before, 1)[1].split("```python\n", 1)[1].split("```", 1)[0]


def test_the_example_runs(monitor_page, capsys):
    example = block(monitor_page, "# Checking")
    assert len([line for line in example.splitlines() if line.strip()]) <= 20
    names = {}
    exec(example, names)
    printed = capsys.readouterr().out
    assert "stable" in printed and "of its bound" in printed
    assert [sample["update/step"] for sample in names["log"]] == [1, 51, 101, 151]


@pytest.mark.parametrize("name", ["monitor_lead_time", "monitor_cost"])
def test_the_measured_tables_are_current(benchmark_script, monitor_page, name):
    script = benchmark_script(name)
    assert script.page_with(script.table(), monitor_page, *script.MARKS) == monitor_page, f"{name}.py --table"
    files = sorted(script.RESULTS.glob(f"{name}_*.csv"))
    assert files
    for file in files:
        assert json.loads(file.with_suffix(".json").read_text())["sha256"] == sha256(file)


def test_the_monitor_warns_before_the_loss_moves(benchmark_script, monitor_page):
    script = benchmark_script("monitor_lead_time")
    [path] = script.RESULTS.glob("monitor_lead_time_cpu.csv")
    leads = []
    for (_, c, _), rows in script.load(path).items():
        warned, moved, _, ended = script.summary(rows)
        if c > 0:
            assert warned is None and ended is None
        else:
            assert warned < moved < ended
            leads.append(moved - warned)
    assert len(leads) >= 5 and f"warns {min(leads)} to {max(leads)} steps before the loss moves" in monitor_page


def test_the_summary_of_a_run_finds_its_steps(benchmark_script):
    script = benchmark_script("monitor_lead_time")
    losses = [8.0, 7.0, 7.4, 7.6, 9.0, math.nan]
    rows = [
        {
            "step": 50.0 * (i + 1),
            "test_loss": loss,
            "train_loss": loss,
            "grad_norm": 1.0 if i < 4 else 20.0,
            "warnings": float(i > 1),
        }
        for i, loss in enumerate(losses)
    ]
    assert script.summary(rows) == (150, 200, 250, 300)
    assert script.summary(rows[:2]) == (None, None, None, None)


def test_the_cost_is_within_three_percent(benchmark_script):
    script = benchmark_script("monitor_cost")
    [path] = script.RESULTS.glob("monitor_cost_cpu.csv")
    for (name, every, _, _), times in script.load(path).items():
        ratio = sorted(watched / plain for plain, watched in times)[len(times) // 2]
        assert every < 50 or ratio <= 1.03, name


def rows(section):
    table = [
        [cell.strip().replace("−", "-") for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line[:1] == "|"
    ]
    return table[2:]


def judged(beta1, beta2):
    return check(torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], betas=(beta1, beta2)))[0]


def test_the_numbers_of_the_recipes_are_those_of_the_theory(field_page):
    floors, first, second = (rows(part) for part in re.split(r"\n## ", field_page)[:3])
    for beta1, paper, exact in floors:
        assert float(paper) == round(float(boundary_beta2(beta1=float(beta1))), 4)
        assert float(exact) == round(float(beta1) ** 2, 4)
    assert len(first) == 9 and len(second) == 6
    for batch, beta2, c, growth, verdict in first:
        found = judged(0.95, 0.98 ** (int(batch) / 128))
        assert [round(found.beta2, 4), round(found.coefficient, 3), round(found.growth_rate, 4)] == [
            *map(float, (beta2, c, growth))
        ]
        assert found.verdict == verdict
    for kappa, beta1, beta2, c, growth, verdict in second:
        found = judged(max(0.5, 1 - 0.025 * int(kappa)), 1 - 0.0125 * int(kappa))
        assert [found.beta1, round(found.beta2, 4)] == [float(beta1), float(beta2)]
        assert [round(found.coefficient, 3), round(found.growth_rate, 4)] == [float(c), float(growth)]
        assert found.verdict == verdict


def test_the_recipe_leaves_the_region_where_the_page_says():
    inside = [batch for batch in range(600, 700) if judged(0.95, 0.98 ** (batch / 128)).verdict == "stable"]
    bounded = [batch for batch in range(600, 700) if judged(0.95, 0.98 ** (batch / 128)).verdict != "unstable"]
    assert max(inside) + 1 == 635 and max(bounded) + 1 == 650


def test_the_lightning_callback_watches_a_fit(monitor_page, capsys, tmp_path):
    lightning = pytest.importorskip("lightning")
    names = {}
    exec(block(monitor_page, "<!-- lightning -->"), names)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch):
            return self.layer(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    trainer = lightning.Trainer(
        max_steps=60,
        callbacks=[names["Updates"]()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(240, 4), batch_size=4))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"\d+ [\d.]+", line)]
    assert [int(step) for step, _ in lines] == [1, 51] and all(float(ratio) <= 1.001 for _, ratio in lines)


def test_the_hugging_face_callback_watches_a_training(monitor_page, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    names = {}
    exec(block(monitor_page, "<!-- transformers -->"), names)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def forward(self, x):
            return {"loss": self.layer(x).square().mean()}

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=60,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
    )
    data = [{"x": row} for row in torch.randn(240, 4)]
    transformers.Trainer(model=Model(), args=arguments, train_dataset=data, callbacks=[names["Updates"]()]).train()
    lines = (tmp_path / "updates.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("update/step,") and "update/top/layer.weight" in lines[0]
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "51"]
