"""The weights in a TorchScript archive, such as OpenAI's CLIP. No code of the file is run.

An archive is a zip file: data.pkl describes the module tree in pickle's opcodes, data/N holds one
tensor's numbers. Here the opcodes build dictionaries and tuples alone. A class is a name, and calls
of the four functions that TorchScript writes are records. Other names and opcodes are refused.
"""

import contextlib
import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffjax.errors import UserError

MOST_OPCODES = 2**26  # bytes of data.pkl; of OpenAI's largest model it has 2**17
DEEPEST = 64  # modules within modules
DTYPES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": jnp.dtype("<f8"),
    "FloatStorage": jnp.dtype("<f4"),
    "HalfStorage": jnp.dtype("<f2"),
    "BFloat16Storage": jnp.dtype("bfloat16"),
}


class Name(NamedTuple):
    """A class or a function that the file names, and which is never looked up."""

    name: str


class Module(NamedTuple):
    """A module of the network: its parts by name."""

    parts: dict[str, Any]


class Tensor(NamedTuple):
    """Where a tensor's numbers are."""

    storage: str
    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path, unused: str) -> dict[str, np.ndarray]:
    """The tensors of an archive in float32, by name, without those whose names are `unused`.

    Raises UserError for a file that is not there, is damaged, is another kind of pickle, or holds
    other than floats.
    """
    with _refusing(path), zipfile.ZipFile(path) as archive:
        size = path.stat().st_size
        roots = [n for n in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", n)]
        if len(roots) != 1:
            raise ValueError("it is no TorchScript archive: it has no data.pkl")
        top = roots[0].removesuffix("data.pkl")
        module = Machine().run(_member(archive, roots[0], min(size, MOST_OPCODES)))
        if not isinstance(module, Module):
            raise ValueError(
                "it holds no TorchScript module but another pickle: save it as safetensors"
            )
        tensors = {}
        for name, tensor in _tensors(module):
            if not re.fullmatch(unused, name):
                content = _member(archive, f"{top}data/{tensor.key}", size)
                tensors[name] = _array(name, tensor, content)
        return tensors


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns what reading raises into one line. Of what type depends on where it is damaged."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path} is no TorchScript archive ({error}); other files of torch are Python pickles, "
            "which can run code: save the weights as safetensors"
        ) from error
    except UserError:
        raise
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read {path}: {why}") from error


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The bytes of a file in the archive, which torch does not compress: so it cannot grow."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
        raise ValueError(f"{name} is compressed or larger than {most:,} bytes")
    return archive.read(info)


def _tensors(module: Module, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > DEEPEST:
        raise ValueError(f"its modules are nested deeper than {DEEPEST}")
    for name, part in module.parts.items():
        if isinstance(part, Tensor):
            yield prefix + name, part
        elif isinstance(part, Module):
            yield from _tensors(part, f"{prefix}{name}.", depth + 1)


def _array(name: str, tensor: Tensor, content: bytes) -> np.ndarray:
    if tensor.storage not in DTYPES:
        raise ValueError(f"{name} is a {tensor.storage}, not one of {', '.join(DTYPES)}")
    flat = np.frombuffer(content, DTYPES[tensor.storage])
    shape, strides = tensor.shape, tensor.strides
    if len(shape) != len(strides) or min((tensor.offset, *shape, *strides)) < 0:
        raise ValueError(f"{name} has shape {shape} with strides {strides}")
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if 0 not in shape and (tensor.offset + last >= len(flat) or math.prod(shape) > len(flat)):
        raise ValueError(f"{name} asks for more than the {len(flat):,} numbers that it has")
    steps = tuple(step * flat.itemsize for step in strides)
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], shape, steps)
    return np.array(view, np.float32)


class Machine:
    """Pickle's stack, for the opcodes that TorchScript writes (Python's pickletools)."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """What the opcodes build. Raises ValueError for an opcode or a name that is not legal."""
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name]())
            elif opcode.name in LITERALS:
                self.stack.append(argument)
            elif opcode.name in ACTIONS:
                ACTIONS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise ValueError(f"its pickle has the opcode {opcode.name}, unlike TorchScript's")
        raise ValueError("its pickle does not end")

    def pop_to_mark(self) -> list[Any]:
        """What has been pushed since the last mark."""
        at = max(i for i, item in enumerate(self.stack) if item is MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def name(self, argument: str) -> None:
        """A class or function: "module name" in the opcode's argument."""
        name = argument.replace(" ", ".")
        if not LEGAL.fullmatch(name):
            raise ValueError(f"its pickle names {name}, which could run code: nothing was run")
        self.stack.append(Name(name))

    def make(self, _: None) -> None:
        """A module without parts yet."""
        arguments, cls = self.stack.pop(), self.stack.pop()
        if not _is_module(cls) or arguments != ():
            raise ValueError(f"its pickle makes a {cls}, which is no module")
        self.stack.append(Module({}))

    def build(self, _: None) -> None:
        """The parts of a module, from a dictionary."""
        parts, module = self.stack.pop(), self.stack[-1]
        if not isinstance(module, Module) or not isinstance(parts, dict):
            raise ValueError("its pickle gives parts to what is no module")
        module.parts.update(parts)

    def call(self, _: None) -> None:
        """A tensor from its storage, or something empty or a list, of which nothing is read."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or _is_module(function):
            raise ValueError(f"its pickle calls {function}, which is no function")
        if function.name != "torch._utils._rebuild_tensor_v2":
            self.stack.append(None)
            return
        (_, storage, key, *_), offset, shape, strides = arguments[:4]
        self.stack.append(Tensor(storage.name.removeprefix("torch."), key, offset, shape, strides))

    def tuple_of(self, count: int | None) -> None:
        if count is None:
            self.stack.append(tuple(self.pop_to_mark()))
            return
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def append_all(self, _: None) -> None:
        items = self.pop_to_mark()
        self.stack[-1].extend(items)

    def append(self, _: None) -> None:
        item = self.stack.pop()
        self.stack[-1].append(item)

    def set_all(self, _: None) -> None:
        items = self.pop_to_mark()
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def set_one(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][key] = value


def _is_module(value: object) -> bool:
    return isinstance(value, Name) and value.name.startswith("__torch__.")


MARK = object()
LEGAL = re.compile(
    r"__torch__\.[\w.]+|torch\.\w+Storage|torch\._utils\._rebuild_tensor_v2"
    r"|torch\.jit\._pickle\.build_\w+list|collections\.OrderedDict"
)
CONSTANTS: dict[str, Callable[[], Any]] = {
    "MARK": lambda: MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
ACTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "GLOBAL": Machine.name,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "NEWOBJ": Machine.make,
    "BUILD": Machine.build,
    "REDUCE": Machine.call,
    "BINPERSID": lambda machine, _: None,  # a storage's name stays the tuple that it is
    "TUPLE": lambda machine, _: machine.tuple_of(None),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": Machine.append,
    "APPENDS": Machine.append_all,
    "SETITEM": Machine.set_one,
    "SETITEMS": Machine.set_all,
}
