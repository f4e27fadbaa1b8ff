"""Runs a model with ncnn: `load(path)(images)` -> its outputs, in order. `path` ends in `.ncnn.param`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
from numpy.typing import NDArray


def open_net(path: Path, *, threads: int = 1) -> Any:
    """The network in memory; its files are not read again."""
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    # Arithmetic in float32: the default on many CPUs is float16 or bfloat16, which changes results.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    weights = str(path).removesuffix(".param") + ".bin"
    if net.load_param(str(path)) or net.load_model(weights):
        raise ValueError("ncnn cannot load it")
    return net


def load(path: Path, *, threads: int = 1) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    net = open_net(path, threads=threads)
    (name,) = net.input_names()
    outputs = sorted(net.output_names(), key=lambda output: int(output.removeprefix("out")))

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        (image,) = np.ascontiguousarray(images, np.float32)  # one image; ncnn has no batches
        extractor = net.create_extractor()
        extractor.input(name, ncnn.Mat(image).clone())  # layers may work in place
        results = []
        for output in outputs:
            failed, values = extractor.extract(output)
            if failed:
                raise RuntimeError(f"ncnn cannot compute {output}")
            results.append(np.array(values)[None])
        return results

    return run
