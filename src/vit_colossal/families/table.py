"""The families that are trained: one row each. docs/models.md shows what runs under which plugin.

Adding one is a row here and one in `tests/families.py`.
"""

from __future__ import annotations

from dataclasses import replace

from vit_colossal.errors import ModelError
from vit_colossal.families import flops, shapes
from vit_colossal.families.family import Encoder, Family

#: Attention and MLP as transformers 5 names them, and as files do: in its `conversion_mapping`.
_ATTENTION = (
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)
_MLP = ((r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense."))
_VIT_NAMES = ((r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2."), *_ATTENTION, *_MLP)

_COLUMNS = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "mlp.fc1")
_ROWS = ("attention.o_proj", "mlp.fc2")
_VIT = Encoder(
    norm="layernorm",
    columns=_COLUMNS,
    rows=_ROWS,
    dropouts=("dropout",),
    pooling="first",
)
_VIT_LAYER, _VIT_KEY_BIAS = r"encoder\.layer\.(\d+)\.", "attention.attention.key.bias"
_VIT_SIZES = {
    **{"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    **{"intermediate_size": 3072, "image_size": 224, "patch_size": 16},
}
_POSITIONS = "embeddings.position_embeddings"

_DINOV2 = Encoder(
    norm="layernorm",
    columns=(*_COLUMNS, "mlp.gate_proj", "mlp.up_proj"),
    rows=(*_ROWS, "mlp.down_proj"),
    dropouts=("dropout",),
    pooling="first and patches",
)
_DINOV2_NAMES = (*_ATTENTION, (r"\.mlp\.down_proj\.", ".mlp.weights_out."))
_DINOV2_FUSED = {"mlp.weights_in": ("mlp.gate_proj", "mlp.up_proj")}
_DINOV2_SIZES = {
    **{"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4},
    **{"image_size": 224, "patch_size": 14},
}

_DINOV3_SIZES = {
    **{"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    **{"intermediate_size": 1536, "image_size": 224, "patch_size": 16},
    **{"num_register_tokens": 0, "pos_embed_rescale": 2.0},
}

_TOWER_COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1")
_TOWER_ROWS = ("self_attn.out_proj", "mlp.fc2")
_TOWER_LAYER, _TOWER_KEY_BIAS = r"encoder\.layers\.(\d+)\.", "self_attn.k_proj.bias"
_TOWER_POSITIONS = "embeddings.position_embedding.weight"

_SWIN_SIZES = {
    **{"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "window_size": 7},
    **{"mlp_ratio": 4.0, "image_size": 224, "patch_size": 4},
}
_SWIN_LAYER = r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."
_SWIN_JOINT = (r"encoder\.layers\.(\d+)\.downsample\.", True)
_SWINV2_LINEAR = (
    *("attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "intermediate.dense", "output.dense"),
)
_CONVNEXT_LINEAR = ("pwconv1", "pwconv2")
_CONVNEXT_SIZES = {
    **{"num_stages": 4, "hidden_sizes": (96, 192, 384, 768), "depths": (3, 3, 9, 3)},
    **{"image_size": 224, "patch_size": 4},
}
_CONVNEXT_LAYER = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
_CONVNEXT_JOINT = (r"encoder\.stages\.(\d+)\.downsampling_layer\.", False)

_VIT_ROW = Family(
    title="ViT",
    classifier="ViTForImageClassification",
    backbone="vit",
    flops=flops.encoder,
    defaults=_VIT_SIZES,
    renamed=_VIT_NAMES,
    blocks="layers",
    layer=_VIT_LAYER,
    first_in_block="layernorm_before.weight",
    key_bias=_VIT_KEY_BIAS,
    positions=_POSITIONS,
    encoder=_VIT,
)
_DINOV2_ROW = Family(
    title="DINOv2",
    classifier="Dinov2ForImageClassification",
    backbone="dinov2",
    flops=flops.encoder,
    measure=shapes.dinov2,
    defaults=_DINOV2_SIZES,
    renamed=_DINOV2_NAMES,
    fused=_DINOV2_FUSED,
    blocks="encoder.layer",
    layer=_VIT_LAYER,
    first_in_block="norm1.weight",
    unused=("embeddings.mask_token",),
    key_bias=_VIT_KEY_BIAS,
    sizes="interpolates",
    drop_path=0.0,
    layer_scale=True,
    encoder=_DINOV2,
)
_CONVNEXT_ROW = Family(
    title="ConvNeXt",
    classifier="ConvNextForImageClassification",
    backbone="convnext",
    flops=flops.convolutions,
    measure=shapes.convnext,
    defaults=_CONVNEXT_SIZES,
    blocks="encoder.stages.*.layers",
    layer=_CONVNEXT_LAYER,
    first_in_block="layernorm.weight",
    between=_CONVNEXT_JOINT,
    sizes="any",
    drop_path=0.0,
    averages_slices=True,
    checkpoints_layers=False,
    linear=_CONVNEXT_LINEAR,
    why_whole="it has convolutions in place of attention",
)

FAMILIES: dict[str, Family] = {
    "vit": _VIT_ROW,
    "deit": replace(
        _VIT_ROW,
        title="DeiT",
        classifier="DeiTForImageClassification",
        backbone="deit",
        measure=shapes.with_distillation,
    ),
    "dinov2": _DINOV2_ROW,
    "dinov2_with_registers": replace(
        _DINOV2_ROW,
        title="DINOv2 with registers",
        classifier="Dinov2WithRegistersForImageClassification",
        backbone="dinov2_with_registers",
        defaults={**_DINOV2_SIZES, "patch_size": 16, "num_register_tokens": 4},
    ),
    "dinov3_vit": Family(
        title="DINOv3",
        classifier="DINOv3ViTForImageClassification",
        module="vit_colossal.model.dinov3",
        backbone="dinov3_vit",
        flops=flops.encoder,
        measure=shapes.dinov3,
        defaults=_DINOV3_SIZES,
        # Those of the backbone alone, which is what is published.
        renamed=((r"^dinov3_vit\.(model\.)?", ""),),
        blocks="model.layer",
        layer=r"layer\.(\d+)\.",
        first_in_block="norm1.weight",
        unused=("embeddings.mask_token",),
        sizes="any",
        drop_path=0.0,
        switched_off=("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"),
        layer_scale=True,
        encoder=Encoder(
            norm="norm",
            columns=(*_COLUMNS[:3], "mlp.gate_proj", "mlp.up_proj"),
            rows=("attention.o_proj", "mlp.down_proj"),
            pooling="first and patches",
            rotary="rope_embeddings",
            heads="attention.num_heads",
        ),
    ),
    "siglip": Family(
        title="SigLIP",
        classifier="SiglipForImageClassification",
        backbone="vision_model",
        flops=flops.encoder,
        measure=shapes.without_class_token,
        defaults=_VIT_SIZES,
        nested="vision_config",
        blocks="encoder.layers",
        layer=_TOWER_LAYER,
        first_in_block="layer_norm1.weight",
        unused=("head.",),
        key_bias=_TOWER_KEY_BIAS,
        positions=_TOWER_POSITIONS,
        encoder=Encoder(
            norm="post_layernorm",
            columns=_TOWER_COLUMNS,
            rows=_TOWER_ROWS,
            pooling="mean",
        ),
    ),
    "clip": Family(
        title="CLIP",
        classifier="CLIPForImageClassification",
        backbone="vision_model",
        flops=flops.encoder,
        defaults={**_VIT_SIZES, "patch_size": 32},
        nested="vision_config",
        blocks="encoder.layers",
        layer=_TOWER_LAYER,
        first_in_block="layer_norm1.weight",
        stem=("pre_layrnorm.",),
        unused=("post_layernorm.",),
        key_bias=_TOWER_KEY_BIAS,
        positions=_TOWER_POSITIONS,
        encoder=Encoder(
            before="pre_layrnorm",
            norm=None,
            columns=_TOWER_COLUMNS,
            rows=_TOWER_ROWS,
            pooling="patches",
        ),
    ),
    "beit": Family(
        title="BEiT",
        classifier="BeitForImageClassification",
        backbone="beit",
        flops=flops.encoder,
        defaults=_VIT_SIZES,
        renamed=(
            *_VIT_NAMES,
            (
                r"(layer\.\d+)\.relative_position_bias\.",
                r"\1.attention.attention.relative_position_bias.",
            ),
            (r"(^|\.)shared_position_bias\.", r"\1encoder.relative_position_bias."),
        ),
        blocks="layers",
        layer=_VIT_LAYER,
        first_in_block="layernorm_before.weight",
        stem=("encoder.relative_position_bias.",),
        unused=("embeddings.mask_token",),
        sizes="own",
        drop_path=0.1,
        linear=(*_COLUMNS, *_ROWS),
        why_whole="its table of position biases belongs to all heads",
    ),
    "swin": Family(
        title="Swin",
        classifier="SwinForImageClassification",
        backbone="swin",
        flops=flops.windows,
        measure=shapes.swin,
        defaults=_SWIN_SIZES,
        renamed=(
            (r"\.attention\.q_proj\.", ".attention.self.query."),
            (r"\.attention\.k_proj\.", ".attention.self.key."),
            (r"\.attention\.v_proj\.", ".attention.self.value."),
            (r"\.attention\.relative_position_bias\.", ".attention.self."),
            (r"\.attention\.o_proj\.", ".attention.output.dense."),
            *_MLP,
        ),
        blocks="encoder.layers.*.blocks",
        layer=_SWIN_LAYER,
        first_in_block="layernorm_before.weight",
        between=_SWIN_JOINT,
        key_bias="attention.self.key.bias",
        sizes="any",
        whole_windows=True,
        drop_path=0.1,
        linear=(*_COLUMNS, *_ROWS),
        why_whole="its stages have different widths and numbers of heads",
    ),
    "swinv2": Family(
        title="Swin v2",
        classifier="Swinv2ForImageClassification",
        backbone="swinv2",
        flops=flops.windows,
        measure=shapes.swin,
        defaults=_SWIN_SIZES,
        blocks="encoder.layers.*.blocks",
        layer=_SWIN_LAYER,
        first_in_block="layernorm_before.weight",
        between=_SWIN_JOINT,
        sizes="any",
        drop_path=0.1,
        linear=_SWINV2_LINEAR,
        why_whole="its stages have different widths and numbers of heads",
    ),
    "convnext": _CONVNEXT_ROW,
    "convnextv2": replace(
        _CONVNEXT_ROW,
        title="ConvNeXt v2",
        classifier="ConvNextV2ForImageClassification",
        backbone="convnextv2",
    ),
}

#: How the names of keys' biases end.
KEY_BIASES = tuple({row.key_bias for row in FAMILIES.values() if row.key_bias})


def family(model_type: str) -> Family:
    """The row of a ``model_type``.

    Raises:
        ModelError: there is none.
    """
    if model_type not in FAMILIES:
        raise ModelError([f"models of type {model_type!r} are not trained"])
    return FAMILIES[model_type]
