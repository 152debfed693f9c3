"""What a worker process of a Ray cluster does: load the model once, then judge the photos it is handed."""

from __future__ import annotations

import os
import pickle
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from anomaly.bundle import read_bundle
from anomaly.data.addresses import Address, Location, locate, open_store
from anomaly.data.images import one_line
from anomaly.errors import AnomalyError, DataError
from anomaly.inspection.drawing import Drawn, draw
from anomaly.inspection.gallery import Shortlist
from anomaly.inspection.scoring import choose_scorer
from anomaly.inspection.stream import judge
from anomaly.policy.policy import Policy

_loads = count(1)
"""How often this process has loaded a model."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know."""

    model: str
    """Name of the model's folder."""
    files: Mapping[str, bytes]
    """The model's files, so that it need not lie where each node reaches it."""
    policy: Policy
    """What decides, as it was when the inspection began."""
    runtime: str
    folder: str
    """What relative paths of photos are relative to."""
    places: Sequence[Location]
    """What each worker must reach."""


class Worker:
    """Judges photos one at a time, on one core."""

    def __init__(self, job: Any) -> None:
        """`job` is the reference of a Job. What is wrong is told when the first photos come."""
        import ray

        self._trouble: AnomalyError | None = None
        self.name = f"{platform.node()}:{os.getpid()}"
        if (load := next(_loads)) > 1:
            self.name += f" (load {load})"
        try:
            self._load(ray.get(job))
        except AnomalyError as error:
            self._trouble = error

    def _load(self, job: Job) -> None:
        with suppress(OSError):
            os.chdir(job.folder)
        for place in job.places:
            if isinstance(place, Address):
                open_store(place)
            elif not place.exists():
                raise DataError(
                    f"{one_line(place)} is not there on {platform.node()}, a node of the cluster: put the "
                    "photos where all nodes reach them by the same path, or give an address such as s3://"
                )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / job.model
            for name, data in job.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
            bundle = read_bundle(folder, late=job.runtime != "torch")
            self._score = choose_scorer(bundle, job.runtime, threads=1)
        self._detector = replace(bundle.detector, policy=job.policy)
        self._shortlist = Shortlist()

    def __call__(self, task: Any) -> Iterator[Any]:
        """Arrow table (index, name, group) of photos -> (index, worker, payload) one by one."""
        import pyarrow as pa

        for row in task.to_pylist():
            group = row["group"] and os.fsdecode(row["group"])
            payload = self._trouble or self._judge(locate(os.fsdecode(row["name"])), group)
            named = {"index": [row["index"]], "worker": [self.name]}
            yield pa.table({**named, "payload": pa.array([pickle.dumps(payload)], pa.large_binary())})

    def _judge(self, path: Location, group: str | None) -> Drawn:
        judged = judge(self._detector, path, self._score, group=group)
        return draw(self._detector, judged, self._shortlist.enter)
