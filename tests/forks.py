"""Programs in children of one process that has imported their libraries already.

Importing JAX and what goes with it takes most of the time of a program that is refused. A child
runs the program as `python -m` would: with its own arguments, environment, folder and streams. The
tests of starting and stopping start Python itself.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pathlib
import pkgutil
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

ROOT = pathlib.Path(__file__).parent.parent
OWN = threading.local()
LIBRARIES = (
    "jax", "flax.linen", "optax", "orbax.checkpoint", "grain", "einops", "tensorboardX", "absl.app",
    "PIL.Image", "jaxtyping", "platformdirs", "tqdm", "scipy.stats", "scipy.ndimage",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "safetensors.numpy",
)  # fmt: skip


def run(
    asked: Sequence[str], cwd: pathlib.Path, environ: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """python with these arguments, from start to end: -m or -c, what that is, and its own.

    Raises TimeoutExpired where it takes longer.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = (pathlib.Path(folder, name) for name in ("out", "err"))
        told = {
            "asked": list(asked), "cwd": str(cwd), "environ": dict(environ),
            "out": str(out), "err": str(err),
        }  # fmt: skip
        server = _server()
        print(json.dumps(told), file=server.stdin, flush=True)
        if not select.select([server.stdout], [], [], timeout)[0]:
            end(server)
            del OWN.server
            raise subprocess.TimeoutExpired(asked, timeout)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(
            asked, code, *(path.read_text(errors="replace") for path in (out, err))
        )


def _server() -> Any:
    """The process whose children run programs; one per thread of tests."""
    if hasattr(OWN, "server"):
        return OWN.server
    OWN.server = server = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # with its children, so that both end together
    )
    atexit.register(end, server)
    return server


def end(server: Any) -> None:
    """Ends the process and the program that it runs, and closes the streams to it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.communicate()


def serve() -> None:
    """Runs what stdin asks for, one after the other, and prints each exit status."""
    for name in (*LIBRARIES, *own_modules()):
        importlib.import_module(name)
    gc.freeze()  # or each child's first collection copies the memory of all that is imported
    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def own_modules() -> list[str]:
    """Those of diffjax, which define no flags."""
    import diffjax

    return [found.name for found in pkgutil.walk_packages(diffjax.__path__, "diffjax.")]


def become(told: dict[str, Any]) -> None:
    """Runs the program in this process, which ends with it."""
    for descriptor, path in ((0, os.devnull), (1, told["out"]), (2, told["err"])):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(path, flags), descriptor)
    os.chdir(told["cwd"])
    configure(told["environ"])
    sys.path[0] = told["cwd"]
    kind, what, *arguments = told["asked"]
    sys.argv = [what if kind == "-m" else kind, *arguments]
    code: Any = None
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    leave(code)


def leave(code: Any) -> NoReturn:
    """Ends the process as sys.exit(code) does, without freeing its memory, which takes 1 s."""
    threading._shutdown()
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def configure(environ: Mapping[str, str]) -> None:
    """Sets the environment, and JAX's options of it, which JAX reads when it is imported."""
    import jax

    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    for name, text in environ.items():
        if name.startswith("JAX_") and before.get(name) != text:
            try:
                value = json.loads(text.lower())
            except ValueError:
                value = text
            jax.config.update(name.lower(), value)


if __name__ == "__main__":
    serve()
