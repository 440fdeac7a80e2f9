"""PyTorch's side: side_torch.py MODEL BATCH SIZE eager|compile float32|bfloat16. MODEL is timm's name, cvt_13, cvt_21
of transformers, or one of torch_crossformer.py's; bfloat16 is autocast's. Run by PyTorch's own Python.
"""

from __future__ import annotations

import os
import sys

import torch
import torch_crossformer
from side import Step, answers_only, serve
from torch_crossformer import ADE20K_CLASSES, Segmentor, is_segmentor

CVT_DEPTHS = {"cvt_13": [1, 2, 10], "cvt_21": [1, 4, 16]}


def network(model: str) -> tuple[torch.nn.Module, str]:
    """The network, giving logits, and the library it comes from."""
    if "crossformer_" in model:
        return torch_crossformer.network(model), "the authors' form"
    if model in CVT_DEPTHS:
        import transformers

        config = transformers.CvtConfig(num_labels=1000, depth=CVT_DEPTHS[model], drop_path_rate=[0.0, 0.0, 0.0])
        return transformers.CvtForImageClassification(config), f"transformers {transformers.__version__}"
    import timm

    return timm.create_model(model, num_classes=1000), f"timm {timm.__version__}"


def logits(output: object) -> torch.Tensor:
    """transformers wraps them."""
    return output if isinstance(output, torch.Tensor) else output.logits  # type: ignore[attr-defined]


def main(model: str, batch: int, size: int, way: str, kind: str) -> None:
    """Serve the network and a plain AdamW step."""
    answers = answers_only()
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2":
        import torch._inductor.config as inductor

        inductor.cpp.simdlen = 256  # torch.compile's own kernels don't look at the variable
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))
    if is_segmentor(model):
        labels = torch.randint(0, ADE20K_CLASSES, (batch, size, size))
    _, library = network(model)
    precision = torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16")

    def make(mode: str) -> Step:
        net = network(model)[0].train(mode == "train")
        run = torch.compile(net) if way == "compile" else net
        if mode == "forward":

            def forward() -> None:
                with torch.inference_mode(), precision:
                    logits(run(images))

            return forward
        optimizer, criterion = (
            torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05),
            torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        )

        def train() -> None:
            optimizer.zero_grad()
            with precision:
                whole = net.loss(images, labels) if isinstance(net, Segmentor) else None
                loss = criterion(logits(run(images)), labels) if whole is None else whole
            loss.backward()
            optimizer.step()
            loss.item()

        return train

    serve(answers, {"what": f"{library}, PyTorch {torch.__version__}, {way}", "name": model, "size": size}, make)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
