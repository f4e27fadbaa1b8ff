"""Checks of training and evaluation on a device: precision, resuming, several processes, scores."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.gpu.session import CheckFailed, Session, losses

TORCHRUN = ("-m", "torch.distributed.run", "--standalone")


def precision(session: Session) -> None:
    """The first loss in fp32 equals the CPU's to 0.1 %; bf16 and fp16 end within 10 % of fp32's loss."""
    exact = losses(session.train("fp32", "trainer.deterministic=true"))
    if session.device != "cpu":
        on_cpu = losses(session.train("cpu", "trainer.steps=1", device="cpu"))
        session.compare("precision", "fp32, first loss, against the CPU", exact[0], on_cpu[0], within=1e-3)
    falls = _end(exact) < exact[0]
    text = f"from {exact[0]:.4g} to {_end(exact):.4g} in {session.steps} steps"
    session.note("precision", "fp32, the loss falls", "passed" if falls else "failed", text)
    for name in ("bf16", "fp16"):
        if name == "fp16" and session.device == "cpu":
            session.note("precision", name, "skipped", "fp16 is for CUDA")
            continue
        lower = losses(session.train(name, f"trainer.precision={name}"))
        session.compare(
            "precision", f"{name}, loss at the end, against fp32", _end(lower), _end(exact), within=0.1
        )


def _end(values: list[float]) -> float:
    last = values[-max(1, len(values) // 4) :]
    return sum(last) / len(last)


def resume(session: Session) -> None:
    """With trainer.deterministic=true, a run resumed halfway ends with the same weights, bit by bit."""
    half = max(1, session.steps // 2)
    straight = session.train("straight", "trainer.deterministic=true")
    session.train(
        "halves", "trainer.deterministic=true", f"trainer.steps={half}", f"trainer.eval_every={half}"
    )
    session.tool(
        "train",
        f"resume={session.folder / 'halves'}",
        f"trainer.steps={session.steps}",
        f"trainer.eval_every={session.steps}",
    )
    ours, theirs = (
        load_file(folder / "checkpoints" / "last.safetensors")
        for folder in (session.folder / "halves", straight)
    )
    if ours.keys() != theirs.keys():
        raise CheckFailed("the checkpoints hold different tensors")
    different = [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])]
    result = "failed" if different else "passed"
    text = f"{len(ours) - len(different)} of {len(ours)} tensors are identical"
    session.note("resume", f"{half} + {session.steps - half} steps against {session.steps}", result, text)


def evaluation(session: Session) -> None:
    """A run scores the same on the device and on the CPU, to 0.1 %."""
    run = session.train("scored", "trainer.precision=fp32")
    scores = {}
    for device in {session.device: None, "cpu": None}:
        out = session.folder / f"eval-{device}"
        session.tool("eval", f"run={run}", f"device={device}", f"out={out}", "worst=0", "suspicious=0")
        scores[device] = _miou(out)
    session.compare(
        "evaluation",
        f"mIoU, {session.device} against the CPU",
        scores[session.device],
        scores["cpu"],
        within=1e-3,
    )


def _miou(folder: Path) -> float:
    return float(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["miou"])


def processes(session: Session) -> None:
    """A process for each GPU (NCCL) trains; with SyncBN, the first loss equals one process's to 0.1 %."""
    count = torch.cuda.device_count() if session.device == "cuda" else 2
    if count < 2:
        session.note("processes", "NCCL, SyncBN", "skipped", f"{count} GPU; both need two")
        return
    launcher = (*TORCHRUN, f"--nproc_per_node={count}")
    batch = f"trainer.batch={4 * count}"
    alone = losses(session.train("alone", "trainer.steps=1", batch))
    plain = losses(session.train("together", batch, launcher=launcher))
    backend = "NCCL" if session.device == "cuda" else "Gloo"
    # Each process has its own batch statistics, so the losses are near each other but not equal.
    session.compare("processes", f"{count} processes, {backend}, first loss", plain[0], alone[0], within=0.2)
    if session.device == "cpu":
        session.note("processes", "SyncBN", "skipped", "it is for CUDA")
        return
    synced = losses(
        session.train("synced", batch, "trainer.steps=1", "trainer.sync_bn=true", launcher=launcher)
    )
    session.compare("processes", f"{count} processes, SyncBN, first loss", synced[0], alone[0], within=1e-3)
