"""The project files whose code runs before the first loss: the files a newcomer has to read.

Usage: python benchmarks/files_to_first_loss.py [override ...]

Runs `python tools/train.py task=seg data=cityscapes` on a tiny drawn Cityscapes tree, in this process, until
the first backward pass, and prints the files of this project that had a function called, and their number.
Overrides are those of tools/train.py, for another task or model.
"""

import argparse
import inspect
import runpy
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DRAW = "import sys; from streets import cached_streets; cached_streets(root=sys.argv[1], {})"
SCENES = "num_train=2, num_val=1, num_test=0, size=(64, 128), seed=0"
SETTINGS = (
    "task=seg",
    "data=cityscapes",
    "data.workers=0",
    "data.crop=64",
    "trainer.steps=1",
    "trainer.batch=2",
    "trainer.device=cpu",
)


class FirstLoss(BaseException):
    """Ends the training; not an Exception, so that nothing handles it."""


class FunctionFiles:
    """Profiles the thread and collects the project files whose functions are called.

    A file that is only imported, so that its module and class bodies run, does not count.
    """

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def __enter__(self) -> "FunctionFiles":
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, _argument: Any) -> None:
        if (
            event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED
        ):  # a function's, not a class body's
            self.paths.add(frame.f_code.co_filename)

    def in_project(self) -> list[str]:
        """The paths below this project, without tests and benchmarks."""
        own = (Path(path) for path in self.paths if Path(path).is_relative_to(ROOT))
        relative = sorted(path.relative_to(ROOT).as_posix() for path in own)
        return [path for path in relative if not path.startswith(("benchmarks/", "tests/"))]


def files_to_first_loss(overrides: list[str]) -> list[str]:
    """Train until the first backward pass. Returns: the project files that had a function called."""
    import torch

    from benchmarks.support.processes import python

    def stop(*_: Any, **__: Any) -> None:
        raise FirstLoss

    arguments, backward = sys.argv, torch.Tensor.backward
    with tempfile.TemporaryDirectory() as folder:
        # In a separate process, because imports and calls for drawing do not count.
        python("-c", DRAW.format(SCENES), f"{folder}/scenes", check=True)
        own = [f"data.root={folder}/scenes", f"run={folder}/run"]
        sys.argv = ["tools/train.py", *SETTINGS, *own, *overrides]
        torch.Tensor.backward = stop  # type: ignore[method-assign, assignment]
        try:
            with FunctionFiles() as files:
                runpy.run_path(str(ROOT / "tools" / "train.py"), run_name="__main__")
        except FirstLoss:
            return files.in_project()
        finally:
            sys.argv, torch.Tensor.backward = arguments, backward  # type: ignore[method-assign]
    raise SystemExit("the training ended without a loss")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="for tools/train.py")
    files = files_to_first_loss(parser.parse_args(arguments).overrides)
    print("\n".join(files))
    print(f"{len(files)} files")


if __name__ == "__main__":
    main()
