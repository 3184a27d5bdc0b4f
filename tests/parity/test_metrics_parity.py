"""torch-fidelity's figures on the same features, and torch's networks with the same weights."""

import sys
from functools import partial
from unittest import mock

import jax
import numpy as np
import pytest
from flax import traverse_util

from diffjax.metrics.extractors import inception_v3, make_features, mobilenet_v2
from diffjax.metrics.frechet import frechet_distance
from diffjax.metrics.kernel import kernel_distance
from diffjax.metrics.precision_recall import precision_recall
from diffjax.models.inception import InceptionV3
from diffjax.models.mobilenet import MobileNetV2

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
nn, F = torch.nn, torch.nn.functional

TOLERANCE = 1e-4  # of a layer's largest value


@pytest.fixture(scope="module")
def fidelity():
    """torch-fidelity; it imports torchvision, which none of what is called here uses."""
    parts = ("", ".datasets", ".transforms", ".transforms.functional")
    with mock.patch.dict(sys.modules, {f"torchvision{part}": mock.MagicMock() for part in parts}):
        pytest.importorskip("torch_fidelity", reason="pip install --no-deps torch-fidelity==0.4.0")
        from torch_fidelity import (
            FeatureExtractorInceptionV3,
            metric_fid,
            metric_kid,
            metric_prc,
        )
    return mock.Mock(
        fid=metric_fid, kid=metric_kid, prc=metric_prc, inception=FeatureExtractorInceptionV3
    )


def sets(counts, dims):
    """Correlated features off the origin, of two distributions."""
    rng = np.random.default_rng(dims)
    mix = rng.normal(size=(dims, dims)) / np.sqrt(dims)
    return [
        np.maximum(rng.normal(shift, 1, (count, dims)) @ mix + 0.4, 0)
        for count, shift in zip(counts, (0, 0.1), strict=True)
    ]


@pytest.mark.parametrize(("counts", "dims"), [((700, 600), 64), ((500, 450), 200)])
def test_figures(fidelity, counts, dims):
    a, b = sets(counts, dims)
    of_a, of_b = torch.tensor(a), torch.tensor(b)
    moments = [fidelity.fid.fid_features_to_statistics(x) for x in (of_a, of_b)]
    expected = fidelity.fid.fid_statistics_to_metric(*moments, verbose=False)
    assert frechet_distance(a, b) == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)
    size = {"kid_subsets": 5, "kid_subset_size": 300}
    expected = fidelity.kid.kid_features_to_metric(of_a, of_b, verbose=False, **size)
    found = kernel_distance(a, b, subsets=5, subset_size=300)
    assert found.mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-6)
    assert found.deviation == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-6)
    expected = fidelity.prc.prc_features_to_metric(of_a, of_b, verbose=False)
    found = precision_recall(b, a)
    assert found.precision == pytest.approx(expected["precision"], abs=1e-6)
    assert found.recall == pytest.approx(expected["recall"], abs=1e-6)
    assert 0 < found.recall < 1


def with_random_weights(network):
    """Weights that keep activations near 1, and statistics off 0 and 1, where mistakes hide."""
    rng = np.random.default_rng(0)
    for name, value in network.state_dict().items():
        shape = tuple(value.shape)
        if len(shape) > 1:
            drawn = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("running_var", "weight")):
            drawn = rng.uniform(0.7, 1.4, shape)
        else:
            drawn = rng.normal(0, 0.2, shape)
        value.copy_(torch.tensor(drawn))
    return network.eval()


def images(size, channels=3):
    return np.random.default_rng(1).uniform(-1, 1, (2, *size, channels)).astype(np.float32)


def torch_layers(network, x):
    """What every part of the network gives in float64, by its name."""
    found = {}

    def keep(name, module, given, output):
        found[name] = output.detach().numpy()

    hooks = [m.register_forward_hook(partial(keep, n)) for n, m in network.named_modules()]
    with torch.no_grad():
        network.double()(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64))
    network.float()
    for hook in hooks:
        hook.remove()
    return found


def our_layers(extractor, network, x):
    """The same of our network, in float64 too: in float32 deep layers differ by their rounding."""
    call = partial(network.apply, capture_intermediates=True, mutable="intermediates")
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, (extractor.variables, x))
        _, kept = jax.jit(call)(*wide)
    flat = traverse_util.flatten_dict(kept["intermediates"])
    return {".".join(path[:-1]): np.asarray(value[0]) for path, value in flat.items()}


def assert_same(ours, theirs, tolerance=TOLERANCE):
    ours = ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours
    theirs = theirs.reshape(ours.shape)
    assert np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max()


def save(network, path):
    np.savez(path, **{k: v.numpy() for k, v in network.state_dict().items()})
    return path


