"""MLflow; MLFLOW_TRACKING_URI names the server, a folder or a database."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.train.trackers.tracked_run import PROJECT, TrackedRun, caption, flat, scalars

_LONGEST_VALUE = 500  # characters
_PARAMS_PER_CALL = 100


class MLflow:
    """An `engine.train.run_log.Tracker`. MLFLOW_EXPERIMENT_NAME names the experiment."""

    def __init__(self, run: TrackedRun) -> None:
        # By default, a call without an answer is repeated for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)

        def create() -> str:
            experiment = client.get_experiment_by_name(name)
            folder = client.create_experiment(name) if experiment is None else experiment.experiment_id
            return str(client.create_run(folder, run_name=run.name).info.run_id)

        self._id = run.remember("mlflow", create)
        client.update_run(self._id, status="RUNNING")
        if not client.get_run(self._id).data.params:
            values = [Param(key, str(value)[:_LONGEST_VALUE]) for key, value in flat(run.config).items()]
            for start in range(0, len(values), _PARAMS_PER_CALL):
                client.log_batch(self._id, params=values[start : start + _PARAMS_PER_CALL])
        client.log_artifact(self._id, str(run.config_file))

    def row(self, row: Mapping[str, Any]) -> None:
        now = round(1000 * row.get("time", time.time()))
        metrics = [
            self._metric(re.sub(r"[^/\w.\- :]", "_", name), value, now, row["step"])
            for name, value in scalars(row).items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def images(self, step: int, paths: Sequence[Path]) -> None:
        from PIL import Image

        for path in paths:
            with Image.open(path) as image:
                self._client.log_image(self._id, image.convert("RGB"), f"samples/{caption(path)}.png")

    def close(self) -> None:
        self._client.set_terminated(self._id)
