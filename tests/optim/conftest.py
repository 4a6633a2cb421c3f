import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Small tensors gain nothing from threads, and sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
