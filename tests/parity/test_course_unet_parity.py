"""The course's network against the same blocks built of torch's layers, weights carried over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.models.course_unet import CourseUNet
from diffjax.models.stateful import STATISTICS, collect

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
functional = torch.nn.functional
FIRST = {
    "form": "first", "channels": (16, 32, 64), "norm": "batch", "activation": "relu",
    "pooling": "max",
}  # fmt: skip
RGB = {"in_channels": 3, "out_channels": 3, "channels": (32, 32, 64), "time_scale": 400}
NOTEBOOKS = {
    "01": CourseUNet(**FIRST, time_embedding="none"),
    "02": CourseUNet(**FIRST, time_embedding="raw", time_scale=150),
    "03": CourseUNet(time_scale=150),
    "04a": CourseUNet(time_scale=150, num_class_embeds=10),
    "04b": CourseUNet(**RGB, num_class_embeds=3),
    "05": CourseUNet(**RGB, cond_dim=12),
}
# What the ablation varies, each value once, on a small network.
SMALL = CourseUNet(form="first", channels=(4, 4, 8), groups=(2, 4), time_embedding="none")
OTHERS = [
    {"norm": "layer", "pooling": "strided", "upsample": "pixel_shuffle", "activation": "silu"},
    {"norm": "instance", "pooling": "average", "upsample": "nearest"},
    {"norm": "none", "upsample": "bilinear"},
    {"groups_are": "size", "upsample": "resize_conv"},
]
ATOL = 1e-5


class Peer:
    """Torch's layers by our names of them, and the way through them."""

    def __init__(self, net):
        self.net, self.layers = net, {}

    def module(self, name, make):
        if name not in self.layers:
            self.layers[name] = make()
        return self.layers[name]

    def act(self, x, name=None):
        return getattr(functional, name or self.net.activation)(x)

    def conv(self, name, x, out, kernel=3, **options):
        make = lambda: torch.nn.Conv2d(x.shape[1], out, kernel, padding=kernel // 2, **options)  # noqa: E731
        return self.module(name, make)(x)

    def dense(self, name, x, out):
        return self.module(name, lambda: torch.nn.Linear(x.shape[1], out))(x)

    def finish(self, name, x, groups, act=None):
        channels = x.shape[1]
        number = groups if self.net.groups_are == "number" else channels // groups
        make = {
            "group": lambda: torch.nn.GroupNorm(number, channels),
            "layer": lambda: torch.nn.GroupNorm(1, channels),
            "instance": lambda: torch.nn.InstanceNorm2d(channels, affine=True),
            "batch": lambda: torch.nn.BatchNorm2d(channels),
            "none": torch.nn.Identity,
        }[self.net.norm]
        return self.act(self.module(f"{name}/norm", make)(x), act)

    def block(self, name, x, out, groups, act=None):
        return self.finish(name, self.conv(f"{name}/conv", x, out), groups, act)

    def down(self, name, x, out, groups):
        for i in range(2):
            x = self.block(f"{name}/conv_{i}", x, out, groups)
        match self.net.pooling:
            case "max":
                return functional.max_pool2d(x, 2)
            case "average":
                return functional.avg_pool2d(x, 2)
            case "strided":
                return self.conv(f"{name}/pool/conv", x, out, stride=2)
        # b c (h p1) (w p2) -> b (c p1 p2) h w is what torch calls this.
        return self.block(f"{name}/pool", functional.pixel_unshuffle(x, 2), out, groups)

    def up(self, name, x, skip, out, groups):
        x = torch.cat([x, skip], 1)
        first = self.net.form == "first"
        name_up = f"{name}/up/conv"
        match self.net.upsample:
            case "transposed":
                options = (3, 2, 1, 1) if first else (2, 2)
                make = lambda: torch.nn.ConvTranspose2d(x.shape[1], out, *options)  # noqa: E731
                x = self.module(name_up, make)(x)
            case "resize_conv":
                x = self.conv(name_up, functional.interpolate(x, scale_factor=2), out)
            case "pixel_shuffle":
                x = functional.pixel_shuffle(self.conv(name_up, x, 4 * out), 2)
            case mode:
                x = functional.interpolate(x, scale_factor=2, mode=mode)
                x = self.conv(name_up, x, out, kernel=1)
        x = self.finish(name, x, groups) if first else x
        for i in range(1 if first else 4):
            x = self.block(f"{name}/conv_{i}", x, out, groups)
        return x

    def embed(self, name, x, out):
        x = self.act(self.dense(f"{name}/linear_1", x, out), "gelu")
        return self.dense(f"{name}/linear_2", x, out)[:, :, None, None]

    def time(self, t):
        scaled = t[:, None] / self.net.time_scale
        if self.net.time_embedding == "sinusoidal":
            angles = scaled * torch.tensor([10000 ** (-k / 3) for k in range(4)])
            return torch.cat([angles.sin(), angles.cos()], 1)
        return None if self.net.time_embedding == "none" else scaled

    def __call__(self, x, t, numbers):
        net, (wide, mid, deep), (outer, inner) = self.net, self.net.channels, self.net.groups
        refined = net.form == "refined"
        stem = self.block("stem_0", x, wide, outer)
        stem = stem + self.block("stem_1", stem, wide, outer) if refined else stem
        down1 = self.down("down1", stem, mid, inner)
        down2 = self.down("down2", down1, deep, inner)
        h = self.act(down2.flatten(1))
        for i, width in enumerate((mid, mid, h.shape[1])):
            h = self.act(self.dense(f"dense_{i}", h, width), "relu")
        h = self.block("up0", h.reshape(down2.shape), deep, inner)
        features = self.time(t)
        for i, (out, skip) in enumerate([(mid, down2), (wide, down1)], 1):
            h = h if numbers is None else self.embed(f"cond{i}", numbers, h.shape[1]) * h
            h = h if features is None else h + self.embed(f"time{i}", features, h.shape[1])
            h = self.up(f"up{i}", h, skip, out, inner)
        h = torch.cat([h, stem], 1) if refined else h
        return self.conv("out", self.block("head", h, wide, outer, "relu"), net.out_channels)

    def load(self, params, pixels):
        """Our weights in torch's layout; each layer must be there, and none be left over."""
        flat = flatten({k: v for k, v in params.items() if k != STATISTICS})
        running = flatten(params.get(STATISTICS, {}))
        for name, layer in self.layers.items():
            for ours, theirs in layer.named_parameters():
                key = f"{name}/" + {"bias": "bias", "weight": "kernel"}[ours]
                key = key if key in flat else f"{name}/scale"
                value = in_torch_s_order(name, layer, flat.pop(key), pixels)
                assert theirs.shape == value.shape, name
                theirs.data = torch.from_numpy(np.array(value, order="C"))
            for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
                if getattr(layer, theirs, None) is not None:
                    value = np.array(running.pop(f"{name}/{ours}"))
                    getattr(layer, theirs).copy_(torch.from_numpy(value))
        assert not flat, flat.keys()
        assert not running, running.keys()

    def train(self, mode):
        for layer in self.layers.values():
            layer.train(mode)


def flatten(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(v) for p, v in leaves}


def in_torch_s_order(name, layer, value, pixels):
    kind = type(layer).__name__
    if kind == "Linear":
        # Where the image is a vector: ours runs through the channels first, torch's last.
        flat = np.arange(pixels[0] * pixels[1] * pixels[2]).reshape(pixels)
        order = flat.transpose(2, 0, 1).ravel()
        value = value[order] if name == "dense_0" and value.ndim == 2 else value
        value = value[..., order] if name == "dense_2" else value
        return value.T
    if value.ndim == 1:
        return value
    if kind == "ConvTranspose2d":
        return value[::-1, ::-1].transpose(2, 3, 0, 1)
    return value.transpose(3, 2, 0, 1)


def given(net, shape):
    """Images, times, a condition as ours and as torch's, and weights with no bias 0 or scale 1."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    t = np.asarray([0, 3, 149], np.float32)
    if net.cond_dim is not None:
        cond = numbers = rng.normal(size=(3, net.cond_dim)).astype(np.float32)
    elif net.num_class_embeds is not None:
        cond = np.asarray([0, 2, net.num_class_embeds])
        numbers = np.eye(net.num_class_embeds + 1, dtype=np.float32)[cond, :-1]
    else:
        cond = numbers = None
    like = jax.eval_shape(net.init, jax.random.key(0), x, t, cond)["params"]

    def drawn(leaf):
        fan_in = np.prod(leaf.shape[:-1])
        noise = rng.normal(0, fan_in**-0.5 if leaf.ndim > 1 else 0.1, leaf.shape)
        return jnp.asarray(noise if leaf.ndim > 1 else 1 + noise, jnp.float32)

    params = jax.tree.map(drawn, like)
    return [None if a is None else jnp.asarray(a) for a in (x, t, cond, numbers)] + [params]


@functools.partial(jax.jit, static_argnums=0)
def ours(net, params, *inputs):
    """The output in training, the parameters after it, and the output then."""
    with collect() as moved:
        trained = net.apply({"params": params}, *inputs, train=True)
    params = {**params, **(moved[0].collections if moved else {})}
    return trained, params, net.apply({"params": params}, *inputs)


def as_torch(x, t, numbers):
    arrays = x.transpose(0, 3, 1, 2), t, numbers
    return [None if a is None else torch.from_numpy(np.array(a)) for a in arrays]


@pytest.mark.parametrize(
    "net",
    [*NOTEBOOKS.values(), *(SMALL.clone(**options) for options in OTHERS)],
    ids=[*NOTEBOOKS, *map(str, OTHERS)],
)
def test_agrees_with_torch(net):
    """In training, in what that leaves of the batches' statistics, and after it."""
    size = 16 if net in NOTEBOOKS.values() else 8
    x, t, cond, numbers, params = given(net, (3, size, size, net.in_channels))
    peer, inputs = Peer(net), as_torch(x, t, numbers)
    trained, params_after, evaluated = ours(net, params, x, t, cond)
    with torch.no_grad():
        peer(*inputs)  # which makes the layers
        peer.load(params, (size // 4, size // 4, net.channels[2]))
        for train, own in ((True, trained), (False, evaluated)):
            peer.train(train)
            theirs = peer(*inputs).numpy().transpose(0, 2, 3, 1)
            np.testing.assert_allclose(own, theirs, atol=ATOL)
    running = flatten(params_after.get(STATISTICS, {}))
    assert bool(running) == (net.norm == "batch")
    for name, value in running.items():
        layer, which = name.rsplit("/", 1)
        theirs = getattr(peer.layers[layer], f"running_{which}")
        np.testing.assert_allclose(value, theirs, rtol=1e-5, atol=1e-6)
