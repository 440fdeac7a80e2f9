"""Write tests/goldens/optimisers.npz: six steps of PyTorch's and timm's optimisers, for tests/test_optimiser.py.

python scripts/optimiser_goldens.py, where torch and timm are installed (they aren't needed for anything else).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from timm.optim.lamb import Lamb

OUT = Path(__file__).parent.parent / "tests" / "goldens" / "optimisers.npz"
SHAPES, DECAY, RATES = ((5, 7), (7,), (1, 3, 4)), (0.1, 0.0, 0.1), (1.0, 0.5, 0.25)
RATE = (0.1, 0.2, 0.15, 0.1, 0.05, 0.01)
BETAS, EPS, MOMENTUM, ALPHA = (0.9, 0.98), 1e-6, 0.8, 0.95
MAKERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, betas=BETAS, eps=EPS),
    "lamb": lambda groups: Lamb(groups, betas=BETAS, eps=EPS, max_grad_norm=None),
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=MOMENTUM),
    "nesterov": lambda groups: torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, betas=BETAS, eps=EPS),
    "nadam": lambda groups: torch.optim.NAdam(groups, betas=BETAS, eps=EPS),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, alpha=ALPHA, momentum=MOMENTUM, eps=EPS),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, eps=EPS),
}


def main() -> None:
    """Write the file."""
    random = np.random.default_rng(0)
    start = [random.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    gradients = [[random.standard_normal(shape).astype(np.float32) for shape in SHAPES] for _ in RATE]
    kept: dict[str, np.ndarray] = {
        "rate": np.array(RATE),
        "decay": np.array(DECAY),
        "rates": np.array(RATES),
        "betas": np.array(BETAS),
        "eps": np.array(EPS),
        "momentum": np.array(MOMENTUM),
        "alpha": np.array(ALPHA),
    }
    kept.update({f"start/{index}": value for index, value in enumerate(start)})
    kept.update(
        {
            f"gradient/{step}/{index}": value
            for step, values in enumerate(gradients)
            for index, value in enumerate(values)
        }
    )
    for name, make in MAKERS.items():
        weights = [torch.nn.Parameter(torch.tensor(value)) for value in start]
        optimiser = make(
            [{"params": [weight], "weight_decay": decay, "lr": 1.0} for weight, decay in zip(weights, DECAY)]
        )
        for lr, values in zip(RATE, gradients):
            for group, weight, rate, value in zip(optimiser.param_groups, weights, RATES, values):
                group["lr"], weight.grad = lr * rate, torch.tensor(value)
            optimiser.step()
        kept.update({f"{name}/{index}": np.asarray(weight.detach()) for index, weight in enumerate(weights)})
    np.savez_compressed(OUT, **kept)


if __name__ == "__main__":
    main()
