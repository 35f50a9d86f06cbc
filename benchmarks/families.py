"""Networks of timm and transformers as their own code builds them, small and with random weights.

Only the environment `families` has these libraries. No weights, tokenizers or configurations are downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 10
_STAGES, _DEEP = {"layers": (1, 1, 1, 1)}, {"depths": (1, 1, 1, 1)}
# (side of the image, arguments that make timm's network shallower, names)
_SIZES: tuple[tuple[int, dict[str, Any], str], ...] = (
    (64, _STAGES, "resnet18 resnext50_32x4d res2net50_26w_4s seresnet18 seresnet50 skresnet18 resnest14d"),
    (64, {"block_config": (2, 2, 2, 2)}, "densenet121"),
    (64, _DEEP, "convnext_atto convnextv2_atto pvt_v2_b0 twins_svt_small twins_pcpvt_small mambaout_femto "
                "inception_next_atto edgenext_xx_small davit_tiny"),
    (224, _DEEP, "swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 efficientformerv2_s0 tiny_vit_5m_224"),
    (224, {"layers": (1, 1, 1, 1)}, "sequencer2d_s"),
    (64, {"img_size": 64}, "mixer_s32_224 resmlp_12_224 gmlp_s16_224"),
    (64, {"depth": 2, "img_size": 64}, """vit_tiny_patch16_224 vit_srelpos_small_patch16_224
        deit_tiny_distilled_patch16_224 deit3_small_patch16_224 cait_xxs24_224 xcit_nano_12_p16_224 tnt_s_patch16_224
        convit_tiny beit_base_patch16_224"""),
    (56, {"depth": 2, "img_size": 56}, "eva02_tiny_patch14_224"),
    (64, {"depth": (1, 1, 1), "img_size": 64}, "pit_ti_224"),
    (64, {"img_size": 64}, "volo_d1_224 coatnet_nano_rw_224"),
    (64, {"img_size": 64, "serial_depths": (1, 1, 1, 1), "parallel_depth": 1}, "coat_tiny"),
    (224, {"depth": (1, 1, 1)}, "levit_128s"),
    (224, {"stages": (1, 2, 1, 3)}, "hiera_tiny_224"),
    (64, {}, """vgg11_bn mobilenetv2_100 mobilenetv3_large_100 mobilenetv4_conv_small efficientnet_b0 efficientnet_lite0
        ghostnet_100 mnasnet_100 mixnet_s fbnetc_100 lcnet_050 tinynet_e rexnet_100 regnetx_002 regnety_002 dla34
        selecsls42b cspresnet50 cspdarknet53 hrnet_w18_small vovnet39a ese_vovnet19b_dw xception41 repvgg_a0
        mobileone_s0 dm_nfnet_f0 hgnetv2_b0 starnet_s1 dpn48b repghostnet_050 ecaresnet26t gcresnext26ts mobilevit_xxs
        mobilevitv2_050 fastvit_t8 repvit_m0_9 efficientvit_b0 shvit_s1 nextvit_small poolformer_s12 poolformerv2_s12
        caformer_s18 focalnet_tiny_srf convmixer_768_32"""),
    (96, {}, "inception_v3 inception_v4"),
    (128, {}, "lambda_resnet26t"),
    (224, {}, "gcvit_xxtiny mvitv2_tiny nest_tiny visformer_tiny efficientformer_l1 efficientvit_m0"),
    (240, {}, "crossvit_tiny_240"),
    (256, {}, "botnet26t_256 halonet26t maxvit_nano_rw_256"),
)  # fmt: skip
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    name: (side, options) for side, options, names in _SIZES for name in names.split()
}

_WIDTH, _TOKENS, _LENGTH = 64, 120, 12
_COMMON = {"num_labels": CLASSES, "vocab_size": _TOKENS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXT = {"hidden_size": _WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 4 * _WIDTH,
         "max_position_embeddings": 64, **_COMMON}  # fmt: skip
_SHARED = _TEXT | {"num_key_value_heads": 2, "head_dim": 16}
_EXPERTS = _SHARED | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "num_local_experts": 4,
    "shared_expert_intermediate_size": 64,
    "experts_implementation": "batched_mm",
}
_TWO_SIDED = {"d_model": _WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, **_COMMON,
              "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256,
              "max_position_embeddings": 64, "decoder_start_token_id": 1}  # fmt: skip
_T5 = {"d_model": _WIDTH, "d_kv": 16, "d_ff": 256, "num_layers": 2, "num_heads": 4, **_COMMON}
_GPT = {"n_embd": _WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 64, **_COMMON}
_SPEECH = {"hidden_size": _WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256, **_COMMON,
           "conv_dim": (32, 32, 32), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3), "apply_spec_augment": False,
           "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
           "classifier_proj_size": 32}  # fmt: skip
_VISION = {"hidden_size": _WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256,
           "image_size": 32, "patch_size": 8, "num_labels": CLASSES}  # fmt: skip
_PYRAMID = {"num_labels": CLASSES, "depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 64, 96]}
_SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
         "num_labels": CLASSES}  # fmt: skip
_CLASSIFY, _IMAGE, _CAUSAL = "ForSequenceClassification", "ForImageClassification", "ForCausalLM"
# name → (class, of its configuration, that one's arguments, what goes in)
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    **{
        name.lower(): (name + task, name + "Config", options, given)
        for task, options, given, names in (
            (
                _CLASSIFY,
                _TEXT,
                "tokens",
                "Bert Roberta Electra XLMRoberta MPNet Ernie LayoutLM RoFormer ConvBert ModernBert NomicBert",
            ),
            (_CAUSAL, _TEXT, "tokens", "GPTNeoX OPT Bloom Persimmon"),
            (
                _CAUSAL,
                _SHARED,
                "tokens",
                "Llama Mistral Qwen2 Qwen3 Phi Phi3 Gemma Gemma2 Olmo Olmo2 Starcoder2 Granite Cohere SmolLM3 Glm",
            ),
            (_CAUSAL, _EXPERTS, "tokens", "Mixtral Qwen2Moe Qwen3Moe Olmoe"),
            (_CAUSAL, _TEXT | {"num_kv_heads": 1, "num_key_value_heads": 4}, "tokens", "Falcon StableLm"),
            (_IMAGE, _VISION, "image", "ViT DeiT Beit Dinov2 ViTMSN IJepa"),
            (_IMAGE, _SWIN, "image", "Swin Swinv2"),
            (_IMAGE, _PYRAMID, "image", "ConvNext ConvNextV2 ResNet RegNet"),
            (_CLASSIFY, _SPEECH, "sound", "Wav2Vec2 Hubert WavLM UniSpeechSat"),
        )
        for name in names.split()
    },
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"dim": _WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 256, "max_position_embeddings": 64, **_COMMON},
        "tokens",
    ),
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", _TEXT | {"embedding_size": 32}, "tokens"),
    "mobilebert": (
        "MobileBertForSequenceClassification",
        "MobileBertConfig",
        _TEXT | {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
        "tokens",
    ),
    "deberta": (
        "DebertaForSequenceClassification",
        "DebertaConfig",
        _TEXT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 32},
        "tokens",
    ),
    "deberta_v2": (
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        _TEXT
        | {
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "max_relative_positions": 32,
            "position_buckets": 16,
        },
        "tokens",
    ),
    "squeezebert": (
        "SqueezeBertForSequenceClassification",
        "SqueezeBertConfig",
        _TEXT | {"embedding_size": _WIDTH},
        "tokens",
    ),
    "fnet": ("FNetForSequenceClassification", "FNetConfig", _TEXT, "tokens"),
    "funnel": (
        "FunnelForSequenceClassification",
        "FunnelConfig",
        {
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
            "d_model": _WIDTH,
            "n_head": 4,
            "d_head": 16,
            "d_inner": 256,
            **_COMMON,
        },
        "tokens",
    ),
    "xlnet": (
        "XLNetForSequenceClassification",
        "XLNetConfig",
        {"d_model": _WIDTH, "n_layer": 2, "n_head": 4, "d_inner": 256, **_COMMON},
        "tokens",
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT, "tokens"),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", _GPT | {"rotary_dim": 8}, "tokens"),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "hidden_size": _WIDTH,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
            **_COMMON,
        },
        "tokens",
    ),
    "mpt": (
        "MptForCausalLM",
        "MptConfig",
        {"d_model": _WIDTH, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, **_COMMON},
        "tokens",
    ),
    "t5_encoder": ("T5EncoderModel", "T5Config", _T5, "tokens"),
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5 | {"decoder_start_token_id": 0}, "two texts"),
    "mt5_encoder": ("MT5EncoderModel", "MT5Config", _T5 | {"feed_forward_proj": "gated-gelu"}, "tokens"),
    "bart": ("BartForConditionalGeneration", "BartConfig", _TWO_SIDED, "two texts"),
    "marian": ("MarianMTModel", "MarianConfig", _TWO_SIDED, "two texts"),
    "pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", _TWO_SIDED, "two texts"),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"hidden_size": _WIDTH, "num_hidden_layers": 2, "state_size": 8, "conv_kernel": 4, **_COMMON},
        "tokens",
    ),
    "whisper_encoder": (
        "WhisperForAudioClassification",
        "WhisperConfig",
        _TWO_SIDED | {"num_mel_bins": 16, "max_source_positions": 32, "classifier_proj_size": 32},
        "spectrum",
    ),
    "ast": (
        "ASTForAudioClassification",
        "ASTConfig",
        _VISION | {"max_length": 32, "num_mel_bins": 16, "frequency_stride": 4, "time_stride": 4},
        "frames",
    ),
    "clip_vision": (
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        _VISION | {"projection_dim": CLASSES},
        "image",
    ),
    "clip_text": ("CLIPTextModelWithProjection", "CLIPTextConfig", _TEXT | {"projection_dim": CLASSES}, "tokens"),
    "siglip_vision": ("SiglipVisionModel", "SiglipVisionConfig", _VISION, "image"),
    "segformer": (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 32, 64, 96],
            "num_attention_heads": [1, 2, 4, 8],
            "decoder_hidden_size": 48,
            "num_labels": CLASSES,
        },
        "image64",
    ),
    "mobilevit_hf": (
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 80],
            "num_labels": CLASSES,
        },
        "image64",
    ),
    "mobilenet_v1_hf": (
        "MobileNetV1ForImageClassification",
        "MobileNetV1Config",
        {"num_labels": CLASSES, "depth_multiplier": 0.25},
        "image64",
    ),
    "mobilenet_v2_hf": (
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        {"num_labels": CLASSES, "depth_multiplier": 0.35},
        "image64",
    ),
    "efficientnet_hf": (
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        {"num_labels": CLASSES, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
        "image64",
    ),
    "poolformer_hf": (
        "PoolFormerForImageClassification",
        "PoolFormerConfig",
        _PYRAMID | {"hidden_sizes": [16, 32, 64, 96]},
        "image64",
    ),
    "pvt_v2_hf": (
        "PvtV2ForImageClassification",
        "PvtV2Config",
        _PYRAMID | {"num_attention_heads": [1, 2, 4, 8]},
        "image64",
    ),
    "levit_hf": (
        "LevitForImageClassification",
        "LevitConfig",
        {
            "num_labels": CLASSES,
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        "image64",
    ),
    "dpt": (
        "DPTForSemanticSegmentation",
        "DPTConfig",
        _VISION
        | {
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 16, 32, 32],
            "fusion_hidden_size": 32,
            "is_hybrid": False,
        },
        "image",
    ),
    "data2vec_audio": ("Data2VecAudioForSequenceClassification", "Data2VecAudioConfig", _SPEECH, "sound"),
    "perceiver": (
        "PerceiverForImageClassificationLearned",
        "PerceiverConfig",
        {
            "num_latents": 8,
            "d_latents": 32,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 1,
            "image_size": 16,
            "num_labels": CLASSES,
        },
        "image16",
    ),
}
NAMES = (*(f"transformers/{n}" for n in TRANSFORMERS), *(f"timm/{n}" for n in TIMM))


def build(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in eval mode and its inputs, two samples, from a fixed seed."""
    from architectures import set_channels_apart

    library, _, network = name.partition("/")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _declare_operators()
        module, inputs = {"timm": _timm, "transformers": _transformers}[library](network)
        set_channels_apart(module.eval())
        return module, inputs


