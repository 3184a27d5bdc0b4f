"""Every way to convolve against float64: values, gradients, and which way is taken where."""

import configparser
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jax import lax
from scipy import signal

from diffjax import processor
from diffjax.models.convolution import (
    choice,
    conv_general_dilated,
    forward_mode,
    winograd,
)
from diffjax.models.convolution.choice import OPERATIONS, PATHS, Measured, choose
from diffjax.models.convolution.window import Window
from diffjax.models.layers import Conv

ROOT = pathlib.Path(__file__).parent.parent.parent
SAME = Window((3, 3), (1, 1), ((1, 1), (1, 1)))
HALVING = Window((3, 3), (2, 2), ((0, 1), (0, 1)))
BOUND = 2e-5


def reference(x, w, dy, window):
    """The convolution and both gradients in float64: sums over the taps of the kernel."""
    x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
    padded = np.pad(x, ((0, 0), *window.pads, (0, 0)))
    y, dx, dw = np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(w.shape)
    for tap in np.ndindex(window.kernel):
        rows, columns = (
            slice(i, i + (n - 1) * s + 1, s)
            for i, n, s in zip(tap, dy.shape[1:3], window.strides, strict=True)
        )
        y += padded[:, rows, columns] @ w[tap]
        dx[:, rows, columns] += dy @ w[tap].T
        dw[tap] = np.tensordot(padded[:, rows, columns], dy, ((0, 1, 2), (0, 1, 2)))
    (top, _), (left, _) = window.pads
    return y, dx[:, top : top + x.shape[1], left : left + x.shape[2]], dw


def drawn(window, batch, size, inputs, outputs, seed=0):
    """Images, a kernel, and a gradient for what comes out, all normal."""
    sizes = (
        (n + sum(pads) - k) // s + 1
        for n, pads, k, s in zip(size, window.pads, window.kernel, window.strides, strict=True)
    )
    shapes = (batch, *size, inputs), (*window.kernel, inputs, outputs), (batch, *sizes, outputs)
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


def all_ways(window, size, names=PATHS):
    """The operations by each path that takes the window, as one program."""

    @jax.jit
    def compute(x, w, dy):
        return {
            name: (
                path.forward(x, w, window),
                path.input_gradient(dy, w, window, size),
                path.weight_gradient(x, dy, window),
            )
            for name in names
            if (path := PATHS[name]).takes(window)
        }

    return compute


def check_close(found, truth, product=0.0):
    """Within BOUND of the largest value, or of a sum's largest product: short sums may cancel."""
    assert found.shape == truth.shape
    assert found.dtype == np.float32
    error = np.abs(found - truth).max()
    assert error <= BOUND * max(np.abs(truth).max(), product)


def check_all_ways(window, batch, size, inputs, outputs):
    x, w, dy = arrays = drawn(window, batch, size, inputs, outputs)
    truth = reference(*arrays, window)
    ways = all_ways(window, size)(*arrays)
    assert {"direct", "im2col"} <= ways.keys()
    products = [np.abs(a).max() * np.abs(b).max() for a, b in ((x, w), (dy, w), (x, dy))]
    for found in ways.values():
        for operation in zip(found, truth, products, strict=True):
            check_close(*operation)
    return ways


def name_one(monkeypatch, name):
    """A table that names one path for everything."""
    rows = tuple(
        Measured(operation, kernel, stride, 1, 8, 8, 8, name, 2.0)
        for operation in OPERATIONS
        for kernel in (1, 3)
        for stride in (1, 2)
    )
    monkeypatch.setattr(choice, "table", lambda: rows)


def test_the_reference_is_scipys_correlation_and_its_adjoints():
    window = Window((3, 3), (2, 1), ((0, 1), (1, 1)))
    x, w, dy = drawn(window, 2, (7, 4), 3, 5)
    y, dx, dw = reference(x, w, dy, window)
    padded = np.pad(np.float64(x), ((0, 0), *window.pads, (0, 0)))
    for image, values in zip(padded, y, strict=True):
        for k in range(5):
            scipys = signal.correlate(image, np.float64(w[..., k]), "valid")[::2, :, 0]
            np.testing.assert_allclose(values[..., k], scipys, atol=1e-12)
    # The convolution is linear in each of its arguments.
    assert np.vdot(y, dy) == pytest.approx(np.vdot(dx, x), rel=1e-12)
    assert np.vdot(y, dy) == pytest.approx(np.vdot(dw, w), rel=1e-12)


