"""Photos judged by the worker processes of a Ray cluster, through Ray Data.

Tasks of a few photos go out; verdicts with their pictures come back and are recorded here, in the order of
the photos. A worker that dies is replaced, and judges the photos of its unfinished task again.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from anomaly.bundle import MANIFEST, Bundle
from anomaly.data.addresses import Address
from anomaly.errors import AnomalyError, ConfigError, DataError
from anomaly.export.folder import EXPORTS
from anomaly.inspection.cluster_worker import Job, Worker
from anomaly.inspection.drawing import Drawn
from anomaly.inspection.engines import Work
from anomaly.inspection.groups import Found
from anomaly.inspection.scoring import Say
from anomaly.inspection.stream import in_order
from anomaly.ray_cluster import connect, import_ray

TASK = 16
"""Photos that go to a worker at a time, at most."""
SHARE = 4
"""Tasks for each worker at least, where there are photos enough."""
DEATHS = 3
"""Workers that may die with one task before it is given up."""
RESTARTS = 10
"""How often one worker is replaced in an inspection, whatever it died of."""
BLOCK = 32 * 2**20
"""Bytes that a worker holds back before it sends them."""


@contextmanager
def open_cluster(workers: int | None, say: Say) -> Iterator[Cluster]:
    """The cluster at RAY_ADDRESS, or one on this machine that ends with the block; `workers` None is one for
    each of its cores. Raises ConfigError where Ray is missing, does not answer, or has fewer cores."""
    import_ray()
    import ray
    import ray.data

    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # its log file stays
            handler.setLevel(logging.CRITICAL + 1)
    address = os.environ.get("RAY_ADDRESS")
    joined = ray.is_initialized()
    try:
        if not joined:
            connect(address, workers)
        cores = int(ray.cluster_resources().get("CPU", 0))
        if (workers or 1) > cores:
            raise ConfigError(f"the Ray cluster has {cores} cores: give at most so many --workers")
        say(f"judging on {'the' if address else 'a'} Ray cluster, {workers or cores} workers")
        yield Cluster(workers or cores, say)
    finally:
        if not joined:
            ray.shutdown()


@dataclass(frozen=True)
class Cluster:
    """A cluster that is connected."""

    workers: int
    say: Say
    photos_of: Counter[str] = field(default_factory=Counter)
    """Photos that were recorded, by the worker that judged them."""

    def drawn(self, work: Work) -> Iterator[Drawn]:
        """See `Engine`. Raises what a worker found wrong, and DataError where tasks are given up."""
        import ray

        photos, bundle = work.photos, work.writer.bundle
        if not photos:
            return
        job = ray.put(
            Job(
                bundle.path.name,
                _files(bundle),
                work.writer.policy,
                work.score.runtime,
                os.getcwd(),
                [place for place in work.places if isinstance(place, Address) or place.exists()],
            )
        )
        results = self._results(job, photos)
        last = object()
        expected = 0
        waited = in_order(
            lambda thing: next(results, last),
            itertools.repeat("waiting for the workers"),
            1,
            work.waiting_for,
        )
        try:
            for found in waited:
                if found is last:
                    break
                for row in found.to_pylist():  # type: ignore[attr-defined]
                    payload = pickle.loads(row["payload"])
                    if isinstance(payload, AnomalyError):
                        raise payload
                    if row["index"] != expected:
                        raise AssertionError(f"photo {row['index']} came in the place of {expected}")
                    expected += 1
                    self.photos_of[row["worker"]] += 1
                    yield payload
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataError(
                f"the Ray cluster gave up behind {expected} of {len(photos)} photos ({reason}): look for a "
                "photo that crashes the workers, or for nodes that are gone; go on with --resume"
            ) from None
        finally:
            waited.close()  # type: ignore[attr-defined]
        if expected != len(photos):
            raise AssertionError(f"{expected} of {len(photos)} photos came back")
        shares = ", ".join(f"{worker} {count}" for worker, count in sorted(self.photos_of.items())[:8])
        self.say(f"photos by worker: {shares}{', ...' if len(self.photos_of) > 8 else ''}")

    def _results(self, job: Any, photos: Sequence[Found]) -> Iterator[Any]:
        """Tables (index, worker, payload) as they come, in order."""
        import pyarrow as pa
        import ray

        names = [os.fsencode(str(photo.path)) for photo in photos]
        size = max(1, min(TASK, len(names) // (self.workers * SHARE)))
        table = pa.table(
            {
                "index": pa.array(range(len(names))),
                "name": pa.array(names, pa.large_binary()),
                "group": pa.array(
                    [photo.group and os.fsencode(photo.group) for photo in photos], pa.binary()
                ),
            }
        )
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.target_max_block_size = BLOCK
        context.execution_no_progress_timeout_s = -1  # a network folder may stall for long
        context.max_consecutive_actor_init_deaths = DEATHS
        judged = ray.data.from_arrow(
            [table.slice(start, size).combine_chunks() for start in range(0, len(names), size)]
        ).map_batches(
            Worker,
            fn_constructor_args=(job,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=self.workers),
            num_cpus=1,
            max_restarts=RESTARTS,
            max_task_retries=DEATHS,
        )
        return iter(judged.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))


def _files(bundle: Bundle) -> dict[str, bytes]:
    """Content of the model's files and of its exports, by path in the model's folder."""
    exports = [path for path in (bundle.path / EXPORTS).rglob("*") if path.is_file()]
    paths = [bundle.path / name for name in (MANIFEST, *bundle.manifest["files"])] + exports
    return {path.relative_to(bundle.path).as_posix(): path.read_bytes() for path in paths}