def _declare_operators() -> None:
    """What torchvision's Python code asks for by name when it is imported; no network here calls them."""
    if hasattr(torch.ops.torchvision, "qnms"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []  # what a library declares goes with it


def _timm(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    import timm

    side, options = TIMM[name]
    module = timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)
    return module, (torch.randn(2, 3, side, side),)


class _Only(nn.Module):
    """One tensor of what a network of transformers returns."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *values: Tensor) -> Tensor:
        given = dict(zip(self.names, values, strict=True))
        outputs: Any = self.network(**given)
        return next(outputs[n] for n in ("logits", "image_embeds", "text_embeds", "last_hidden_state") if n in outputs)


def _transformers(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    import transformers

    of, configuration, options, given = TRANSFORMERS[name]
    made: Any = getattr(transformers, configuration)(**options)
    made.use_cache = False
    inputs = _INPUTS[given]()
    return _Only(getattr(transformers, of)(made), tuple(inputs)), tuple(inputs.values())


def _tokens() -> Tensor:
    return torch.randint(3, _TOKENS, (2, _LENGTH))


_INPUTS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "tokens": lambda: {"input_ids": _tokens()},
    "two texts": lambda: {"input_ids": _tokens(), "decoder_input_ids": _tokens()},
    "image": lambda: {"pixel_values": torch.randn(2, 3, 32, 32)},
    "image16": lambda: {"pixel_values": torch.randn(2, 3, 16, 16)},
    "image64": lambda: {"pixel_values": torch.randn(2, 3, 64, 64)},
    "sound": lambda: {"input_values": torch.randn(2, 800)},
    "frames": lambda: {"input_values": torch.randn(2, 32, 16)},
    "spectrum": lambda: {"input_features": torch.randn(2, 16, 64)},
}
