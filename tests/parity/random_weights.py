"""Networks of torch with random weights."""

from typing import Any

import numpy as np


def randomised(model: Any) -> Any:
    """The U-Net with every weight random: none left at the 0 or 1 where mistakes hide."""
    import torch

    rng = np.random.default_rng(0)
    for name, weight in model.named_parameters():
        shape = tuple(weight.shape)
        value = rng.normal(size=shape) * (np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3)
        value += len(shape) == 1 and "norm" in name and name.endswith("weight")
        weight.data = torch.tensor(value, dtype=torch.float32)
    return model.eval()
