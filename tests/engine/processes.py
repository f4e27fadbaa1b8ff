"""Runs a function in a group of processes, as started by torchrun."""

import multiprocessing
import os
import socket

import torch

from engine import runtime


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_rank(function, rank, world, port, results):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group = runtime.start(device="cpu", channels_last=False)
    results.put((rank, function(group)))
    group.close()


def in_processes(world, function):
    """Run `function(runtime)` in `world` processes; returns the results by rank."""
    port = free_port()
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    children = [
        fork.Process(target=_run_rank, args=(function, rank, world, port, results)) for rank in range(world)
    ]
    for child in children:
        child.start()
    try:
        results_by_rank = dict(results.get(timeout=30) for _ in children)
        for child in children:
            child.join(10)
    finally:
        for child in children:
            child.kill()
    return [results_by_rank[rank] for rank in range(world)]
