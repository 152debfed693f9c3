"""What a fit leaves in MLflow. The only room that imports mlflow; trouble there is told and costs nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from anomaly.config import TrackingConfig

LOCAL = "sqlite:///mlflow.db"
MOST_STEPS = 1000
"""Points of one loss curve; longer ones are thinned."""


class Run:
    """One MLflow run. After the first call that fails, the rest is skipped and `trouble` says why."""

    def __init__(
        self, config: TrackingConfig, run_id: str | None = None, *, parent: str | None = None
    ) -> None:
        """Start a run, within the run `parent` if given, or go on with `run_id`."""
        self.trouble: str | None = None
        self.run_id: str | None = None
        self.uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or LOCAL
        if not config.enabled:
            self.trouble = "switched off"
            return
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, round(config.timeout))))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with self._trouble():
            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.ERROR)
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self.uri)
            if run_id is None:
                tags = {"mlflow.parentRunId": parent} if parent else None
                run_id = self._client.create_run(self._experiment(config.experiment), tags=tags).info.run_id
            self.run_id = run_id

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters, 100 a call at most."""
        if self.trouble:
            return
        from mlflow.entities import Param

        items = [Param(key, str(value)[:5000]) for key, value in values.items()]
        for start in range(0, len(items), 100):
            part = items[start : start + 100]
            self._call(partial(self._client.log_batch, self.run_id, params=part))

    def metrics(self, values: Mapping[str, float | None]) -> None:
        """Log metrics; None is left out."""
        if self.trouble:
            return
        from mlflow.entities import Metric

        items = [Metric(key, float(value), 0, 0) for key, value in values.items() if value is not None]
        if items:
            self._call(lambda: self._client.log_batch(self.run_id, metrics=items))

    def curve(self, name: str, values: Sequence[float]) -> None:
        """Log a value for each step."""
        if self.trouble:
            return
        from mlflow.entities import Metric

        every = -(-len(values) // MOST_STEPS)
        items = [Metric(name, value, 0, step) for step, value in enumerate(values) if step % every == 0]
        if items:
            self._call(lambda: self._client.log_batch(self.run_id, metrics=items))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags."""
        if self.trouble:
            return
        for key, value in values.items():
            self._call(partial(self._client.set_tag, self.run_id, key, str(value)))

    def text(self, content: str, file: str) -> None:
        """Keep a text file with the run."""
        self._call(lambda: self._client.log_text(self.run_id, content, file))

    def picture(self, png: bytes, file: str) -> None:
        """Keep a picture with the run; `file` is its path there."""

        def log() -> None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / Path(file).name
                path.write_bytes(png)
                self._client.log_artifact(self.run_id, str(path), str(Path(file).parent))

        self._call(log)

    def folder(self, path: Path, name: str) -> None:
        """Keep a folder with the run."""
        self._call(lambda: self._client.log_artifacts(self.run_id, str(path), name))

    def end(self, status: str = "FINISHED") -> None:
        """Close the run: FINISHED, KILLED or FAILED."""
        self._call(lambda: self._client.set_terminated(self.run_id, status))

    def _experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        files = Path("mlruns").resolve().as_uri() if self.uri.startswith("sqlite:") else None
        return str(self._client.create_experiment(name, artifact_location=files))

    def _call(self, action: Callable[[], Any]) -> None:
        if self.trouble is None:
            with self._trouble():
                action()

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow's own dependencies deprecate each other
                yield
        except Exception as error:  # whatever a server, a driver or a full disk comes up with
            reason = str(error).strip().partition("\n")[0][:300]
            self.trouble = f"MLflow at {self.uri} failed ({reason})"
