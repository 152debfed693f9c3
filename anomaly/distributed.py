"""One fit in several processes that torchrun started. Where there is one process, nothing here does anything.

Every process draws the whole of each batch from the same generators, computes some of its rows, and gathers
the others: all then hold the values, and take the loss, that one process alone would have. What each one's
rows contribute to the gradients is summed, so all take the same step. The first process alone writes.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.overrides import TorchFunctionMode

from anomaly.errors import AnomalyError

PATIENCE = 1800.0
"""Seconds that the processes wait for one of them: as long as the first builds the memory bank."""

Item = TypeVar("Item")
Value = TypeVar("Value")

_rank, _size = 0, 1


class LostProcess(AnomalyError):
    """Another process of this fit was killed, hangs, or cannot be reached."""

    exit_code = 130


def rank() -> int:
    """The number of this process, from 0."""
    return _rank


def size() -> int:
    """The number of processes that work together at this moment."""
    return _size


@contextmanager
def joined() -> Iterator[bool]:
    """Take part in what torchrun started, if it did, while the block runs; whether this process is the first.

    An error that ends several processes is told by one: the others exit with its code and say nothing.
    torchrun sends SIGTERM to what is left when a process dies. It does not end this one, which comes to the
    same end by itself, and has to tell why.
    """
    global _rank, _size
    if not dist.is_available() or not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield True
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with _together():
        patience = timedelta(seconds=PATIENCE)
        shared, _rank, _size = next(rendezvous("env://", timeout=patience))
        # torchrun's store outlives a restart, and would send the new processes to the lost ones' addresses
        store = PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", shared)
        dist.init_process_group("gloo", store=store, rank=_rank, world_size=_size, timeout=patience)
    try:
        yield _rank == 0
    except (AnomalyError, KeyboardInterrupt) as error:
        if _told_before(store):
            sys.exit(getattr(error, "exit_code", 130))
        raise
    else:
        dist.destroy_process_group()
        signal.signal(signal.SIGTERM, before)
    finally:
        _rank, _size = 0, 1


def first_goes_on() -> None:
    """From here the first process works alone; the others have done their part, and exit."""
    global _size
    if _rank:
        sys.exit(0)
    _size = 1


def from_first(function: Callable[[], Value]) -> Value:
    """What `function` returns, or raises, in the first process, in all of them."""
    outcome = [_outcome(function) if _rank == 0 else None]
    if _size > 1:
        with _together():
            dist.broadcast_object_list(outcome, src=0)
    value: Value = _value(outcome[0])
    return value


def each(
    function: Callable[[Item], Value], items: Iterable[Item], step: Callable[[int], None] = lambda done: None
) -> list[Value]:
    """`function` of every item, in order, each process working on its share of them.

    All processes must bring the same items. An error in one of them is raised in all. `step` is told how
    many items are done.
    """
    results: list[Value] = []
    remaining = iter(items)
    while chunk := list(islice(remaining, _size)):
        outcomes = [_outcome(function, *chunk[_rank : _rank + 1]) if _rank < len(chunk) else None]
        if _size > 1:
            mine, outcomes = outcomes[0], [None] * _size
            with _together():
                dist.all_gather_object(outcomes, mine)
        results += [_value(outcome) for outcome in outcomes[: len(chunk)]]
        step(len(results))
    return results


def any_of(flag: bool) -> bool:
    """Whether `flag` is set in any process."""
    if _size == 1:
        return flag
    flags = torch.tensor([flag], dtype=torch.int32)
    with _together():
        dist.all_reduce(flags)
    return bool(flags)


def same(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the first."""
    if _size > 1:
        module.load_state_dict(from_first(module.state_dict))


def rows(function: Callable[..., Tensor], *batch: Tensor) -> Tensor:
    """`function(*batch)`, each process computing its share of the rows; all get the whole.

    Rows must not depend on each other, but for batch normalisation, which is taken over the whole batch.
    Trained parameters may be used in here only, so that `sum_gradients` makes their gradients whole.
    """
    if _size == 1:
        return function(*batch)
    with _WholeBatchNorm():
        part = function(*(values[_mine(len(values))] for values in batch))
    gathered: Tensor = _Gathered.apply(part, len(batch[0]))
    return gathered


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient, of the rows of this process, by the sum over all processes."""
    if _size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    vector = parameters_to_vector(gradients)
    vector_to_parameters(_all_reduced(vector), gradients)


def _mine(count: int) -> slice:
    """The rows of this process, of `count`; none in the last ones where there are few."""
    share = -(-count // _size)
    return slice(_rank * share, (_rank + 1) * share)


class _Gathered(torch.autograd.Function):
    """Rows of this process -> rows of all. The gradient goes back to the process that computed a row: each
    takes the whole loss, so what it knows of its own rows is complete."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, count: int) -> Tensor:
        ctx.mine = _mine(count)
        padded = part.new_zeros((-(-count // _size), *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(_size)]
        with _together():
            dist.all_gather(parts, padded)
        return torch.cat(parts)[:count]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.mine], None


class _Summed(torch.autograd.Function):
    """Sum over all processes, each of which uses it for its own rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _all_reduced(values.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _all_reduced(gradients[0].clone())


class _WholeBatchNorm(TorchFunctionMode):
    """Batch normalisation that trains on the statistics of all rows, of which this process has some."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_batch_norm if function is F.batch_norm else function)(*args, **(kwargs or {}))


def _batch_norm(
    values: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As F.batch_norm. Ioffe and Szegedy, Batch Normalization, ICML 2015, algorithm 1."""
    if not training:
        return F.batch_norm(values, running_mean, running_var, weight, bias, False, momentum, eps)
    axes, precise = [axis for axis in range(values.ndim) if axis != 1], values.float()

    def over_all(quantity: Tensor) -> Tensor:
        total: Tensor = _Summed.apply(quantity.sum(axes, keepdim=True, dtype=torch.float64))
        return total

    count = over_all(torch.ones_like(precise[:, :1]))
    mean = over_all(precise) / count
    variance = over_all((precise - mean.float()).square()) / count
    with torch.no_grad():
        for running, now in ((running_mean, mean), (running_var, variance * count / (count - 1))):
            if running is not None:
                running.lerp_(now.flatten().to(running.dtype), momentum)
    shape = mean.shape
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight.view(shape))
    shift = (0 if bias is None else bias.view(shape)) - mean * scale
    return (precise * scale.float() + shift.float()).to(values.dtype)


def _all_reduced(values: Tensor) -> Tensor:
    with _together():
        dist.all_reduce(values)
    return values


def _outcome(function: Callable[..., Value], *items: Any) -> tuple[Value | None, Exception | None]:
    """What `function` returned, or what it raised, as one process alone."""
    global _size
    before, _size = _size, 1
    try:
        return function(*items), None
    except Exception as error:
        return None, error
    finally:
        _size = before


def _value(outcome: Any) -> Any:
    value, error = outcome
    if error is not None:
        raise error
    return value


@contextmanager
def _together() -> Iterator[None]:
    """What the libraries say where a process is gone, as one sentence."""
    try:
        yield
    except RuntimeError as error:
        reason = re.split(r"\.\s|\n", re.sub(r"^\[[^]]*\]\s*", "", str(error)))[0][:200]
        raise LostProcess(
            f"another process of this fit was lost ({reason}); what was trained is kept up to the last "
            "checkpoint: start again with --resume, with any number of processes"
        ) from error


def _told_before(store: Any) -> bool:
    """Whether another process has told already why this fit ends."""
    try:
        return bool(store.add("told", 1) > 1)
    except RuntimeError:
        return False
