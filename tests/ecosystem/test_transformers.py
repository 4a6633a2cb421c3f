"""The Hugging Face Trainer."""

import importlib

import pytest
import torch
from ecosystem import PATHS, assert_equal, parameters, state

from ctadam import KAdam

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("ignore::Warning")]
PARTNER, PACKAGE = "Hugging Face Trainer", "transformers"

OPTIONS = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1, "k": 2}


@pytest.fixture
def transformers(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return importlib.import_module("transformers")


def language_model(transformers):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=16, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
                                     eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def trainer(transformers, directory, way, *, steps=8, options=OPTIONS, **arguments):
    """Return a trainer to which KAdam is passed as an instance or as class and options."""
    network = language_model(transformers)
    tokens = torch.randint(16, (32, 8), generator=torch.Generator().manual_seed(0))
    arguments = transformers.TrainingArguments(
        output_dir=str(directory), max_steps=steps, per_device_train_batch_size=4, use_cpu=True, report_to=[],
        disable_tqdm=True, logging_steps=1, learning_rate=1e-3, weight_decay=0.1, save_steps=4, save_strategy="steps",
        **arguments,
    )  # fmt: skip
    if way == "optimizers":
        optimizer = KAdam(network.parameters(), **options)
        # The schedule ends at 8 steps, also in a run that is stopped before.
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=8)
        given = {"optimizers": (optimizer, scheduler)}
    else:
        given = {"optimizer_cls_and_kwargs": (KAdam, options)}
    data = [{"input_ids": row, "labels": row} for row in tokens]
    return transformers.Trainer(model=network, args=arguments, train_dataset=data, **given)


WAYS = pytest.mark.parametrize("way", ["optimizers", "optimizer_cls_and_kwargs"])


def kadam(trainer):
    """Return the optimizer inside accelerate's wrapper."""
    return getattr(trainer.optimizer, "optimizer", trainer.optimizer)


@WAYS
def test_both_ways_train_with_kadam(transformers, tmp_path, way):
    """`optimizers=` and `optimizer_cls_and_kwargs=` train with KAdam and its options; the loss falls."""
    run = trainer(transformers, tmp_path, way, steps=40)
    run.train()
    optimizer = kadam(run)
    assert isinstance(optimizer, KAdam)
    assert all(group["k"] == 2 and tuple(group["betas"]) == (0.9, 0.99) for group in optimizer.param_groups)
    assert {values["step"].item() for values in optimizer.state.values()} == {40}
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


@WAYS
@pytest.mark.parametrize("path", PATHS)
def test_resume(transformers, tmp_path, way, path):
    """A run that resumes from a checkpoint ends with the same bits; every path."""
    options = {**OPTIONS, **PATHS[path]}
    whole = trainer(transformers, tmp_path, way, options=options)
    whole.train()
    resumed = trainer(transformers, tmp_path, way, options=options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_equal(parameters(resumed.model), parameters(whole.model))
    assert_equal(state(kadam(resumed)), state(kadam(whole)))


def test_options_are_json(transformers, tmp_path):
    """All options can come from a JSON file, as in `optimizer_cls_and_kwargs` read from a configuration."""
    options = {"lr": 1e-3, "betas": [0.9, 0.99], "k": 2, "stages": [[0.9, 0.99], [0.8, 0.95]], "state_dtype": "float64"}
    run = trainer(transformers, tmp_path, "optimizer_cls_and_kwargs", options=options)
    run.train()
    averages = next(iter(kadam(run).state.values()))
    assert averages["exp_avg_1"].dtype == torch.float64


def test_accumulation_clipping_and_bfloat16(transformers, tmp_path):
    """Gradient accumulation, clipping and bfloat16 autocast work; one optimizer step per accumulated batch."""
    run = trainer(transformers, tmp_path, "optimizer_cls_and_kwargs", bf16=True, max_grad_norm=0.1,
                  gradient_accumulation_steps=2)  # fmt: skip
    run.train()
    assert {values["step"].item() for values in kadam(run).state.values()} == {8}
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())
