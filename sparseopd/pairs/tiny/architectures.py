"""The shapes of the tiny models: Qwen3 for text, LLaVA (a CLIP tower and Qwen3) for digits."""

from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from sparseopd.pairs.tiny.digits import SIDE
from sparseopd.pairs.tiny.vocabulary import IMAGE

PATCH = 2
IMAGE_TOKENS = (SIDE // PATCH) ** 2


def qwen3(
    tokenizer: PreTrainedTokenizerBase, *, width: int, layers: int, spread: float
) -> Qwen3Config:
    """Describe a tiny Qwen3 with tied embeddings; weights start with standard deviation `spread`."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        max_position_embeddings=256,
        initializer_range=spread,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]
        pad_token_id=tokenizer.pad_token_id,  # pyright: ignore[reportArgumentType]
    )


def llava(
    tokenizer: PreTrainedTokenizerBase, *, width: int, layers: int, vision_width: int
) -> LlavaConfig:
    """Describe a tiny LLaVA that reads an 8x8 image as sixteen 2x2 patches, one token each."""
    vision = CLIPVisionConfig(
        hidden_size=vision_width,
        intermediate_size=vision_width * 2,
        projection_dim=vision_width,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = qwen3(tokenizer, width=width, layers=layers, spread=0.02)
    text.tie_word_embeddings = False
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),  # pyright: ignore
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )


def llava_processor(tokenizer: PreTrainedTokenizerBase) -> LlavaProcessor:
    """Join `tokenizer` with a PIL image processor, which needs no torchvision."""
    images = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token, which "default" then drops
        chat_template=tokenizer.chat_template,
    )
