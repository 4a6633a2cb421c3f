"""KAdam against the tables that torch tests its own Adam with; run as a program (see test_training_loop.py).

The import below changes global flags, so that setting one of ``torch.backends`` later raises.
"""

import itertools
import re
import warnings

import torch
from torch.testing._internal.common_optimizers import optim_db

from ctadam import KAdam

PATHS = {"plain": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def check_errors(info, k):
    count = 0
    for error_input in info.optim_error_inputs_func("cpu", torch.float32):
        given = error_input.optimizer_error_input
        params = given.params if given.params is not None else [torch.nn.Parameter(torch.randn(2, 3))]
        expected, pattern = error_input.error_type, error_input.error_regex
        with warnings.catch_warnings():
            if issubclass(expected, Warning):
                warnings.simplefilter("error")
            try:
                KAdam(params, k=k, **given.kwargs)
            except expected as error:
                assert re.search(pattern, str(error)), (given.desc, str(error))
                count += 1
            else:
                raise AssertionError(f"{given.desc}: no {expected.__name__}")
    assert count >= 10, count


def check_inputs_and_schedulers(info, k, path):
    inputs = [given for given in info.optim_inputs_func("cpu") if not given.kwargs.get("amsgrad")]
    assert len(inputs) >= 4 and info.scheduler_inputs
    for given, constructors in itertools.product(inputs, (*info.scheduler_inputs, [])):
        torch.manual_seed(0)
        weight, bias, data = torch.randn(10, 5), torch.randn(10), torch.randn(5)
        params = [weight.requires_grad_(), bias.requires_grad_()]
        optimizer = KAdam(params, k=k, **{"lr": 0.01, **given.kwargs, **PATHS[path]})
        schedulers = [constructor(optimizer) for constructor in constructors]
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = (weight.mv(data) + bias).square().sum()
            loss.backward()
            optimizer.step()
            for scheduler in schedulers:
                plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                scheduler.step(loss) if plateau else scheduler.step()
            losses.append(loss.item())
        assert (losses[-1] > losses[0]) == given.kwargs.get("maximize", False), (given.desc, constructors)


def main():
    torch.set_num_threads(1)
    [info] = [info for info in optim_db if info.optim_cls is torch.optim.Adam]
    for k in (1, 2, 3):
        check_errors(info, k)
        for path in PATHS:
            check_inputs_and_schedulers(info, k, path)


if __name__ == "__main__":
    main()
