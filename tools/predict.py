"""Predict on images, videos or a live stream; saves overlays with a legend, predictions and a JSON summary.

Usage: python tools/predict.py run=<run folder> input=<image | folder | glob | video | stream> [key=value ...]

Examples:
  python tools/predict.py run=lraspp_v3_large_cityscapes input=street.jpg       a published network
  python tools/predict.py run=<run folder> input=street.jpg
  python tools/predict.py run=<run folder> input=photos out=results
  python tools/predict.py run=<run folder> 'input="photos/*.png"' legend=false
  python tools/predict.py run=<run folder> input=drive.mp4
  python tools/predict.py run=<run folder> input=0                              camera 0, until Ctrl-C
  python tools/predict.py run=<run folder> input=rtsp://host/stream frames=500
  python tools/predict.py run=<run folder> input=photos inference.flip=true
  python tools/predict.py run=<run folder> input=photos artifact=<exported file>
  python tools/predict.py run=<run folder> input=photos save_labels=coco min_score=0.7     also write labels
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from functools import partial
from pathlib import Path
from typing import Any

from backbones.weights import catalog
from deploy.artifact import origin_notes, with_exported_file
from engine import runtime
from engine.config.launch import launch
from engine.config.options import PredictOptions
from engine.config.runs import TrainedRun
from engine.data import media
from engine.fonts import font_notes
from engine.io.files import write_json
from engine.prediction import Labeling, claim_results, predict_files, predict_live
from engine.published import run_by_name
from engine.video.stream import is_stream


def predict(options: PredictOptions) -> int:
    """Predict on the input; returns the exit status: 1 if a file was skipped or is damaged."""
    chosen: dict[str, Any] = {"overrides": options.overrides, "checkpoint": options.checkpoint}
    run = TrainedRun.open(options.run, **chosen, reads="images")
    place = Path(options.out or run.folder.path / "predict")
    claimed = claim_results(place, renames=options.out is None)
    with claimed as out:
        live = is_stream(options.input)
        files = [] if live else media.find_media(options.input, skip=place)
        for note in run.image_notes([file for file in files if not media.is_video(file)]):
            print(note)
        here = runtime.start(device=options.device, precision=options.precision)
        task: Any = run.task()
        if options.artifact is not None:
            file, threads = Path(options.artifact), options.threads
            task = with_exported_file(task, run.info, file, threads=threads, precision=options.precision)
            print(
                "".join(f"{line}\n" for line in origin_notes(file, task.model.session.metadata, run.folder)),
                end="",
            )
        here.place(task)
        reporter = run.info.reporter(task)
        chosen = {"legend": options.legend, "frames": options.frames}
        kind, labeling = options.save_labels, None
        if kind is not None:
            labeling = Labeling(reporter, out / "labels", kind, files, min_score=options.least_score)
        if live:
            result = predict_live(task, reporter, options.input, out, **chosen)
        else:
            noun = "file" if len(files) == 1 else "files"
            print(f"predicting {len(files)} {noun} into {out}", flush=True)
            result = predict_files(task, reporter, files, out, read=run.read_image, labels=labeling, **chosen)
        write_json(out / "summary.json", {"run": str(run.folder.path), **result.summary()})
        notes = [*getattr(reporter, "prediction_notes", list)(), *font_notes(task.classes)]
        names: dict[str, Any] = {"task": run.info.name, "run": options.run, "settings": run.image_settings}
        labels = labeling.finish(**names) if labeling else []
        print("\n".join([*notes, *result.lines(len(files)), *labels, f"out: {out}"]))
    return result.status


if __name__ == "__main__":
    launch(predict, "predict", __doc__, complete=partial(run_by_name, published=catalog.find))
