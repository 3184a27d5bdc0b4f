"""LPIPS and the discriminator of patches against torch's networks with the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.metrics.lpips import layer_distances, load_lpips
from diffjax.models.patch_discriminator import PatchDiscriminator
from diffjax.models.stages import ALEXNET, VGG16

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
nn = torch.nn


def to_torch(images):
    return torch.tensor(np.asarray(images, np.float64).transpose(0, 3, 1, 2))


def alexnet():
    """torchvision's AlexNet.features, and the places of its ReLUs."""
    relu, pool = nn.ReLU, lambda: nn.MaxPool2d(3, 2)
    layers = [
        nn.Conv2d(3, 64, 11, 4, 2), relu(), pool(), nn.Conv2d(64, 192, 5, 1, 2), relu(), pool(),
        nn.Conv2d(192, 384, 3, 1, 1), relu(), nn.Conv2d(384, 256, 3, 1, 1), relu(),
        nn.Conv2d(256, 256, 3, 1, 1), relu(),
    ]  # fmt: skip
    return nn.Sequential(*layers), (1, 4, 7, 9, 11)


def vgg16():
    """torchvision's VGG16.features up to its last ReLU."""
    layers, channels = [], 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        if width:
            layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers), (3, 8, 15, 22, 29)


def by_torch(network, taps, heads, a, b):
    """Zhang et al. 2018, eq. 1, in float64, layer by layer."""
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
    x, y = ((to_torch(images) - shift) / scale for images in (a, b))
    found = []
    for place, layer in enumerate(network):
        x, y = layer(x), layer(y)
        if place in taps:
            u, v = (f / (torch.sqrt((f**2).sum(1, keepdim=True)) + 1e-10) for f in (x, y))
            head = torch.tensor(heads[len(found)], dtype=torch.float64)[:, None, None]
            found.append(((u - v) ** 2 * head).sum(1).mean((1, 2)))
    return torch.stack(found, 1).numpy()


@pytest.mark.parametrize(
    ("ours", "theirs", "size"), [(ALEXNET, alexnet, (70, 63)), (VGG16, vgg16, (33, 20))]
)
def test_lpips(tmp_path, ours, theirs, size):
    torch.manual_seed(0)
    network, taps = theirs()
    network = network.double()
    for layer in network:
        if isinstance(layer, nn.Conv2d):  # torch's own start lets the activations of VGG16 vanish
            nn.init.kaiming_normal_(layer.weight)
    tensors = {f"features.{name}": value.numpy() for name, value in network.state_dict().items()}
    np.savez(tmp_path / "weights.npz", **tensors)
    distance, params = load_lpips(tmp_path / "weights.npz")
    rng = np.random.default_rng(1)
    a = rng.uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    b = np.clip(a + rng.normal(0, 0.3, a.shape), -1, 1).astype(np.float32)
    heads = [np.asarray(params[f"lin{i}"]["kernel"])[0, 0, :, 0] for i in range(1, 6)]
    with torch.no_grad():
        expected = by_torch(network, taps, heads, a, b)
    pair = jnp.asarray(a), jnp.asarray(b)
    found = jax.jit(lambda p: layer_distances(ours, p, *pair))(params)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(jax.jit(distance)(params, *pair), expected.sum(1), rtol=1e-4)
    assert (expected > 1e-5).all()


@pytest.mark.parametrize("size", [(32, 32), (29, 26)])
def test_patch_discriminator(size):
    """The convolutions of Isola et al. 2017 (pix2pix), without batch norm."""
    model = PatchDiscriminator(n_layers=2, channels=4)
    images = jax.random.normal(jax.random.key(0), (2, *size, 3))
    logits, params = jax.jit(model.init_with_output)(jax.random.key(1), images)
    layers = [
        nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 8, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(8, 16, 4, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 4, 1, 1),
    ]  # fmt: skip
    network = nn.Sequential(*layers).double()
    for layer, name in zip(layers[::2], ("down_0", "down_1", "conv", "logit"), strict=True):
        own = params["params"][name]
        layer.weight.data = torch.tensor(np.float64(own["kernel"]).transpose(3, 2, 0, 1))
        layer.bias.data = torch.tensor(np.float64(own["bias"]))
    with torch.no_grad():
        expected = network(to_torch(images))[:, 0].numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert logits.shape == expected.shape
    assert jnp.abs(logits).max() > 0.01
