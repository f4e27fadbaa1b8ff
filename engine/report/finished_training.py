"""The end of a training: curves, sample predictions and the report."""

from collections.abc import Callable
from typing import Any

from engine import plots
from engine.contracts import TaskInfo
from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.fonts import font_notes
from engine.report.run import REPORT, RunFacts, write_training_report
from engine.report.settings import Difference
from engine.train.run_log import read_rows
from engine.train.trainer import Trainer

Differences = Callable[[], list[Difference]]


def draw(
    trainer: Trainer,
    info: TaskInfo,
    classes: ClassMap,
    *,
    samples: int,
    split: str,
    evaluated: bool,
    differences: Differences,
) -> None:
    """Save curves, sample predictions of the best weights, and the report into the run folder.

    Args:
        samples: how many predictions to draw.
        split: the evaluated split.
        evaluated: whether the trainer has evaluated the run; a run that had already finished has not been.
        differences: the settings that differ from the defaults.
    """
    plots.save_curves(read_rows(trainer.run.log), info.metric, trainer.run.curves)
    trainer.load_best()
    task: Any = trainer.inference_task
    for note in font_notes(classes):
        print(note)
    reporter = info.reporter(task)
    reporter.save_samples(trainer.data.eval_set, trainer.run.samples, count=samples)
    write_report(
        trainer,
        info,
        reporter,
        samples=samples,
        split=split,
        evaluated=evaluated,
        differences=differences,
    )


def write_report(
    trainer: Trainer,
    info: TaskInfo,
    reporter: Any,
    *,
    samples: int,
    split: str,
    evaluated: bool,
    differences: Differences,
) -> None:
    """Write report.html; an error there must not look like a failed training. The arguments are `draw`'s."""
    try:
        write_training_report(
            RunFacts(run=trainer.run, info=info, differences=differences(), batch=trainer.options.batch),
            reporter=reporter,
            evaluator=trainer.evaluator if evaluated else None,
            dataset=trainer.data.eval_set,
            split=split,
            count=samples,
        )
        print(f"report: {trainer.run.path / REPORT}")
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(f"{REPORT} was not written ({reason}); the training itself is complete")
