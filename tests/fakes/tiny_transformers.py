"""Transformers models of every kind that the field deploys, tiny and with random weights; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers.utils import logging

VOCABULARY = 20
_SMALL: dict[str, Any] = {
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_size": 8,
    "intermediate_size": 16,
}
_IMAGE: dict[str, Any] = {"image_size": 32, "patch_size": 16, **_SMALL}
_TEXT: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": 16, **_SMALL}
_SOUND: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    **_SMALL,
}
_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 8,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
}


def _bert(kind: str) -> Any:
    return getattr(tf, kind)(tf.BertConfig(**{**_TEXT, "max_position_embeddings": 64}))


def _owl(kind: str) -> Any:
    config = getattr(tf, f"{kind}Config")(text_config=_TEXT, vision_config=_IMAGE, projection_dim=8)
    return getattr(tf, f"{kind}ForObjectDetection")(config)


def trocr() -> Any:
    """An image encoder with a text decoder, as TrOCR is."""
    decoder = tf.TrOCRConfig(
        max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **_DECODER
    )
    config = tf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(tf.ViTConfig(**_IMAGE), decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    return tf.VisionEncoderDecoderModel(config)


def _segformer() -> Any:
    config = tf.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 8],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 1],
        mlp_ratios=[1, 1],
        decoder_hidden_size=8,
        num_labels=3,
    )
    return tf.SegformerForSemanticSegmentation(config)


def _detr() -> Any:
    backbone = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    config = tf.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
    )
    return tf.DetrForObjectDetection(config)


def _glpn() -> Any:
    config = tf.GLPNConfig(
        num_encoder_blocks=4,
        depths=[1] * 4,
        sr_ratios=[8, 4, 2, 1],
        hidden_sizes=[8] * 4,
        decoder_hidden_size=8,
        num_attention_heads=[1] * 4,
    )
    return tf.GLPNForDepthEstimation(config)


def _whisper() -> Any:
    config = tf.WhisperConfig(
        num_mel_bins=8,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        max_source_positions=20,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **_DECODER,
    )
    return tf.WhisperForConditionalGeneration(config)


KINDS: Mapping[str, Callable[[], Any]] = {
    "feature-extraction": lambda: _bert("BertModel"),
    "text-classification": lambda: _bert("BertForSequenceClassification"),
    "token-classification": lambda: _bert("BertForTokenClassification"),
    "question-answering": lambda: _bert("BertForQuestionAnswering"),
    "fill-mask": lambda: _bert("BertForMaskedLM"),
    "image-classification": lambda: tf.ViTForImageClassification(tf.ViTConfig(**_IMAGE)),
    "image-segmentation": _segformer,
    "object-detection-yolos": lambda: tf.YolosForObjectDetection(
        tf.YolosConfig(**{**_IMAGE, "image_size": [32, 32]}, num_detection_tokens=5)
    ),
    "object-detection-detr": _detr,
    "zero-shot-object-detection-owlvit": lambda: _owl("OwlViT"),
    "zero-shot-object-detection-owlv2": lambda: _owl("Owlv2"),
    "zero-shot-image-classification": lambda: tf.CLIPModel(
        tf.CLIPConfig(text_config=_TEXT, vision_config=_IMAGE, projection_dim=8)
    ),
    "depth-estimation": _glpn,
    "image-to-text": trocr,
    "audio-classification": lambda: tf.Wav2Vec2ForSequenceClassification(tf.Wav2Vec2Config(**_SOUND)),
    "audio-classification-spectrogram": lambda: tf.ASTForAudioClassification(
        tf.ASTConfig(max_length=32, num_mel_bins=16, **{**_SMALL, "patch_size": 8})
    ),
    "speech-recognition-ctc": lambda: tf.Wav2Vec2ForCTC(tf.Wav2Vec2Config(**_SOUND)),
    "speech-recognition": _whisper,
}
"""A maker of each kind of model, by the word of its task."""


def save(folder: Path, model: Any) -> Path:
    """Save a model as its users do, without progress bars."""
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    return folder


def make(kind: str, folder: Path) -> Path:
    """The folder of a model of a kind; the same weights every time."""
    torch.manual_seed(0)
    return save(folder, KINDS[kind]().eval())


_WORDS = "one two three four five six seven eight nine ten good bad cold warm old new"
WORDS = ("[PAD]", "[START]", "[END]", "[UNK]", *_WORDS.split(" "))
"""The vocabulary of the tokenizer: a word a token."""


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of words, beside the model in its folder."""
    made = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        bos_token="[START]",
        eos_token="[END]",
        unk_token="[UNK]",
        model_max_length=8,
    )
    tokenizer.save_pretrained(folder)


def save_image_processor(folder: Path) -> None:
    """An image processor to 32 by 32 pixels, beside the model in its folder."""
    tf.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