class InvertedResidual(nn.Module):
    """Sandler et al. 2018, figure 4d, with the names that torchvision gives its parts."""

    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        inner = inputs * expansion
        wide = [conv_bn_relu6(inputs, inner, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *wide,
            conv_bn_relu6(inner, inner, 3, stride, inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


def conv_bn_relu6(inputs, outputs, kernel, stride=1, groups=1):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class TorchMobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        # Outputs and strides block by block, as the paper's table 2 unrolls.
        outputs = [16] + [24] * 2 + [32] * 3 + [64] * 4 + [96] * 3 + [160] * 3 + [320]
        strides = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
        inputs = [32, *outputs[:-1]]
        blocks = [
            InvertedResidual(*shape, 1 if i == 0 else 6)
            for i, shape in enumerate(zip(inputs, outputs, strides, strict=True))
        ]
        self.features = nn.Sequential(
            conv_bn_relu6(3, 32, 3, 2), *blocks, conv_bn_relu6(320, 1280, 1)
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(1280, 10))

    def forward(self, x):
        return self.features(x).mean((2, 3))


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """torch's network and ours, of the same random weights."""
    network = with_random_weights(TorchMobileNet())
    path = tmp_path_factory.mktemp("weights") / "mobilenet.npz"
    return network, mobilenet_v2(save(network, path))


def test_mobilenet_layer_by_layer(mobilenet):
    network, extractor = mobilenet
    x = images((64, 96))
    ours, theirs = our_layers(extractor, MobileNetV2(), x), torch_layers(network, x)
    assert len(ours) == 1 + 2 * 52 + 35 + 17, "the whole, convolutions with norms, pairs, blocks"
    for name, value in ours.items():
        assert_same(value, theirs[name], 1e-11)


def test_mobilenet_of_images(mobilenet):
    """Resized and scaled as ImageNet's pictures are, a grey image three times over."""
    network, extractor = mobilenet
    x = images((300, 140), 1)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    given = torch.tensor(x.transpose(0, 3, 1, 2)).expand(-1, 3, -1, -1)
    given = F.interpolate((given + 1) / 2, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        theirs = network((given - mean[:, None, None]) / deviation[:, None, None]).numpy()
    assert_same(make_features(extractor, 2)(x).rows, theirs)


class Unit(nn.Module):
    """Convolution, batch norm of TensorFlow's epsilon, ReLU."""

    def __init__(self, inputs, outputs, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def average(x):
    """Over the pixels that are there."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class Parts(nn.Module):
    """Units by name, and how each branch goes through them: `>` follows, `|` lies side by side."""

    def __init__(self, branches, pool, **units):
        super().__init__()
        self.branches, self.pool = branches, pool
        for name, unit in units.items():
            self.add_module(name, unit)

    def forward(self, x):
        return torch.cat([self.follow(branch.split(">"), x) for branch in self.branches], 1)

    def follow(self, steps, x):
        for step in steps:
            names = step.split("|")
            ways = [self.pool(x) if n == "pool" else getattr(self, n)(x) for n in names]
            x = torch.cat(ways, 1)
        return x


def block_a(inputs, pooled):
    return Parts(
        (
            "branch1x1",
            "branch5x5_1>branch5x5_2",
            "branch3x3dbl_1>branch3x3dbl_2>branch3x3dbl_3",
            "pool>branch_pool",
        ),
        average,
        branch1x1=Unit(inputs, 64, 1),
        branch5x5_1=Unit(inputs, 48, 1),
        branch5x5_2=Unit(48, 64, 5, padding=2),
        branch3x3dbl_1=Unit(inputs, 64, 1),
        branch3x3dbl_2=Unit(64, 96, 3, padding=1),
        branch3x3dbl_3=Unit(96, 96, 3, padding=1),
        branch_pool=Unit(inputs, pooled, 1),
    )


def block_b(inputs):
    return Parts(
        ("branch3x3", "branch3x3dbl_1>branch3x3dbl_2>branch3x3dbl_3", "pool"),
        nn.MaxPool2d(3, 2),
        branch3x3=Unit(inputs, 384, 3, 2),
        branch3x3dbl_1=Unit(inputs, 64, 1),
        branch3x3dbl_2=Unit(64, 96, 3, padding=1),
        branch3x3dbl_3=Unit(96, 96, 3, 2),
    )


def block_c(inputs, inner):
    flat, tall = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
    double = ">".join(f"branch7x7dbl_{i}" for i in range(1, 6))
    return Parts(
        ("branch1x1", "branch7x7_1>branch7x7_2>branch7x7_3", double, "pool>branch_pool"),
        average,
        branch1x1=Unit(inputs, 192, 1),
        branch7x7_1=Unit(inputs, inner, 1),
        branch7x7_2=Unit(inner, inner, **flat),
        branch7x7_3=Unit(inner, 192, **tall),
        branch7x7dbl_1=Unit(inputs, inner, 1),
        branch7x7dbl_2=Unit(inner, inner, **tall),
        branch7x7dbl_3=Unit(inner, inner, **flat),
        branch7x7dbl_4=Unit(inner, inner, **tall),
        branch7x7dbl_5=Unit(inner, 192, **flat),
        branch_pool=Unit(inputs, 192, 1),
    )


def block_d(inputs):
    return Parts(
        (
            "branch3x3_1>branch3x3_2",
            "branch7x7x3_1>branch7x7x3_2>branch7x7x3_3>branch7x7x3_4",
            "pool",
        ),
        nn.MaxPool2d(3, 2),
        branch3x3_1=Unit(inputs, 192, 1),
        branch3x3_2=Unit(192, 320, 3, 2),
        branch7x7x3_1=Unit(inputs, 192, 1),
        branch7x7x3_2=Unit(192, 192, (1, 7), padding=(0, 3)),
        branch7x7x3_3=Unit(192, 192, (7, 1), padding=(3, 0)),
        branch7x7x3_4=Unit(192, 192, 3, 2),
    )


def block_e(inputs, pool):
    flat, tall = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
    return Parts(
        (
            "branch1x1",
            "branch3x3_1>branch3x3_2a|branch3x3_2b",
            "branch3x3dbl_1>branch3x3dbl_2>branch3x3dbl_3a|branch3x3dbl_3b",
            "pool>branch_pool",
        ),
        pool,
        branch1x1=Unit(inputs, 320, 1),
        branch3x3_1=Unit(inputs, 384, 1),
        branch3x3_2a=Unit(384, 384, **flat),
        branch3x3_2b=Unit(384, 384, **tall),
        branch3x3dbl_1=Unit(inputs, 448, 1),
        branch3x3dbl_2=Unit(448, 384, 3, padding=1),
        branch3x3dbl_3a=Unit(384, 384, **flat),
        branch3x3dbl_3b=Unit(384, 384, **tall),
        branch_pool=Unit(inputs, 192, 1),
    )


def torch_inception():
    """The graph that the Fréchet Inception distance is defined by, written once more."""
    layers = {
        "Conv2d_1a_3x3": Unit(3, 32, 3, 2),
        "Conv2d_2a_3x3": Unit(32, 32, 3),
        "Conv2d_2b_3x3": Unit(32, 64, 3, padding=1),
        "pool_1": nn.MaxPool2d(3, 2),
        "Conv2d_3b_1x1": Unit(64, 80, 1),
        "Conv2d_4a_3x3": Unit(80, 192, 3),
        "pool_2": nn.MaxPool2d(3, 2),
        "Mixed_5b": block_a(192, 32),
        "Mixed_5c": block_a(256, 64),
        "Mixed_5d": block_a(288, 64),
        "Mixed_6a": block_b(288),
        "Mixed_6b": block_c(768, 128),
        "Mixed_6c": block_c(768, 160),
        "Mixed_6d": block_c(768, 160),
        "Mixed_6e": block_c(768, 192),
        "Mixed_7a": block_d(768),
        "Mixed_7b": block_e(1280, average),
        "Mixed_7c": block_e(2048, nn.MaxPool2d(3, 1, 1)),
        "pool_3": nn.AdaptiveAvgPool2d(1),
    }
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """torch's network and ours, of the same random weights."""
    network = with_random_weights(torch_inception())
    path = tmp_path_factory.mktemp("weights") / "inception.npz"
    return network, inception_v3(save(network, path))


@pytest.fixture(scope="module")
def inception_layers(inception):
    """An image of 8 bits, and what every layer makes of it."""
    network, extractor = inception
    pixels = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3), np.uint8)
    x = (pixels.astype(np.float32) - 128) / 128
    return pixels, our_layers(extractor, InceptionV3(), x), torch_layers(network, x)


def test_inception_layer_by_layer(inception_layers):
    _, ours, theirs = inception_layers
    assert len(ours) == 1 + 3 * 94 + 11, "the whole, layers of two parts, blocks"
    for name, value in ours.items():
        assert_same(value, theirs[name], 1e-11)


def test_inception_is_torch_fidelitys(fidelity, inception, inception_layers, tmp_path):
    """Which resizes in another way, but not an image of 299 pixels."""
    pixels, ours, _ = inception_layers
    weights = {**inception[0].state_dict(), "fc.weight": torch.zeros(1008, 2048)}
    torch.save({**weights, "fc.bias": torch.zeros(1008)}, tmp_path / "weights.pth")
    given = {"feature_extractor_weights_path": tmp_path / "weights.pth"}
    theirs = fidelity.inception("inception", ["2048"], **given)
    (features,) = theirs(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    assert_same(ours[""], features.numpy())


def test_inception_of_images(inception):
    """Resized as pytorch-fid does, a grey image three times over."""
    network, extractor = inception
    x = images((400, 28), 1)[:1]
    given = torch.tensor(x.transpose(0, 3, 1, 2)).expand(-1, 3, -1, -1)
    given = F.interpolate(given, (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        theirs = network(given).numpy()
    assert_same(make_features(extractor, 1)(x).rows, theirs)
