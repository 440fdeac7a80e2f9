"""What a training recipe may say of a run's files and of what is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from mindvit.recipe.options import option


@dataclass(frozen=True)
class CheckpointOptions:
    """What is saved."""

    ckpt_save_dir: str = option(
        "./ckpt", "folder of the run: checkpoints, log, resolved recipe", path=True, affects_result=False
    )
    ckpt_save_interval: int = option(1, "epochs between checkpoints", low=1, affects_result=False)
    ckpt_save_steps: Optional[int] = option(
        None,
        "steps between checkpoints within an epoch, each replacing the last (none: at epochs' ends only)",
        low=1,
        affects_result=False,
    )
    resume: str = option(
        "auto",
        "resume from the newest checkpoint in ckpt_save_dir, if there is one (auto), from a FILE, or start anew (none)",
        path=True,
        affects_result=False,
    )
    keep_checkpoint_max: int = option(3, "newest checkpoints kept, beside the best one", low=1, affects_result=False)


@dataclass(frozen=True)
class LogOptions:
    """What is shown and kept."""

    val_while_train: bool = option(
        True, "validate during training (the last epoch is always validated)", affects_result=False
    )
    val_interval: int = option(1, "epochs between validations", low=1, affects_result=False)
    log_interval: int = option(100, "steps between lines when the output is no terminal", low=1, affects_result=False)
    chance_epochs: int = option(
        5, "epochs after which an accuracy no better than guessing is warned of", low=1, affects_result=False
    )
    summary: str = option(
        "none",
        "a viewer's files, beside log.csv: MindSpore's or TensorBoard's (needs the package tensorboardX), or those of "
        "the tracker of this name, offline (needs its package)",
        ("none", "mindspore", "tensorboard", "wandb", "swanlab", "mlflow"),
        affects_result=False,
    )
    results_csv: str = option(
        "results/runs.csv", "file to which the final row is appended", path=True, affects_result=False
    )