SIZES = st.tuples(st.integers(1, 17), st.integers(1, 17))
CHANNELS = st.integers(1, 9) | st.sampled_from([64, 128, 256])
PADS = st.sampled_from([(1, 1), (0, 1), (0, 0)])
WINDOWS = st.builds(
    Window,
    st.sampled_from([(1, 1), (3, 3), (4, 5)]),
    st.sampled_from([(1, 1), (2, 2), (3, 3)]),
    st.tuples(PADS, PADS),
)


@settings(max_examples=6)
@given(batch=st.integers(1, 5), size=SIZES, inputs=CHANNELS, outputs=CHANNELS)
@example(batch=3, size=(17, 15), inputs=256, outputs=64)
@example(batch=1, size=(1, 2), inputs=1, outputs=1)
def test_all_ways_agree_where_images_keep_their_size(batch, size, inputs, outputs):
    ways = check_all_ways(SAME, batch, size, inputs, outputs)
    assert ways.keys() == PATHS.keys() - {"phases"}


@settings(max_examples=9)
@given(window=WINDOWS, batch=st.integers(1, 5), size=SIZES, inputs=CHANNELS, outputs=CHANNELS)
@example(window=HALVING, batch=2, size=(16, 9), inputs=128, outputs=128)
@example(
    window=Window((11, 11), (4, 4), ((2, 2), (2, 2))), batch=2, size=(31, 33), inputs=3, outputs=8
)
@example(window=Window((3, 1), (1, 2), ((1, 0), (0, 1))), batch=1, size=(4, 5), inputs=3, outputs=2)
def test_all_ways_agree_on_any_window(window, batch, size, inputs, outputs):
    sides = zip(size, window.pads, window.kernel, strict=True)
    assume(all(n + sum(pads) >= k for n, pads, k in sides))
    check_all_ways(window, batch, size, inputs, outputs)


