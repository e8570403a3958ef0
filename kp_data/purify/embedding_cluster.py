"""Embedding by the workers of a Ray cluster: the numbers that this process would compute, from more processors.

Axes: N texts, D embedding size.
A worker process loads the encoder at its first task and keeps it. Ray runs a task again whose worker was lost. A task
holds whole batches, so that every text stands in the batch it would stand in here; workers that compute otherwise,
because their processor or a library is another, are refused rather than mixed.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from kp_data import __version__
from kp_data.errors import ConfigError, KpError, Unfinished
from kp_data.purify.encoders import Encoder, LoadEncoder, Precision, load_encoder

Array = np.ndarray[Any, Any]

TEXTS_A_TASK: Final = 1024
TRIES: Final = 3
"""How often Ray runs a task again whose worker was lost."""


@dataclass(frozen=True)
class About:
    """What a worker says of its encoder: see `Encoder`; and which program it is, where."""

    identity: str
    size: int
    num_parameters: int
    version: str
    host: str


@dataclass(frozen=True)
class ClusterEncoder:
    """An encoder that is loaded on the cluster alone.

    Attributes:
        given: encoder, device and precision, as `load_encoder` takes them.
        workers: tasks under way at a time, which bounds memory here and there.
        about: what all workers must agree on.
    """

    given: tuple[str, str, Precision]
    workers: int
    about: About

    @classmethod
    def start(cls, encoder: str, device: str | None, precision: Precision, *, workers: int) -> Self:
        """Load an encoder on one worker, the others follow when they get work.

        Args:
            encoder, device, precision: as for `load_encoder`; device None: GPUs where the cluster has any.
            workers: that are wanted.

        Raises: ConfigError, when there is no such device, or the encoder cannot be loaded there.
        """
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0))
        where = device or ("cuda" if gpus else "cpu")
        if where.startswith("cuda"):
            if not gpus:
                raise ConfigError("no node of the Ray cluster has a GPU; give cpu", place=f"device '{device}'")
            # Ray shows each worker its own GPU alone.
            where, workers = "cuda", min(workers, gpus)
        given = (encoder, where, precision)
        about: About = _result(_task(_about, where).remote(given))
        if about.version != __version__:
            raise ConfigError(
                f"the worker on {about.host} is knowledge-purification {about.version}, this is {__version__}; "
                "install the same version on every node"
            )
        return cls(given, workers, about)

    @property
    def size(self) -> int:
        """D."""
        return self.about.size

    @property
    def num_parameters(self) -> int:
        """Parameters of the encoder."""
        return self.about.num_parameters

    @property
    def identity(self) -> str:
        """As of an encoder that is loaded here, so that both use one cache."""
        return self.about.identity

    def batches(self, texts: Sequence[str], batch_size: int) -> Iterator[tuple[list[int], Array]]:
        """(positions in `texts`, (N, D) float32 unit vectors), a task at a time as they are done.

        Raises:
            ConfigError: a worker cannot load the encoder, or computes otherwise than the first.
            Unfinished: workers were lost again and again, or with them the cluster.
        """
        import ray

        task = _task(_embed, self.given[1])
        size = max(1, TEXTS_A_TASK // batch_size) * batch_size
        starts = iter(range(0, len(texts), size))
        running: dict[Any, int] = {}
        try:
            while True:
                while len(running) < self.workers and (start := next(starts, None)) is not None:
                    running[task.remote(self.given, list(texts[start : start + size]), batch_size)] = start
                if not running:
                    return
                done = ray.wait(list(running), num_returns=1)[0][0]
                about, shared_ND = _result(done)
                start = running.pop(done)
                self._check(about)
                # A copy: what Ray hands out would keep its shared memory filled for as long as a row is remembered.
                yield list(range(start, start + len(shared_ND))), np.array(shared_ND)
                del shared_ND, done
        finally:
            for unfinished in running:
                ray.cancel(unfinished)

    def _check(self, about: About) -> None:
        if about.identity != self.identity:
            raise ConfigError(
                f"the worker on {about.host} computes by '{about.identity}', the one on {self.about.host} by "
                f"'{self.identity}': their embeddings differ in the last bits; use nodes of one kind, or one node"
            )


def loader_on_cluster(workers: int) -> LoadEncoder:
    """`load_encoder` for an `Embedder` whose work is done on the Ray cluster that this process is part of.

    Args:
        workers: tasks under way at a time.
    """
    return functools.partial(ClusterEncoder.start, workers=workers)


def _task(function: Callable[..., Any], device: str) -> Any:
    import ray

    gpus = 1 if device == "cuda" else 0
    return ray.remote(function).options(
        num_cpus=1, num_gpus=gpus, max_retries=TRIES, scheduling_strategy="SPREAD", retry_exceptions=False
    )


def _result(reference: Any) -> Any:
    """What a task gave; raises what it raised, as an error that says what to do."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, KpError):
            raise type(error.cause)(str(error.cause), place="worker") from None
        reason = next(iter(str(error.cause).strip().splitlines()), type(error.cause).__name__)[:200]
        raise ConfigError(f"a worker cannot embed ({reason}); is this version installed on every node?") from error
    except RayError as error:
        raise Unfinished(
            f"the Ray cluster lost a worker and could not make up for it ({type(error).__name__}); what was embedded "
            "is kept, run again; a smaller --batch-size or fewer --workers take less memory"
        ) from error


@functools.cache
def _loaded(given: tuple[str, str, Precision]) -> tuple[Encoder, About]:
    """The encoder of this worker process, loaded once."""
    model = load_encoder(*given)
    return model, About(model.identity, model.size, model.num_parameters, __version__, platform.node())


def _about(given: tuple[str, str, Precision]) -> About:
    return _loaded(given)[1]


def _embed(given: tuple[str, str, Precision], texts: list[str], batch_size: int) -> tuple[About, Array]:
    model, about = _loaded(given)
    vector_ND = np.empty((len(texts), model.size), dtype=np.float32)
    for rows, part_ND in model.batches(texts, batch_size):
        vector_ND[rows] = part_ND
    return about, vector_ND
