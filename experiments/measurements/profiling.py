"""Where the time of a compiled train step goes: what its instructions are, and how long each ran.

XLA names its instructions, the profiler records them under these names, and the compiled text tells
from which scope of the Python program each one comes and what it reads and writes. A fusion counts
as what it ends in.
"""

import math
import pathlib
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData

# They run others, which are recorded too.
CONTAINERS = ("call", "conditional", "while")
# A device's own record of what ran; its other lines are summaries of these.
DEVICE_LINES = ("XLA Ops", "Stream")
INSTRUCTION = re.compile(
    r"^\s*(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>.*?) (?P<opcode>[a-z][\w\-]*)"
    r"\((?P<operands>[^)]*)\)(?P<rest>.*)"
)
HEADER = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")

# A scope belongs to the first part whose pattern is found in it.
SCOPES = {
    "loss and noise": r"threefry|_normal|_uniform|_randint",
    "recomputation": r"rematted_computation",
    "input gradient": r"/input_gradient(/|$)",
    "weight gradient": r"/weight_gradient(/|$)",
    "convolution": r"/forward(/|$)",
    "normalisation": r"/(norm\d|group_norm|conv_norm_out|skip_norm)(/|$)",
    "convolution bias": r"/(skip_)?conv\w*(/|$)",
    "attention": r"/attentions_\d",
    "dense and time": r"/(time_emb|class_emb|time_proj|UNet\._embed)",
    "activation": r"/jit\((silu|relu|gelu|softplus)\)|/(tanh|erf|erfc|logistic)$",
    "resampling": r"/(up|down)samplers_\d|/resnet_(up|down)(/|$)",
    "sums and skips": r"jvp\([A-Z]\w*\)",  # what is left of the network
    "loss": r"jvp\(",
    "EMA": r"/ema(/|$)",
    "optimizer": r"^jit\(|^/",
}
MERGED = {"loss": "loss and noise"}
BETWEEN, REST = "between instructions", "everything else"


class Instruction(NamedTuple):
    """One of a compiled program."""

    opcode: str
    scope: str  # the op_name that JAX gave it: where in the Python program it comes from
    bytes: int  # of what it writes
    operands: tuple[str, ...]


class Span(NamedTuple):
    """An instruction that ran, from and to when in seconds; others may have run meanwhile.

    `returned`: when the call that began it was over. What is left until the end other threads do,
    or nobody: the end is told late where its thread goes straight on to what comes next.
    """

    name: str
    start: float
    returned: float
    end: float


class Part(NamedTuple):
    """A part of the train step, all figures a step."""

    part: str
    seconds: float
    flops: int
    bytes: int  # that its instructions read and write


def instructions(text: str) -> dict[str, Instruction]:
    """Those of a compiled program's text by their names.

    One without a scope has that of what it calls, else that of the first operand which has one.
    """
    found: dict[str, Instruction] = {}
    roots: dict[str, str] = {}
    computation = ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            computation = header["name"]
        if not (match := INSTRUCTION.match(line)):
            continue
        operands = tuple(re.findall(r"%([\w.\-]+)", match["operands"]))
        own = re.search(r'op_name="([^"]*)"', match["rest"])
        called = re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", match["rest"])
        scopes = [own[1] if own else "", roots.get(called[1], "") if called else ""]
        scopes += [found[name].scope for name in operands if name in found]
        scope = next(filter(None, scopes), "")
        found[match["name"]] = Instruction(match["opcode"], scope, size(match["shape"]), operands)
        if match["root"]:
            roots[computation] = scope
    return found


def size(shape: str) -> int:
    """Bytes of an array, or of a tuple's arrays, as XLA writes them: f32[2,3]{1,0}."""
    bits = 0
    for kind, width, axes in ARRAY.findall(shape):
        each = {"pred": 8, "token": 0}.get(kind, int(width or 0))
        bits += each * math.prod(int(n) for n in axes.split(",") if n)
    return bits // 8


