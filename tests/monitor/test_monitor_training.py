"""`ctadam.UpdateMonitor` in training: silent where all is well, alarmed where something is broken on purpose."""

import copy
import warnings

import numpy as np
import pytest
import torch

from ctadam import KAdam, UpdateMonitor
from ctadam.artifact import config
from ctadam.data.text import load_corpus
from ctadam.experiments.growth.config import Config
from ctadam.models.transformer import Transformer
from ctadam.monitor import UpdateWarning
from ctadam.theory.stability import boundary_beta2, normal_curve_points, stability_coefficient
from ctadam.training import language
from ctadam.training.ensemble import generators

VOCABULARY, CONTEXT = 200, 16


def small_transformer():
    return Transformer(
        vocabulary=VOCABULARY, width=16, depth=1, heads=2, context=CONTEXT, generator=torch.Generator().manual_seed(0)
    )


def steps_of(model, optimizer, steps, seed=0):
    """Train on tokens with the frequencies of words, many of which are rare."""
    draw = torch.Generator().manual_seed(seed)
    frequencies = 1 / torch.arange(1.0, VOCABULARY + 1)
    for _ in range(steps):
        tokens = torch.multinomial(frequencies, 8 * (CONTEXT + 1), True, generator=draw).view(8, -1)
        optimizer.zero_grad()
        logits = model(tokens[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()


OPTIMIZERS = {
    "AdamW": torch.optim.AdamW,
    "AdamW fused": lambda params, **options: torch.optim.AdamW(params, fused=True, **options),
    "Adam amsgrad": lambda params, **options: torch.optim.Adam(params, amsgrad=True, **options),
    "KAdam": KAdam,
    "KAdam k=1": lambda params, **options: KAdam(params, k=1, **options),
}


@pytest.mark.parametrize(
    ("optimizer", "betas"),
    [
        *(("AdamW", betas) for betas in [(0.9, 0.999), (0.95, 0.95), (0.0, 0.99), (0.98, 0.98), (0.5, 0.3)]),
        *((optimizer, (0.9, 0.95)) for optimizer in OPTIMIZERS),
    ],
)
def test_no_alarm_with_stable_betas(optimizer, betas):
    model = small_transformer()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message="The last stage's betas")
        made = OPTIMIZERS[optimizer](model.named_parameters(), lr=3e-3, betas=betas)
    ratios = []
    with (
        warnings.catch_warnings(),
        UpdateMonitor(made, every=1, log=lambda numbers: ratios.append(numbers["update/ratio_to_bound"])),
    ):
        warnings.simplefilter("error", UpdateWarning)
        steps_of(model, made, 80)
    assert len(ratios) == 80 and 0.9 < max(ratios) <= 1 + 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_no_alarm_in_other_precisions(dtype):
    model = small_transformer().to(dtype)
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=3e-3, betas=(0.9, 0.95))
    with warnings.catch_warnings(), UpdateMonitor(optimizer, every=1) as monitor:
        warnings.simplefilter("error", UpdateWarning)
        steps_of(model, optimizer, 100)
    assert monitor.last.step == 100


