"""The end of a training: curves, sample predictions, the report, and the samples for trackers."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engine import plots
from engine.errors import UserError
from engine.fonts import font_notes
from engine.report.run import REPORT, RunFacts, write_training_report
from engine.report.settings import Difference
from engine.train.run_log import Tracker, read_rows
from engine.train.trackers.opening import track_samples

if TYPE_CHECKING:
    from engine.config.training import Training


def draw(training: "Training", *, evaluated: bool, differences: Callable[[], list[Difference]]) -> None:
    """Save curves, sample predictions of the best weights, and the report.

    Args:
        evaluated: whether the trainer has evaluated the run; a run that had already finished has not been.
        differences: the settings that differ from the defaults.
    """
    trainer, run = training.trainer, training.run
    plots.save_curves(read_rows(run.log), training.info.metric, run.curves)
    trainer.load_best()
    task: Any = trainer.inference_task
    if hasattr(task, "use_metrics"):
        task.use_metrics(trainer.state.metrics)
    for note in font_notes(training.classes):
        print(note)
    reporter = training.info.reporter(task)
    reporter.save_samples(trainer.data.eval_set, run.samples, count=training.config.samples)
    _report(training, reporter, evaluated=evaluated, differences=differences)


def _report(
    training: "Training", reporter: Any, *, evaluated: bool, differences: Callable[[], list[Difference]]
) -> None:
    """Write report.html; an error there must not look like a failed training."""
    trainer, config = training.trainer, training.config
    try:
        facts = RunFacts(
            run=training.run,
            info=training.info,
            differences=differences(),
            batch=trainer.options.batch,
        )
        write_training_report(
            facts,
            reporter=reporter,
            evaluator=trainer.evaluator if evaluated else None,
            dataset=trainer.data.eval_set,
            split=config.data.split,
            count=config.samples,
        )
        print(f"report: {training.run.path / REPORT}")
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(f"{REPORT} was not written ({reason}); the training itself is complete")


def give_samples(training: "Training", trackers: Sequence[Tracker]) -> None:
    """Show the saved samples in the trackers and TensorBoard."""
    trainer = training.trainer
    track_samples(trackers, training.run, trainer.state.step, trainer.options.trackers)