def traffic(name: str, program: Mapping[str, Instruction]) -> int:
    """Bytes that an instruction reads and writes, each array counted whole and once."""
    own = program[name]
    return own.bytes + sum(program[read].bytes for read in set(own.operands) if read in program)


def traced(call: Callable[[], Any], count: int) -> list[Span]:
    """What ran on the device in `count` calls, one right after the other."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(count):
                last = call()
            jax.block_until_ready(last)
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        return list(spans(ProfileData.from_file(str(path))))


def spans(data: ProfileData) -> Iterator[Span]:
    """The instructions in a trace.

    A CPU's may be handed to other threads and end after the call that began them: an event "end:"
    tells when.
    """
    begun, ends = [], {}
    for event in _events(data):
        stats = dict(event.stats)
        if event.name.startswith("end: "):
            ends[stats.get("_c")] = event.start_ns
        elif "hlo_op" in stats:
            end = event.start_ns + event.duration_ns
            begun.append((stats["hlo_op"], event.start_ns, end, stats.get("_p")))
    for name, start, end, key in begun:
        yield Span(name, start / 1e9, end / 1e9, max(end, ends.get(key, end)) / 1e9)


def _events(data: ProfileData) -> Iterator[Any]:
    for plane in data.planes:
        lines = list(plane.lines)
        if plane.name.startswith("/device:"):
            kind = next((k for k in DEVICE_LINES if any(k in line.name for line in lines)), None)
            lines = [line for line in lines if kind is not None and kind in line.name]
        for line in lines:
            yield from line.events


def shares(ran: Iterable[Span], containers: Iterable[str] = ()) -> dict[str, float]:
    """Seconds of each instruction from the first start to the last end, which add up to all of it.

    A moment in which several run is shared out between them evenly, those of `containers` and those
    that have returned get one only where nothing else runs, and what nothing ran in is that of "".
    """
    contain = set(containers)
    edges = []
    for name, start, returned, end in ran:
        behind = name in contain
        edges += [(start, 0, name, behind), (returned, 1, name, behind)]
        edges += [(returned, 0, name, True), (end, 1, name, True)]
    running: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    seconds: dict[str, float] = defaultdict(float)
    last = min(edges)[0] if edges else 0.0
    for at, ends, name, behind in sorted(edges):
        now = running[0] or running[1] or {"": 1}
        for each, count in now.items():
            seconds[each] += (at - last) * count / sum(now.values())
        own = running[behind]
        own[name] += -1 if ends else 1
        if not own[name]:
            del own[name]
        last = at
    return dict(seconds)


def parts_of(
    program: Mapping[str, Instruction],
    ran: Sequence[Span],
    products: Iterable[tuple[str, int]],
    steps: int,
) -> list[Part]:
    """The parts of what ran in so many steps, longest first; together they take all of its time."""
    seconds: dict[str, float] = defaultdict(float)
    flops: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    containers = {name for name, own in program.items() if own.opcode in CONTAINERS}
    for name, spent in shares(ran, containers).items():
        seconds[part_of_instruction(name, program)] += spent / steps
    for name, count in Counter(span.name for span in ran).items():
        if name in program and name not in containers:
            moved[part_of_instruction(name, program)] += count * traffic(name, program)
    for scope, count in products:
        flops[part_of(scope)] += count
    names = sorted({*seconds, *flops}, key=lambda name: -seconds[name])
    return [Part(name, seconds[name], flops[name], moved[name] // steps) for name in names]


def part_of_instruction(name: str, program: Mapping[str, Instruction]) -> str:
    """By its scope; the time when nothing ran has no name."""
    if name not in program:
        return REST if name else BETWEEN
    return part_of(program[name].scope)


def part_of(scope: str) -> str:
    """The part of a scope, as JAX writes it into instructions and equations."""
    for name, pattern in SCOPES.items():
        if re.search(pattern, scope.partition(";")[0]):
            return MERGED.get(name, name)
    return REST
