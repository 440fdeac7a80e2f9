"""One training loop: the step, the trainer, checkpoints, evaluation, and the row that a run ends with."""
