"""The trainer: every record against an independent computation, and runs that depend on nothing but themselves."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from ctadam.data.text import batches, load_corpus
from ctadam.models.transformer import Transformer
from ctadam.training import Settings, train
from ctadam.training.trainer import _generators

SETTINGS = Settings(width=8, depth=2, heads=2, context=8, batch=4, test_batches=2, test_every=5)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("pydoc", tokenization="words", test_fraction=0.1, context=SETTINGS.context)


def points(**columns):
    defaults = {
        "beta1": 0.9, "beta2": 0.999, "lr": 1e-2, "weight_decay": 0.0, "eps": 0.0,
        "state_dtype": "float64", "seed": 0, "steps": 12,
    }  # fmt: skip
    table = pd.DataFrame(
        {**defaults, **columns}, index=range(max([1, *(len(c) for c in columns.values() if isinstance(c, list))]))
    )
    table.insert(0, "run", range(len(table)))
    return table


def fit(corpus, **columns):
    return train(points(**columns), corpus=corpus, settings=SETTINGS, device=CPU)


def test_transformer_is_causal_and_equals_torchs_attention():
    model = Transformer(vocabulary=11, width=8, depth=1, heads=2, context=6, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 11
    a, b = model(tokens), model(changed)
    assert torch.equal(a[:, :4], b[:, :4]) and not torch.allclose(a[:, 4:], b[:, 4:])
    attention, x = model.blocks[0].attention, torch.randn(3, 6, 8)
    q, k, v = attention.qkv(x).view(3, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
    expected = attention.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(3, 6, 8))
    torch.testing.assert_close(attention(x), expected)
    with pytest.raises(ValueError, match="width 8 is not a multiple of heads 3"):
        Transformer(vocabulary=11, width=8, depth=1, heads=3, context=6, generator=torch.Generator())


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_records_against_torchs_own_adamw(corpus, weight_decay):
    """The same run with torch.optim.AdamW and the records computed the long way, from parameters before and after."""
    lr, steps = 1e-2, 12
    table = fit(corpus, lr=lr, weight_decay=weight_decay, eps=1e-8, state_dtype="float32", steps=steps)
    weights, order = _generators(0)
    shape = {name: getattr(SETTINGS, name) for name in ("width", "depth", "heads", "context")}
    model = Transformer(vocabulary=len(corpus.vocabulary), generator=weights, **shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, foreach=False)
    start = [p.detach().clone() for p in model.parameters()]
    stream = batches(corpus.train, batch=SETTINGS.batch, context=SETTINGS.context, generator=order)
    names = [name.removesuffix(".weight") for name, _ in model.named_parameters()]
    for (_, row), (inputs, targets) in zip(table.iterrows(), stream, strict=False):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        after = [p.detach() for p in model.parameters()]
        updates = [((b * (1 - lr * weight_decay) - a) / lr).abs() for a, b in zip(after, before, strict=True)]
        # The update is recovered from a difference of float32 parameters, so only to some digits.
        assert row["update_max"] == pytest.approx(max(u.max().item() for u in updates), rel=1e-3)
        holder = names.index(row["update_tensor"])
        assert updates[holder][int(row["update_row"])].max() >= max(u.max() for u in updates) * (1 - 1e-3)
        assert row["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert row["param_max"] == pytest.approx(max(a.abs().max().item() for a in after), rel=1e-5)
        assert row["param_norm"] == pytest.approx(
            torch.cat([a.flatten() for a in after]).double().norm().item(), rel=1e-5
        )
        moved = max((a - s).abs().max().item() for a, s in zip(after, start, strict=True))
        assert row["displacement_max"] == pytest.approx(moved, rel=1e-4)


def test_unseen_counts_steps_since_the_token(corpus):
    """Against a plain scan of the batches."""
    table = fit(corpus, beta1=0.99, beta2=0.9, lr=1e-3, steps=60)
    _, order = _generators(0)
    stream = batches(corpus.train, batch=SETTINGS.batch, context=SETTINGS.context, generator=order)
    seen = [pair for pair, _ in zip(stream, range(60), strict=False)]
    checked = set()
    for row in table.itertuples():
        if row.update_tensor not in ("embedding", "head"):
            assert row.unseen == -1
            continue
        which = 0 if row.update_tensor == "embedding" else 1
        steps = [n for n in range(row.step + 1) if (seen[n][which] == row.update_row).any()]
        assert row.unseen == row.step - (steps[-1] if steps else -1)
        checked.add(row.update_tensor)
    assert checked


def test_a_run_depends_on_itself_alone(corpus):
    together = fit(corpus, beta1=[0.9, 0.99, 0.9], seed=[0, 0, 1])
    for run, (beta1, seed) in enumerate([(0.9, 0), (0.99, 0), (0.9, 1)]):
        alone = fit(corpus, beta1=beta1, seed=seed).assign(run=run)
        pd.testing.assert_frame_equal(together[together["run"] == run].reset_index(drop=True), alone, check_exact=True)
    losses = together.pivot(index="step", columns="run", values="train_loss")
    assert losses.loc[0, 0] == losses.loc[0, 1] != losses.loc[0, 2]  # same seed: same start and data


def test_test_loss_is_taken_where_said(corpus):
    table = fit(corpus, steps=12)
    assert table.index[table["test_loss"].notna()].tolist() == [4, 9, 11]
    assert table["test_loss"].iloc[-1] < np.log(len(corpus.vocabulary))


def test_a_diverged_run_is_recorded_and_touches_no_other(corpus):
    table = fit(corpus, lr=[1e-2, 1e30, 1e-2], seed=[0, 0, 1], steps=12)
    bad = table[table["run"] == 1]
    records = bad[["update_max", "param_max", "param_norm", "displacement_max", "train_loss"]]
    assert (bad["diverged_at"] == len(bad) - 1).all() and len(bad) < 12
    assert np.isfinite(records.iloc[:-1]).all(axis=None) and not np.isfinite(records.iloc[-1]).all()
    for run, seed in ((0, 0), (2, 1)):
        good = table[table["run"] == run].reset_index(drop=True)
        assert len(good) == 12 and (good["diverged_at"] == -1).all()
        pd.testing.assert_frame_equal(good, fit(corpus, seed=seed).assign(run=run), check_exact=True)


def test_bad_points(corpus):
    with pytest.raises(ValueError, match="lack the column"):
        train(points().drop(columns="beta2"), corpus=corpus, settings=SETTINGS, device=CPU)
    with pytest.raises(ValueError, match="unknown state_dtype 'float16'"):
        fit(corpus, state_dtype="float16")
