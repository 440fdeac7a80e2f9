"""mindcv's side: side_mindcv.py MODEL BATCH SIZE. It needs mindcv beside MindSpore."""

from __future__ import annotations

import sys

import mindcv
import mindspore as ms
import numpy as np
from mindspore import nn
from side import Step, answers_only, serve


def main(model: str, batch: int, size: int) -> None:
    """Serve mindcv's network of that name, and its training step as mindcv's train.py builds it without AMP."""
    answers = answers_only()
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    random = np.random.default_rng(0)
    images = ms.Tensor(random.standard_normal((batch, 3, size, size), np.float32))
    labels = ms.Tensor(random.integers(0, 1000, batch).astype(np.int32))

    def make(mode: str) -> Step:
        net = mindcv.create_model(model, num_classes=1000, drop_path_rate=0.0)
        if mode == "forward":
            net.set_train(False)
            return lambda: net(images).asnumpy()
        with_loss = nn.WithLossCell(net, nn.CrossEntropyLoss(label_smoothing=0.1))
        step = nn.TrainOneStepCell(
            with_loss, nn.AdamWeightDecay(net.trainable_params(), learning_rate=1e-3, weight_decay=0.05)
        ).set_train()
        return lambda: step(images, labels).asnumpy()

    serve(
        answers, {"what": f"mindcv {mindcv.__version__}, MindSpore {ms.__version__}", "name": model, "size": size}, make
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
