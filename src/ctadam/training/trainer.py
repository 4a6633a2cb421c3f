"""Train a language model once per point and record, at every step, what the paper's section 3 speaks of.

Each run draws its initial weights and its batches from generators seeded by its own ``seed``: two points with the same
seed start alike and see the same data in the same order, and a run does not depend on the runs beside it.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from ctadam.data.text import batches
from ctadam.models.transformer import Transformer
from ctadam.optim import KAdam, StabilityWarning

#: Columns a table of points must have; any other column is carried through to the result.
POINT_COLUMNS = ("run", "beta1", "beta2", "lr", "weight_decay", "eps", "state_dtype", "seed", "steps")
STATE_DTYPES = {"float32": torch.float32, "float64": torch.float64}

# The test windows are the same for every run of every experiment, whatever the run's seed.
_TEST_SEED = 0


@dataclass(frozen=True)
class Settings:
    """What all points of one table share.

    Attributes:
        width, depth, heads, context: the transformer's shape.
        batch: sequences per step.
        test_batches: batches whose mean loss is the test loss.
        test_every: steps between test losses; the last step always has one.
    """

    width: int
    depth: int
    heads: int
    context: int
    batch: int
    test_batches: int
    test_every: int


class _Recorder:
    """Per-step records, kept on the device: nothing in a step waits for the device."""

    def __init__(self, model, steps, device):
        self.parameters = list(model.parameters())
        self.names = [name.removesuffix(".weight") for name, _ in model.named_parameters()]
        self.start = [p.detach().clone() for p in self.parameters]
        self._position = {p: i for i, p in enumerate(self.parameters)}
        # A row of these two tensors belongs to one token: as an input, and as a target.
        self.token_tensors = {self.names.index("embedding"): 0, self.names.index("head"): 1}
        vocabulary = model.embedding.num_embeddings
        self.last_seen = torch.full((2, vocabulary), -1, device=device)
        shape = (steps, len(self.parameters))
        self.largest = torch.zeros(shape, dtype=torch.float64, device=device)
        self.where = torch.zeros(shape, dtype=torch.int64, device=device)
        self.unseen = torch.full(shape, -1, dtype=torch.int64, device=device)
        self.scalars = torch.full((steps, 5), math.nan, dtype=torch.float64, device=device)

    def see(self, step, inputs, targets):
        self.step = step
        self.last_seen[0, inputs.flatten()] = step
        self.last_seen[1, targets.flatten()] = step

    def update(self, parameter, update):
        """The optimizer's hook: the largest entry of this parameter's update, and which row holds it."""
        i = self._position[parameter]
        value, index = update.abs().flatten().max(0)
        self.largest[self.step, i] = value
        row = index // (update.numel() // update.shape[0])
        self.where[self.step, i] = row
        if i in self.token_tensors:
            self.unseen[self.step, i] = self.step - self.last_seen[self.token_tensors[i], row]

    @torch.no_grad()
    def after_step(self, train_loss, test_loss):
        moved = torch._foreach_sub(self.parameters, self.start)
        row = self.scalars[self.step]
        row[0] = train_loss
        if test_loss is not None:
            row[1] = test_loss
        row[2] = torch.stack(torch._foreach_norm(self.parameters, math.inf)).max()
        row[3] = torch.stack(torch._foreach_norm(self.parameters, 2, dtype=torch.float64)).norm()
        row[4] = torch.stack(torch._foreach_norm(moved, math.inf)).max()

    def finite(self):
        """Whether all up to this step is finite. Waits for the device."""
        done = slice(self.step + 1)
        return bool(self.largest[done].isfinite().all() & self.scalars[done, [0]].isfinite().all()) and bool(
            self.scalars[done, 2:].isfinite().all()
        )

    def table(self):
        """The records as a tidy table, up to and with the first step that is not finite."""
        largest = self.largest[: self.step + 1].cpu().numpy()
        scalars = self.scalars[: self.step + 1].cpu().numpy()
        bad = ~(np.isfinite(largest).all(1) & np.isfinite(scalars[:, [0, 2, 3, 4]]).all(1))
        keep = int(bad.argmax()) + 1 if bad.any() else len(bad)
        holder = largest[:keep].argmax(1)
        rows = np.arange(keep)
        table = pd.DataFrame(
            {
                "step": rows.astype(np.int32),
                "update_max": largest[rows, holder],
                "update_tensor": pd.Categorical.from_codes(holder, self.names),
                "update_row": self.where.cpu().numpy()[rows, holder].astype(np.int32),
                "unseen": self.unseen.cpu().numpy()[rows, holder].astype(np.int32),
                "param_max": scalars[:keep, 2],
                "param_norm": scalars[:keep, 3],
                "displacement_max": scalars[:keep, 4],
                "train_loss": scalars[:keep, 0],
                "test_loss": scalars[:keep, 1],
            }
        )
        table["update_tensor"] = table["update_tensor"].astype(str)
        table["diverged_at"] = np.int32(keep - 1 if bad.any() else -1)
        return table


def _generators(seed):
    """Independent generators for the initial weights and for the batches of one run."""
    return [torch.Generator().manual_seed(int(s)) for s in np.random.SeedSequence(int(seed)).generate_state(2)]


@torch.no_grad()
def _test_loss(model, windows):
    inputs, targets = windows
    losses = [F.cross_entropy(model(x).flatten(0, 1), y.flatten()) for x, y in zip(inputs, targets, strict=True)]
    return torch.stack(losses).mean()


def _train_one(point, corpus, settings, windows, device):
    weights, order = _generators(point["seed"])
    model = Transformer(
        vocabulary=len(corpus.vocabulary),
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        context=settings.context,
        generator=weights,
    ).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StabilityWarning)  # unstable pairs are what is studied here
        optimizer = KAdam(
            model.parameters(),
            lr=float(point["lr"]),
            betas=(float(point["beta1"]), float(point["beta2"])),
            eps=float(point["eps"]),
            weight_decay=float(point["weight_decay"]),
            k=1,
            foreach=False,
            state_dtype=STATE_DTYPES[point["state_dtype"]],
        )
    steps = int(point["steps"])
    recorder = _Recorder(model, steps, device)
    optimizer.register_update_hook(recorder.update)
    stream = batches(corpus.train, batch=settings.batch, context=settings.context, generator=order)
    for step, (inputs, targets) in zip(range(steps), stream, strict=False):
        inputs, targets = inputs.to(device), targets.to(device)
        recorder.see(step, inputs, targets)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        due = (step + 1) % settings.test_every == 0 or step == steps - 1
        recorder.after_step(loss.detach(), _test_loss(model, windows) if due else None)
        if due and not recorder.finite():
            break
    return recorder.table()


def train(points, *, corpus, settings, device, on_run=None):
    """Train one transformer per point with Adam and record every step.

    The update recorded at step n = 0, 1, … is u_n of θ_{n+1} = θ_n − η(λθ_n + u_n); parameters are recorded after it.

    Args:
        points: DataFrame, a row a run, with the columns `POINT_COLUMNS` (``beta1``, ``beta2`` are the paper's γ and β;
            ``state_dtype`` is ``"float32"`` or ``"float64"``); further columns are carried through.
        corpus: `ctadam.data.text.Corpus`.
        settings: `Settings`.
        device: `torch.device`.
        on_run: called after each run with its number of steps (progress).

    Returns:
        DataFrame, a row a step, sorted by run and step: the point's columns, and

        - ``step``; ``update_max`` ‖u_n‖_∞; ``update_tensor``, ``update_row``: the tensor and the row (first index) that
          hold it; ``unseen``: steps since that row's token was last input (``embedding``) or target (``head``), n + 1
          if never, −1 for other tensors;
        - ``param_max`` ‖θ‖_∞, ``param_norm`` ‖θ‖₂, ``displacement_max`` ‖θ − θ_0‖_∞;
        - ``train_loss`` (before the step), ``test_loss`` (after it; NaN where not taken), in nats per token;
        - ``diverged_at``: the first step at which something was not finite, the last row of its run; −1 if none.

    Raises:
        ValueError: a missing column or an unknown state_dtype.
    """
    missing = [c for c in POINT_COLUMNS if c not in points]
    if missing:
        raise ValueError(f"points lack the column(s) {', '.join(missing)}")
    unknown = set(points["state_dtype"]) - set(STATE_DTYPES)
    if unknown:
        raise ValueError(f"unknown state_dtype {unknown.pop()!r}; known: {', '.join(STATE_DTYPES)}")
    test = batches(
        corpus.test, batch=settings.batch, context=settings.context, generator=torch.Generator().manual_seed(_TEST_SEED)
    )
    windows = [
        torch.stack(part).to(device) for part in zip(*(next(test) for _ in range(settings.test_batches)), strict=True)
    ]
    tables = []
    for point in points.to_dict("records"):
        table = _train_one(point, corpus, settings, windows, device)
        constants = pd.DataFrame({name: [value] * len(table) for name, value in point.items() if name != "steps"})
        tables.append(pd.concat([constants, table], axis=1))
        if on_run is not None:
            on_run(int(point["steps"]))
    return pd.concat(tables, ignore_index=True)
