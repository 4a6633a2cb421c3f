"""Lightning."""

import importlib

import pytest
import torch
from ecosystem import PATHS, assert_equal, data, model, parameters, state
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ctadam import KAdam

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("ignore::Warning")]
PARTNER, PACKAGE = "Lightning", "lightning"


@pytest.fixture
def lightning():
    return importlib.import_module("lightning")


def module(lightning, **options):
    """Return a LightningModule that trains the small model with KAdam and a schedule."""

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = model()

        def training_step(self, batch):
            inputs, targets = batch
            loss = nn.functional.mse_loss(self.network(inputs), targets)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            optimizer = KAdam(self.parameters(), lr=0.01, weight_decay=0.1, **options)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=40)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    return Module()


def fit(lightning, module, directory, epochs, checkpoint=None, **options):
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=directory, enable_checkpointing=False, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(*data()), batch_size=4), ckpt_path=checkpoint)
    return trainer


@pytest.mark.parametrize("path", PATHS)
def test_resume(lightning, tmp_path, path):
    """A run that stops and resumes ends with the same bits, with a schedule that cycles the momentum; every path."""
    whole = module(lightning, **PATHS[path])
    trainer = fit(lightning, whole, tmp_path, 4)
    half = module(lightning, **PATHS[path])
    fit(lightning, half, tmp_path, 2).save_checkpoint(tmp_path / "half.ckpt")
    resumed = module(lightning, **PATHS[path])
    other = fit(lightning, resumed, tmp_path, 4, tmp_path / "half.ckpt")
    assert_equal(parameters(resumed), parameters(whole))
    assert_equal(state(other.optimizers[0]), state(trainer.optimizers[0]))
    assert other.optimizers[0].param_groups[0]["lr"] == trainer.optimizers[0].param_groups[0]["lr"]


def test_clipping_accumulation_and_precision(lightning, tmp_path):
    """Gradient clipping, accumulation and bfloat16 autocast change nothing in how the optimizer is called."""
    trained = module(lightning)
    trainer = fit(
        lightning, trained, tmp_path, 10, gradient_clip_val=0.5, accumulate_grad_batches=2, precision="bf16-mixed"
    )
    assert {values["step"].item() for values in trainer.optimizers[0].state.values()} == {20}
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in trained.parameters())
    assert trainer.callback_metrics["loss"] < nn.functional.mse_loss(model()(data()[0]), data()[1])


def test_fabric(lightning):
    """`Fabric.setup` trains with the same bits as without it, and update hooks stay reachable."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    plain = model()
    optimizers = [KAdam(plain.parameters(), lr=0.01)]
    network = model()
    wrapped, optimizer = fabric.setup(network, KAdam(network.parameters(), lr=0.01))
    seen = []
    optimizer.register_update_hook(lambda parameter, update: seen.append(update))
    inputs, targets = data()
    for _ in range(3):
        for each, backward, step in (
            (plain, torch.Tensor.backward, optimizers[0]),
            (wrapped, fabric.backward, optimizer),
        ):
            step.zero_grad()
            backward(nn.functional.mse_loss(each(inputs), targets))
            step.step()
    assert_equal(parameters(network), parameters(plain))
    assert len(seen) == 18
