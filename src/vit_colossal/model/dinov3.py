"""A classifier of images on DINOv3, of which transformers has the backbone alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel, DINOv3ViTPreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from vit_colossal.model.forward import POOLING


class DINOv3ViTForImageClassification(DINOv3ViTPreTrainedModel):
    """A linear layer on the class token beside the mean of the patches, both behind the last norm.

    So does the classifier that DINOv3 is published with (facebookresearch/dinov3,
    ``dinov3/hub/classifiers.py``), and that of DINOv2 in transformers; registers are not read.
    """

    base_model_prefix = "dinov3_vit"

    def __init__(self, config: DINOv3ViTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.dinov3_vit = DINOv3ViTModel(config)
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        """Logits [b, labels] of pixels [b, 3, H, W], and with labels int64 [b] their loss."""
        outputs = self.dinov3_vit(pixel_values, **kwargs)
        tokens, extra = outputs.last_hidden_state, 1 + self.config.num_register_tokens
        logits = self.classifier(POOLING["first and patches"](tokens, extra))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