def shipped_stable_pairs():
    """The pairs of the growth experiment at laptop scale that the exact law bounds: near the boundary, and the fixed ones."""
    growth = Config.model_validate(config.resolve("laptop")["growth"])
    beta1, beta2 = normal_curve_points(count=growth.n_points, through=growth.through.model_dump())
    c = stability_coefficient(beta1=beta1, beta2=beta2)
    points = [0, *np.flatnonzero(c > 0)[[len(c[c > 0]) // 2, -1]]]
    rule = growth.batch_rule
    return [
        *((float(beta1[point]), float(beta2[point])) for point in points),
        *((pair.beta1, pair.beta2) for pair in growth.pairs),
        (rule.beta1, rule.beta2_at_reference),
        (rule.beta1, float(boundary_beta2(beta1=rule.beta1))),  # the repaired recipe
    ]


@pytest.mark.slow
@pytest.mark.parametrize("betas", shipped_stable_pairs())
def test_no_alarm_in_the_shipped_stable_runs(betas):
    growth = Config.model_validate(config.resolve("laptop")["growth"])
    corpus = load_corpus(
        growth.text.source,
        tokenization="words",
        test_fraction=growth.text.test_fraction,
        context=growth.model.context,
        limit=growth.text.words,
    )
    task = language(
        corpus,
        **growth.model.model_dump(),
        batch=growth.batch,
        test_batches=1,
        test_every=10**6,
        device=torch.device("cpu"),
    )
    weights, draws = generators(growth.seeds[0])
    model, indices = task.build(weights), task.draw(growth.steps, draws)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message="The last stage's betas")
        optimizer = KAdam(
            model.named_parameters(), lr=growth.lr, betas=betas, eps=0.0, k=1, state_dtype=torch.float64, foreach=True
        )
    with warnings.catch_warnings(), UpdateMonitor(optimizer, every=10) as monitor:
        warnings.simplefilter("error", UpdateWarning)
        for step in range(250):
            inputs, targets = task.read(indices[step])
            optimizer.zero_grad()
            task.loss(model(inputs), targets).backward()
            optimizer.step()
    assert monitor.last.step == 241 and 0 < monitor.last.ratio_to_bound <= 1


def resumed(change, betas=(0.9, 0.95), steps=60, every=50):
    """Train, change the saved state, load it, train on; return the texts of the monitor's warnings."""
    model = small_transformer()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=3e-3, betas=betas)
    steps_of(model, optimizer, steps)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        change(state)
    again = torch.optim.AdamW(model.named_parameters(), lr=3e-3, betas=betas)
    with warnings.catch_warnings(record=True) as caught, UpdateMonitor(again, every=every):
        warnings.simplefilter("always", UpdateWarning)
        again.load_state_dict(saved)
        steps_of(model, again, 3, seed=1)
    return [str(warning.message) for warning in caught if issubclass(warning.category, UpdateWarning)]


def test_no_alarm_after_an_intact_resume():
    assert resumed(lambda state: None) == []


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.95, 0.95)])
def test_a_second_moment_that_is_lost_on_resume_is_an_alarm(betas):
    [text] = resumed(lambda state: state["exp_avg_sq"].zero_(), betas)
    assert "at step 61" in text and "times the largest that any gradients can cause" in text


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.95, 0.95)])
def test_a_wrong_bias_correction_is_an_alarm(betas):
    """The step count is lost on resume, so m is divided by 1 − beta1 again; with beta2 = 0.999 that would make u smaller."""
    [text] = resumed(lambda state: state["step"].zero_(), betas)
    assert "at step 1 " in text


def test_a_state_that_was_saved_in_float16_is_an_alarm():
    def change(state):
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = state[name].half()  # squares of small gradients underflow

    [text] = resumed(change)
    assert "times the largest" in text


def test_a_state_in_float16_is_an_alarm():
    table = torch.nn.Parameter(torch.randn(8, 4).half())
    optimizer = torch.optim.Adam([("table", table)], foreach=False)
    with pytest.warns(UpdateWarning, match=r"table\["), UpdateMonitor(optimizer, every=1):
        table.grad = torch.full_like(table, 1e-4)
        optimizer.step()


def test_a_kernel_that_decays_the_second_moment_too_fast_is_an_alarm():
    model = small_transformer()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=3e-3, betas=(0.9, 0.999))

    def broken(optimizer, args, kwargs):
        for state in optimizer.state.values():
            state["exp_avg_sq"].mul_(0.5)

    optimizer.register_step_post_hook(broken)
    with pytest.warns(UpdateWarning, match="the kernel"), UpdateMonitor(optimizer, every=10):
        steps_of(model, optimizer, 50)


def test_a_gradient_that_is_not_finite_is_an_alarm_once():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.named_parameters())
    with pytest.warns(UpdateWarning, match="not finite") as caught, UpdateMonitor(optimizer, every=1) as monitor:
        for _ in range(5):
            model.weight.grad, model.bias.grad = torch.ones(2, 3), torch.full((2,), float("nan"))
            optimizer.step()
    assert len(caught) == 1 and monitor.last.top[0].name == "bias" and len(monitor.last.alarms) == 1


def test_an_alarm_repeats_after_a_sample_without_its_cause():
    table = torch.nn.Parameter(torch.randn(4, 2))
    optimizer = torch.optim.AdamW([("table", table)], betas=(0.5, 0.9))
    with warnings.catch_warnings(record=True) as caught, UpdateMonitor(optimizer, every=1):
        warnings.simplefilter("always")
        for step in range(60):
            table.grad = torch.ones_like(table)
            if step in (5, 30):
                optimizer.state[table]["exp_avg_sq"].zero_()
                table.grad *= 1e-3
            optimizer.step()
    assert ["at step 6 " in str(caught[0].message), "at step 31 " in str(caught[1].message), len(caught)] == [
        True,
        True,
        2,
    ]
