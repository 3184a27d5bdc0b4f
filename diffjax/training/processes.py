"""Several processes as one run, through JAX's own runtime."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator

import jax

from diffjax.errors import UserError

HEARTBEAT_S = 20  # a silent process is taken for dead after this, and the others end


@contextlib.contextmanager
def joined(
    distributed: bool,
    coordinator: str | None,
    count: int | None,
    index: int | None,
    said: Callable[[UserError], str] = str,
) -> Iterator[None]:
    """Joins the other processes, before anything is computed; where this one fails, all end.

    On TPU pods and under Slurm, Open MPI and Kubernetes JAX finds the others by itself; elsewhere
    coordinator (host:port of process 0), count and index say where they are. Raises UserError where
    they cannot be found. A UserError within the context is printed as `said` words it.
    """
    if not distributed:
        yield
        return
    try:
        jax.distributed.initialize(coordinator, count, index, heartbeat_timeout_seconds=HEARTBEAT_S)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot join the other processes ({_line(error)}): give each the same coordinator, "
            "host:port, and number of processes, and an index of its own",
            option="coordinator",
        ) from error
    try:
        yield
    except BaseException as error:
        # The runtime would wait for the others before it lets go of this one; they wait for it.
        _explain(error, said)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _explain(error: BaseException, said: Callable[[UserError], str]) -> None:
    if isinstance(error, UserError):
        print(f"error: {said(error)}", file=sys.stderr)
    elif isinstance(error, jax.errors.JaxRuntimeError):
        print(
            f"error: lost another process ({_line(error)}): start all of them again with the same "
            "command; they go on from the newest checkpoint",
            file=sys.stderr,
        )
    else:
        traceback.print_exception(error)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
