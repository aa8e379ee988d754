"""What embeddings and head of a ViT cost, in layers: for the balance of a pipeline's stages.

python scripts/stage_cost.py

Forward and backward in fp32 on one thread, the least CPU time of several tries.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from vit_colossal.model.build import build_model
from vit_colossal.plan.model_spec import read_spec
from vit_colossal.plan.stages import embeddings_cost

BATCH = 8


def cost(run: Callable[[], None], tries: int = 5) -> float:
    """CPU seconds of the fastest run."""
    found = []
    for _ in range(tries):
        before = time.process_time()
        run()
        found.append(time.process_time() - before)
    return min(found)


def show(name: str, count: int) -> None:
    """One line of the table, of a model for ``count`` labels."""
    spec = read_spec(name, {"num_hidden_layers": 1})
    model = build_model(spec, tuple(map(str, range(count))), seed=0).train()
    images = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)
    hidden = torch.randn(BATCH, spec.tokens, spec.shape.hidden_size, requires_grad=True)
    slopes, targets = torch.randn_like(hidden), torch.randint(0, count, (BATCH,))

    def embeddings() -> None:
        pixels = (images.float() / 255 - 0.5) / 0.5
        model.vit.embeddings(pixels).backward(slopes)

    def head() -> None:
        logits = model.classifier(model.vit.layernorm(hidden)[:, 0])
        cross_entropy(logits, targets).backward()

    layer = cost(lambda: model.vit.layers[0](hidden).backward(slopes))
    print(
        f"{name:10} {count:6} {layer * 1e3:9.1f} {cost(embeddings) / layer:11.3f} "
        f"{embeddings_cost(spec):9.3f} {cost(head) / layer:7.3f}",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("model      labels  layer ms  embeddings  expected    head")
    for model_name in ("vit-tiny", "vit-small", "vit-base"):
        for labels in (10, 1000):
            show(model_name, labels)