@pytest.mark.parametrize("m", [2, 4])
def test_winograd_is_exact_whole_and_in_pieces(m, monkeypatch):
    """In float64, where rounding hides neither a wrong factor nor a wrong cut."""
    arrays = drawn(SAME, 5, (7, 10), 6, 3)
    truth = reference(*arrays, SAME)
    tiles = math.ceil(7 / m) * math.ceil(10 / m)
    two_images = 2 * tiles * (m + 2) ** 2 * 6 * 8  # bytes: a batch of 5 is cut into 2, 2 and 1
    products = []
    for limit in (winograd.TILE_BYTES, two_images, 1):
        monkeypatch.setattr(winograd, "TILE_BYTES", limit)
        compute = all_ways(SAME, (7, 10), [f"winograd{m}"])
        with jax.enable_x64(True):
            exact = [jnp.asarray(a, jnp.float64) for a in arrays]
            (found,) = compute(*exact).values()
            products.append(str(jax.make_jaxpr(compute)(*exact)).count("dot_general"))
        for a, b in zip(found, truth, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-13 * np.abs(b).max())
    assert products[0] < products[1] < products[2], "the batch was not cut"


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("m", [2, 4])
def test_winograd_is_exact_in_bands_of_rows(m, rows, monkeypatch):
    x, w, dy = arrays = drawn(SAME, 2, (13, 10), 6, 3)
    truth = reference(*arrays, SAME)
    row = math.ceil(10 / m) * (m + 2) ** 2 * (6 + 3) * 8  # bytes of a row of tiles
    monkeypatch.setattr(winograd, "WHOLE_BYTES", 0)
    monkeypatch.setattr(winograd, "BAND_BYTES", rows * row)
    path = PATHS[f"winograd{m}"]
    with jax.enable_x64(True):
        x, w, dy = (jnp.asarray(a, jnp.float64) for a in arrays)
        forward = jax.jit(lambda x, w: path.forward(x, w, SAME))
        found = forward(x, w), jax.jit(lambda: path.input_gradient(dy, w, SAME, (13, 10)))()
        bands = 2 * math.ceil(math.ceil(13 / m) / rows)
        assert f"length={bands}" in str(jax.make_jaxpr(forward)(x, w)), "not cut as was asked for"
    for a, b in zip(found, truth[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13 * np.abs(b).max())


def test_which_way_is_nearest_to_the_truth():
    """Two of Winograd's outputs a side err as the direct way does, four 3 to 10 times as much."""
    squares, worst = {}, {}
    ways = all_ways(SAME, (8, 8))
    for seed in range(4):
        arrays = drawn(SAME, 2, (8, 8), 128, 128, seed)
        truth = reference(*arrays, SAME)
        for name, found in ways(*arrays).items():
            for operation, a, b in zip(OPERATIONS, found, truth, strict=True):
                key, error = (operation, name), (a - b) / np.abs(b).max()
                squares.setdefault(key, []).append(np.mean(error**2))
                worst[key] = max(worst.get(key, 0), np.abs(error).max())
    for operation in OPERATIONS:
        errors = {name: np.mean(squares[operation, name]) ** 0.5 for name in ways(*arrays)}
        assert errors["winograd2"] == pytest.approx(errors["direct"], rel=0.5)
        assert errors["im2col"] <= 1.5 * errors["direct"]
        assert 3 < errors["winograd4"] / errors["direct"] < 10
        assert worst[operation, "direct"] < 2e-6
        assert worst[operation, "winograd2"] < 2e-6
        assert worst[operation, "winograd4"] < BOUND


def pads_of(padding, size, kernel, strides):
    """What SAME and VALID stand for: as many outputs as strides fit in, none beyond the image."""
    if padding == "VALID":
        return (0, 0), (0, 0)
    if padding != "SAME":
        return padding
    missing = [
        max(0, (math.ceil(n / s) - 1) * s + k - n)
        for n, k, s in zip(size, kernel, strides, strict=True)
    ]
    return tuple((n // 2, n - n // 2) for n in missing)


@pytest.mark.parametrize("name", PATHS)
def test_gradients_of_linens_conv(name, monkeypatch):
    name_one(monkeypatch, name)
    size = (9, 6)
    cases = []
    for kernel, strides, padding in (
        ((3, 3), (1, 1), "SAME"),
        ((3, 3), (2, 2), "SAME"),
        ((3, 3), (1, 1), "VALID"),
        ((3, 3), (2, 2), ((0, 1), (0, 1))),
        ((1, 1), (1, 1), "SAME"),
        ((1, 1), (2, 2), "VALID"),
    ):
        window = Window(kernel, strides, pads_of(padding, size, kernel, strides))
        layer = Conv(5, kernel, strides, padding, use_bias=False)
        cases.append((layer, window, drawn(window, 3, size, 4, 5)))

    @jax.jit
    def compute(arrays):
        found = []
        for (layer, _, _), (x, w, dy) in zip(cases, arrays, strict=True):

            def inner(x, w, layer=layer, dy=dy):
                y = layer.apply({"params": {"kernel": w}}, x)
                return jnp.vdot(y, dy), y

            gradients, y = jax.grad(inner, (0, 1), has_aux=True)(x, w)
            found.append((y, *gradients))
        return found

    found = compute([arrays for _, _, arrays in cases])
    for values, (_, window, arrays) in zip(found, cases, strict=True):
        for a, b in zip(values, reference(*arrays, window), strict=True):
            check_close(a, b)


@pytest.mark.parametrize("name", PATHS)
def test_vmap_scan_and_gradients_within(name, monkeypatch):
    name_one(monkeypatch, name)
    x, w, dy = drawn(SAME, 2, (5, 6), 4, 4)
    w /= 6  # layers of such a kernel keep the size of numbers
    several = np.stack([x, 2 * x[::-1]]), np.stack([w, w[::-1]]), np.stack([dy, dy[:, ::-1]])

    def conv(x, w):
        return conv_general_dilated(x, w, (1, 1), "SAME")

    def gradients(x, w, dy):
        return jax.vjp(conv, x, w)[1](dy)

    def deep(x, w, dy):
        return jnp.vdot(lax.scan(lambda x, _: (conv(x, w), None), x, length=3)[0], dy)

    def descent(x, w, dy):
        def step(w, _):
            return w - 0.01 * gradients(x, w, dy + conv(x, w))[1], None

        return lax.scan(step, w, length=3)[0]

    @jax.jit
    def compute(one, several):
        return (
            jax.vmap(gradients)(*several),
            jax.vmap(gradients, (0, None, None))(several[0], *one[1:]),
            jax.grad(deep, (0, 1))(*one),
            descent(*one),
        )

    each, images, through, descended = compute((x, w, dy), several)
    for i in range(2):
        for a, b in zip(each, reference(*(s[i] for s in several), SAME)[1:], strict=True):
            check_close(a[i], b)
        for a, b in zip(images, reference(several[0][i], w, dy, SAME)[1:], strict=True):
            check_close(a[i], b)

    layers = [x]
    for _ in range(3):
        layers.append(reference(layers[-1], w, dy, SAME)[0])
    gradient, total = dy, 0
    for inputs in layers[2::-1]:
        _, gradient, dw = reference(inputs, w, gradient, SAME)
        total += dw
    check_close(through[0], gradient)
    check_close(through[1], total)

    weights = np.float64(w)
    for _ in range(3):
        dy_now = dy + reference(x, weights, dy, SAME)[0]
        weights -= 0.01 * reference(x, weights, dy_now, SAME)[2]
    check_close(descended, weights)
    assert np.abs(descended - w).max() > 0.1


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_nothing_is_chosen_elsewhere_than_on_a_cpu(platform, monkeypatch):
    name_one(monkeypatch, "winograd4")
    x, w, _ = drawn(SAME, 2, (8, 8), 4, 4)

    def loss(x, w):
        return jnp.sum(conv_general_dilated(x, w, (1, 1), "SAME") ** 2)

    def descent(x, w):
        return lax.scan(lambda w, _: (w - jax.grad(loss, 1)(x, w), None), w, length=2)[0]

    for function, convolutions in ((loss, 1), (jax.grad(loss, (0, 1)), 3), (descent, 2)):
        lowered = jax.jit(function).trace(x, w).lower(lowering_platforms=(platform,)).as_text()
        own = "stablehlo.dot_general" not in lowered
        assert own == (platform != "cpu")
        assert lowered.count("stablehlo.convolution") == (convolutions if own else 0)


def test_no_images_are_convolved_to_none(monkeypatch):
    name_one(monkeypatch, "winograd4")
    x, w = jnp.zeros((0, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    y, pull = jax.vjp(lambda x, w: conv_general_dilated(x, w, (1, 1), "SAME"), x, w)
    dx, dw = pull(y)
    assert y.shape == (0, 8, 8, 4)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dw, np.zeros_like(w))


def test_the_nearest_measured_shape_decides(monkeypatch):
    rows = (
        Measured("forward", 3, 1, 4, 16, 64, 128, "im2col", 2.0),
        Measured("forward", 3, 1, 32, 16, 64, 128, "winograd2", 2.0),
        Measured("forward", 3, 1, 4, 16, 128, 64, "winograd4", 2.0),
        Measured("weight_gradient", 1, 1, 4, 16, 64, 128, "im2col", 2.0),
        Measured("input_gradient", 3, 2, 4, 16, 64, 128, "winograd2", 2.0),
        Measured("input_gradient", 3, 1, 4, 8, 64, 128, "im2col", 2.0),
        Measured("input_gradient", 3, 1, 4, 32, 64, 128, "winograd4", 2.0),
    )
    monkeypatch.setattr(choice, "table", lambda: rows)

    def path(operation, batch, height, width, inputs, outputs, window=SAME):
        x, w = (batch, height, width, inputs), (*window.kernel, inputs, outputs)
        return choose(operation, x, w, window)

    for row in rows[:3]:
        assert path("forward", row.batch, 16, 16, row.inputs, row.outputs) is PATHS[row.path]
    assert path("forward", 11, 16, 16, 64, 128) is PATHS["im2col"]  # 4 and 32 meet at 11.3
    assert path("forward", 12, 16, 16, 64, 128) is PATHS["winograd2"]
    assert path("forward", 4, 8, 32, 90, 91) is PATHS["im2col"]
    assert path("forward", 1, 1, 1, 91, 90) is PATHS["winograd4"]
    for height, width in ((8, 64), (64, 8)):  # as many pixels as 22.6 x 22.6
        assert path("input_gradient", 4, height, width, 64, 128) is PATHS["winograd4"]
    # What was measured says nothing of another operation, kernel or stride, or where it cannot go.
    for operation, window in (
        ("weight_gradient", SAME),
        ("forward", HALVING),
        ("forward", Window((1, 1), (1, 1), ((0, 0), (0, 0)))),
        ("forward", Window((3, 1), (1, 1), ((1, 1), (0, 0)))),
    ):
        assert path(operation, 4, 16, 16, 64, 128, window) is PATHS["direct"]
    # Directly, the gradients of strided windows are sums over zeros.
    assert path("input_gradient", 4, 16, 16, 64, 128, HALVING) is PATHS["phases"]
    assert path("weight_gradient", 4, 16, 16, 64, 128, HALVING) is PATHS["phases"]
    # A large image's patches, or all of its tiles at once, would take up gigabytes.
    assert path("forward", 4, 256, 256, 64, 64) is PATHS["im2col"]
    assert path("forward", 4, 256, 256, 64, 65) is PATHS["winograd4"]
    assert path("input_gradient", 4, 256, 256, 64, 65) is PATHS["winograd4"]
    assert path("weight_gradient", 4, 256, 256, 64, 65) is PATHS["direct"]
    valid = Window((3, 3), (1, 1), ((0, 0), (0, 0)))
    assert path("forward", 32, 16, 16, 64, 128, valid) is PATHS["im2col"]


ROWS = [["forward", 3, 1, 4, 16, 64, 128, "im2col", 2.0]]
WHOLE = {"columns": Measured._fields, "rows": ROWS}


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """Where this machine's own table would be."""
    path = tmp_path / "convolutions.json"
    monkeypatch.setattr(choice, "TUNED", path)
    choice.table.cache_clear()
    yield path
    choice.table.cache_clear()


def test_a_tuned_table_takes_the_place_of_the_shipped_one(tuned, capsys):
    shipped = choice.table()
    tuned.write_text(json.dumps(WHOLE))
    assert choice.table() == shipped, "read once a start"
    choice.table.cache_clear()
    assert choice.table() == (Measured(*ROWS[0]),)
    # Columns go by their names.
    turned = {"columns": Measured._fields[::-1], "rows": [row[::-1] for row in ROWS]}
    tuned.write_text(json.dumps(turned))
    choice.table.cache_clear()
    assert choice.table() == (Measured(*ROWS[0]),)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        json.dumps(WHOLE)[:-9],
        "\udcff\udcfe",
        "[]",
        "null",
        json.dumps({"rows": ROWS}),
        json.dumps({"columns": Measured._fields}),
        json.dumps({"columns": Measured._fields[:-1], "rows": [ROWS[0][:-1]]}),
        json.dumps({"columns": [*Measured._fields, "year"], "rows": [[*ROWS[0], 2030]]}),
        json.dumps({**WHOLE, "rows": [ROWS[0][:-1]]}),
        json.dumps(WHOLE).replace("im2col", "fourier"),
        json.dumps(WHOLE).replace("16", "0"),
        json.dumps(WHOLE).replace("16", '"16"'),
        json.dumps(WHOLE).replace("16", "null"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_and_left_aside(text, tuned, capsys):
    shipped = choice.table()
    assert capsys.readouterr().err == ""
    tuned.write_text(text, errors="surrogateescape")
    choice.table.cache_clear()
    for _ in range(2):
        assert choice.table() == shipped
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tuned) in line
    assert "measure a new one or delete it" in line
    assert choose("forward", (1, 8, 8, 4), (3, 3, 4, 4), SAME) in PATHS.values()


def test_a_folder_in_the_place_of_the_table_is_left_aside(tuned, capsys):
    tuned.mkdir()
    choice.table()
    assert str(tuned) in capsys.readouterr().err


def test_the_wheel_holds_the_shipped_tables():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    package = ".".join(choice.MEASURED.parent.relative_to(ROOT).parts)
    assert f"{choice.MEASURED.name}/*.json" in config["options.package_data"][package].split()


FOUND = ["amd_avx512", "arm_neon", "intel_avx2"]


@pytest.mark.parametrize(
    ("info", "kind", "table"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f", "amd_avx512", "amd_avx512"),
        ("vendor_id\t: GenuineIntel\nflags\t\t: avx avx2 avx512f", "intel_avx512", "amd_avx512"),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: avx avx2", "amd_avx2", "intel_avx2"),
        ("processor\t: 0\nFeatures\t: neon", "other_other", "amd_avx512"),
        (None, "other_other", "amd_avx512"),
    ],
)
def test_a_processor_takes_the_table_of_its_kind(info, kind, table, tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "INFO", tmp_path / "cpuinfo")
    if info is not None:
        processor.INFO.write_text(info)
    assert processor.processor() == kind
    assert processor.nearest(kind, FOUND, choice.DEFAULT) == table


def test_every_shipped_table_can_be_read():
    kinds = [path.stem for path in choice.MEASURED.iterdir()]
    assert choice.DEFAULT in kinds
    for kind in kinds:
        assert choice.shipped(kind).stem == kind
        assert len(choice._read(choice.shipped(kind))) > 100


def test_a_table_that_is_tried_is_asked_and_then_forgotten():
    rows = (Measured("forward", 3, 1, 2, 8, 4, 4, "im2col", 2.0),)
    with choice.tried(rows) as trial:
        assert choose("forward", (2, 8, 8, 4), (3, 3, 4, 4), SAME) is PATHS["im2col"]
        assert choose("forward", (2, 4, 16, 4), (3, 3, 4, 4), SAME) is PATHS["im2col"]
        assert choose("forward", (2, 8, 8, 4), (1, 3, 4, 4), SAME._replace(kernel=(1, 3)))
    assert list(trial.asked) == [rows[0]._replace(gain=1.0)]
    before = choose("forward", (2, 8, 8, 4), (3, 3, 4, 4), SAME)
    assert (
        before is PATHS[choice._name("forward", (2, 8, 8, 4), (3, 3, 4, 4), SAME, choice.table())]
    )


@pytest.mark.parametrize(
    "options",
    [{"kernel_dilation": 2}, {"input_dilation": (2, 1)}, {"feature_group_count": 2}],
)
def test_dilated_and_grouped_convolutions_are_xlas_own(options):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 4))
    own = nn.Conv(6, (3, 3), padding=1, **options)
    params = own.init(jax.random.key(1), x)
    ours = nn.Conv(6, (3, 3), padding=1, **options, conv_general_dilated=conv_general_dilated)
    np.testing.assert_array_equal(ours.apply(params, x), own.apply(params, x))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("window", [SAME, HALVING], ids=["same", "halving"])
def test_forward_derivatives(window, name, monkeypatch):
    """By jax.jvp, which the ways' own gradients shut out: of a product the two parts' sum."""
    if not PATHS[name].takes(window):
        pytest.skip(f"{name} does not take this window")
    monkeypatch.setattr("diffjax.models.convolution.choose", lambda *of: PATHS[name])
    x, w, dy = map(jnp.asarray, drawn(window, 2, (8, 8), 4, 6))
    dx, dw, _ = map(jnp.asarray, drawn(window, 2, (8, 8), 4, 6, seed=1))

    def conv(x, w):
        return conv_general_dilated(x, w, window.strides, window.pads)

    with forward_mode():
        y, change = jax.jit(lambda: jax.jvp(conv, (x, w), (dx, dw)))()
    wanted = reference(dx, w, dy, window)[0] + reference(x, dw, dy, window)[0]
    np.testing.assert_allclose(y, reference(x, w, dy, window)[0], atol=1e-4)
    np.testing.assert_allclose(change, wanted, atol=1e-4)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(conv, (x, w), (dx, dw))
