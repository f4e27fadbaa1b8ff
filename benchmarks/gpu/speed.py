"""Timings on a device: training against torchvision's loop, and the latency of the networks."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from benchmarks.gpu.session import CheckFailed, Session
from benchmarks.support.images import as_strings, drawn_images, write_training_ids
from benchmarks.support.rounds import take_turns
from benchmarks.support.workers import Side
from seg.heads import LRASPP
from seg.model import Segmenter

TORCHVISION = "torchvision's loop and network"
NETWORK = ("experiment=seg/lraspp_torchvision", "optimizer=sgd", "optimizer.lr=0.01", "trainer.ema=null")
TRAININGS = {
    "the same network, contiguous": (*NETWORK, "trainer.channels_last=false"),
    "the same network, channels last": NETWORK,
    "the same network, channels last, bf16": (*NETWORK, "trainer.precision=bf16"),
    "the same network, channels last, bf16, compiled": (
        *NETWORK,
        "trainer.precision=bf16",
        "trainer.compile=true",
    ),
}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def training(session: Session) -> None:
    """Images/s of training, read from PNG files, in turns with torchvision's loop."""
    few = session.device == "cpu"
    images, size, batch, steps = (8, (128, 256), 2, 2) if few else (64, (512, 1024), 16, 20)
    crop = 64 if few else 480
    with drawn_images(images, size) as source, TemporaryDirectory() as folder:
        masks = write_training_ids(source, Path(folder))
        files = as_strings(source.splits["train"].images)
        job: dict[str, Any] = {"images": files, "masks": masks, "classes": len(source.classes)}
        job |= {"base": size[0], "crop": crop, "batch": batch, "workers": 0 if few else 8, "steps": steps}
        job |= {"keep_memory": False, "device": session.device}
        settings = [
            f"data.root={Path(files[0]).parents[3]}",
            f"data.source.num_train={images}",
            "data.source.num_val=1",
            "data.source.num_test=0",
            f"data.source.size=[{size[0]},{size[1]}]",
            f"data.crop={crop}",
            "data.scale=[0.5,2.0]",
            f"data.workers={job['workers']}",
            f"trainer.batch={batch}",
            f"trainer.device={session.device}",
        ]
        sides = {TORCHVISION: Side("torchvision_training.py", job)}
        for name, overrides in list(TRAININGS.items())[: 2 if few else None]:
            sides[name] = Side("project_training.py", {"overrides": [*settings, *overrides], "steps": steps})
        try:
            runs = {name: side.round for name, side in sides.items()}
            results = take_turns(runs, rounds=1 if few else 3)
        except SystemExit as error:
            raise CheckFailed(str(error)) from None
        finally:
            for side in sides.values():
                side.close()
    rates = {
        name: statistics.median(each["images"] / each["seconds"] for each in rounds)
        for name, rounds in results.items()
    }
    for name, rate in rates.items():
        text = f"{rate:.1f} images/s, {rate / rates[TORCHVISION]:.2f} times torchvision's"
        session.note("training", name, "measured", text)


def latency(session: Session) -> None:
    """Milliseconds of LR-ASPP on one image at the session's size, in turns: median and 95th percentile."""
    jobs: dict[str, Callable[[], float]] = {}
    for spec in (mobilenet_v3_large, mobilenet_v3_small):
        for precision, dtype in PRECISIONS.items():
            if dtype is torch.float16 and session.device == "cpu":
                continue
            for compiled in (False, True) if session.device != "cpu" else (False,):
                name = f"{spec.__name__}, {precision}{', compiled' if compiled else ''}"
                jobs[name] = _clocked(spec(output_stride=16), dtype, compiled, session)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(session.rounds):
        session.seconds_left()
        for name, run in jobs.items():
            times[name].append(run())
    height, width = session.size
    for name, values in times.items():
        p95 = float(np.percentile(values, 95))
        text = f"{statistics.median(values):.2f} ms, 95th percentile {p95:.2f} ms"
        session.note("latency", f"{name}, {height}x{width}", "measured", text)


def _clocked(spec: Any, dtype: torch.dtype | None, compiled: bool, session: Session) -> Callable[[], float]:
    head = partial(LRASPP, pool="large_kernel", align_corners=False)
    model: Any = Segmenter(backbone=spec, head=head, num_classes=19).eval().to(session.device)
    model = model.to(memory_format=torch.channels_last, dtype=dtype or torch.float32)
    image = torch.rand(1, 3, *session.size, device=session.device, dtype=dtype or torch.float32)
    image = image.contiguous(memory_format=torch.channels_last)
    if compiled:
        model = torch.compile(model)

    def run() -> float:
        with torch.inference_mode():
            _wait(session.device)
            started = time.perf_counter()
            model(image)
            _wait(session.device)
        return 1000 * (time.perf_counter() - started)

    for _ in range(3):
        run()
    return run


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def onnxruntime(session: Session) -> None:
    """The exported network in ONNX Runtime's providers: near the CPU provider's scores, and its time."""
    import onnxruntime

    height, width = session.size
    few = ("data.source.num_train=8", "data.source.num_val=2", f"data.source.size=[{height},{width}]")
    run = session.train("exported", "trainer.steps=1", "trainer.eval_every=1", *few)
    out = session.folder / "onnx"
    session.tool("export", f"run={run}", "format=onnx", "images=2", f"out={out}")
    available = onnxruntime.get_available_providers()
    wanted = ["CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"]
    expected = None
    for provider in wanted:
        if provider not in available:
            session.note("onnxruntime", provider, "skipped", "not in this build of ONNX Runtime")
            continue
        network = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=[provider])
        if provider not in network.get_providers():
            session.note("onnxruntime", provider, "skipped", "it does not start on this machine")
            continue
        entry = network.get_inputs()[0]
        pixels = np.random.default_rng(0).integers(0, 256, entry.shape)
        feed = {entry.name: pixels.astype(np.uint8 if "uint8" in entry.type else np.float32)}
        outputs, times = network.run(None, feed)[0], []
        for _ in range(session.rounds):
            session.seconds_left()
            started = time.perf_counter()
            network.run(None, feed)
            times.append(1000 * (time.perf_counter() - started))
        session.note(
            "onnxruntime", f"{provider}, {height}x{width}", "measured", f"{statistics.median(times):.2f} ms"
        )
        if expected is None:
            expected = outputs
        else:
            difference = float(np.abs(outputs - expected).max() / np.abs(expected).max())
            near = difference <= 0.02  # TF32 and fp16 kernels
            text = f"{difference:.2g} of the largest score away from the CPU provider, at most 0.02"
            session.note("onnxruntime", provider, "passed" if near else "failed", text)
