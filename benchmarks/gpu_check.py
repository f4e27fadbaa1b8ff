"""Check a machine with a CUDA GPU: is training right there, and how fast is it? Takes at most 8 minutes.

Usage: python benchmarks/gpu_check.py [--out gpu_check] [--minutes 8] [--only CHECK ...] [--device cuda]

Checks: precision (fp32 against the CPU, bf16 and fp16 against fp32), resume (bit by bit), evaluation (the
same mIoU as on the CPU), processes (NCCL and SyncBN, with two GPUs or more), training (images/s against
torchvision's loop), latency, and onnxruntime (the CUDA and TensorRT providers, if they are installed).
Everything runs on drawn scenes; no data is needed.

Writes <out>.json and <out>.md, a table for the docs. Exit status: 0 if nothing failed, 1 if something did, 2
if there is no GPU. With --device cpu the checks run on the CPU at a small size, to test themselves.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.gpu import speed, training
from benchmarks.gpu.session import CheckFailed, OutOfTime, Session
from benchmarks.support.report import heading, table

CHECKS = {
    "precision": training.precision,
    "resume": training.resume,
    "evaluation": training.evaluation,
    "latency": speed.latency,
    "training": speed.training,
    "onnxruntime": speed.onnxruntime,
    "processes": training.processes,
}
"""In the order in which they run: what matters most comes first, in case time runs out."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="path without a suffix")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="CHECK")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: no CUDA GPU is available; --device cpu tests the checks themselves", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)  # not after the minutes
    small = {"steps": 4, "size": (64, 128), "rounds": 2} if options.device == "cpu" else {}
    with TemporaryDirectory() as folder:
        session = Session(device=options.device, folder=Path(folder), minutes=options.minutes, **small)
        for name in options.only:
            run(session, name)
        result = session.result()
    report = f"{heading(__file__)}\n{device_name(options.device)}\n\n{as_table(session)}\n"
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    options.out.with_suffix(".md").write_text(report, encoding="utf-8")
    print(report)
    return int(any(finding.result == "failed" for finding in session.findings))


def run(session: Session, name: str) -> None:
    """Run a check; one that cannot be finished becomes a finding, and the others go on."""
    try:
        session.seconds_left()
        CHECKS[name](session)
    except OutOfTime as error:
        session.note(name, "all" if not _began(session, name) else "the rest", "skipped", str(error))
    except (
        Exception
    ) as error:  # on a machine that nobody has seen, one surprise must not hide the other results
        kind = "" if isinstance(error, CheckFailed) else f"{type(error).__name__}: "
        session.note(name, "all" if not _began(session, name) else "the rest", "failed", f"{kind}{error}")


def _began(session: Session, name: str) -> bool:
    return any(finding.check == name for finding in session.findings)


def device_name(device: str) -> str:
    if device == "cpu":
        return "Device: CPU, at a small size (a test of the checks)."
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"Device: {', '.join(names)}; CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}."


def as_table(session: Session) -> str:
    rows = [[each.check, each.case, each.result, each.value] for each in session.findings]
    return table(["check", "case", "result", "value"], rows)


if __name__ == "__main__":
    sys.exit(main())
