"""`ctadam.UpdateMonitor` on sharded parameters: every rank reports what one process would report for the whole tensors."""

import os
import socket

import torch
import torch.multiprocessing

from ctadam import KAdam, UpdateMonitor

SHAPES = {"matrix": (5, 4), "vector": (1,), "columns": (3, 6)}


def train(params, kind, place=lambda name, tensor: tensor):
    optimizer = kind([*params.items()], lr=1e-2, betas=(0.99, 0.95))
    numbers, reductions = [], []
    all_reduce = torch.distributed.all_reduce
    torch.distributed.all_reduce = lambda *args, **kwargs: (reductions.append(1), all_reduce(*args, **kwargs))[1]
    with UpdateMonitor(optimizer, every=1, log=numbers.append):
        for step in range(12):
            draw = torch.Generator().manual_seed(step)
            for name, shape in SHAPES.items():
                grad = torch.randn(shape, generator=draw)
                if name == "matrix" and step > 1:
                    grad[4] = 0  # grows outside the stable region
                params[name].grad = place(name, grad)
            optimizer.step()
    torch.distributed.all_reduce = all_reduce
    return numbers, len(reductions)


def whole(kind):
    draw = torch.Generator().manual_seed(0)
    return train(
        {name: torch.nn.Parameter(torch.randn(shape, generator=draw)) for name, shape in SHAPES.items()}, kind
    )[0]


def rank_main(rank, world, port, mesh_shape, queue):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", mesh_shape)

    def place(name, tensor):
        shard = Shard(1 if name == "columns" else 0)
        return distribute_tensor(tensor, mesh, [*[Replicate()] * (len(mesh_shape) - 1), shard])

    results = []
    for kind in (torch.optim.AdamW, KAdam):
        draw = torch.Generator().manual_seed(0)
        params = {
            name: torch.nn.Parameter(place(name, torch.randn(shape, generator=draw))) for name, shape in SHAPES.items()
        }
        results.append(train(params, kind, place))
    queue.put((rank, results))
    torch.distributed.destroy_process_group()


def ranks(mesh_shape):
    world = torch.Size(mesh_shape).numel()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=rank_main, args=(rank, world, port, mesh_shape, queue)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    results = dict(queue.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    return results


def check(mesh_shape):
    found = ranks(mesh_shape)
    for number, kind in enumerate((torch.optim.AdamW, KAdam)):
        expected = whole(kind)
        assert "update/growth" in expected[-1]
        for results in found.values():
            numbers, reductions = results[number]
            assert reductions == 12 * len(mesh_shape)
            for ours, theirs in zip(numbers, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_shards_over_two_ranks():
    check((2,))
