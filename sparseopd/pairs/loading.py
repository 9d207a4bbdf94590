"""Load a model or its processor from a folder, a hub id, or the bundled pairs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from sparseopd.errors import PairError
from sparseopd.pairs.locate import looks_local, resolve_path
from sparseopd.pairs.quantization import (
    check_head,
    compute_as_asked,
    placement,
    quantization_options,
)
from sparseopd.recipe import Model, Teacher

Processor = PreTrainedTokenizerBase | ProcessorMixin
LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    ImportError,
    TypeError,
    AttributeError,
    SafetensorError,
)
"""What transformers raises for a folder or id that is missing, damaged or of an unknown kind."""


def pick_device(name: str | None = None) -> torch.device:
    """Return the named device, or the accelerator torch finds, or the CPU."""
    if name is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise PairError(
            f"the device {name!r} cannot be used here: use cpu, or leave it out"
        ) from error
    return device


def is_vision_language(config: PretrainedConfig) -> bool:
    """Whether a checkpoint's configuration belongs to an image-text-to-text model."""
    image_text = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if not (type(config) in image_text and hasattr(config, "vision_config")):
        return False
    # A text-only checkpoint may share its configuration class with its vision-language sibling.
    architecture = (config.architectures or [""])[0]
    return not architecture.endswith("ForCausalLM")


def teacher_device(teacher: Teacher, default: torch.device) -> torch.device:
    """Return where a teacher runs: its own device, or `default`, the student's.

    Raises `PairError` for a device that is not there.
    """
    return default if teacher.device is None else pick_device(teacher.device)


def load_model(model: Model, *, device: str | torch.device | None = None) -> PreTrainedModel:
    """Load the weights in `model.dtype`, in evaluation mode; a teacher's as its `quantization` says.

    Quantized weights are made on `device` (the accelerator torch finds, by default) and cannot be cast
    afterwards; the output head is never quantized. Others are on the CPU without a device.

    Raises `PairError` when the folder or id cannot be loaded, the checkpoint lacks weights, or they
    cannot be quantized here.
    """
    where, options = _source(model), _options(model)
    try:
        config = AutoConfig.from_pretrained(where, **options)
        quantized = _quantized(model, config, device)
        kind = AutoModelForImageTextToText if is_vision_language(config) else AutoModelForCausalLM
        loaded, info = kind.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            where,
            dtype=getattr(torch, model.dtype),
            output_loading_info=True,
            use_safetensors=True,  # never a pickle
            **options,
            **quantized,
        )
    except LOADING_ERRORS as error:
        raise PairError(f"cannot load the model {model.path}: {_first_line(error)}") from error
    _check_whole(model, info["missing_keys"])
    if quantized:
        check_head(loaded, model.path)
        compute_as_asked(loaded)
    loaded.eval()
    return loaded if quantized or device is None else loaded.to(device)


def load_processor(model: Model) -> Processor:
    """Load the tokenizer (language models) or processor (vision-language), padding on the left.

    A missing pad token becomes the end-of-sequence token, as TRL does.
    """
    where, options = _source(model), _options(model)
    try:
        config = AutoConfig.from_pretrained(where, **options)
        kind = AutoProcessor if is_vision_language(config) else AutoTokenizer
        processor = kind.from_pretrained(where, padding_side="left", **options)
    except LOADING_ERRORS as error:
        raise PairError(
            f"cannot load the tokenizer or processor of {model.path}: {_first_line(error)}"
        ) from error
    tokenizer = tokenizer_of(processor)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def tokenizer_of(processor: Processor) -> PreTrainedTokenizerBase:
    """Return the tokenizer inside a processor, or the tokenizer itself."""
    return processor.tokenizer if isinstance(processor, ProcessorMixin) else processor  # pyright: ignore


def check_images(has_images: bool, processor: Processor) -> None:
    """Raise `PairError` if prompts have images and the student only a tokenizer."""
    if has_images and not isinstance(processor, ProcessorMixin):
        raise PairError(
            "the prompts have images and the student is a language model, which cannot see them: "
            "choose a vision-language student, or prompts without an image column"
        )


def has_chat_template(processor: Processor) -> bool:
    """Whether prompts must be given as chat messages."""
    own = getattr(processor, "chat_template", None)
    return bool(own or tokenizer_of(processor).chat_template)


def _source(model: Model) -> str:
    """The folder or id to hand to transformers; a path that is clearly local must exist."""
    where = resolve_path(model.path)
    if looks_local(where) and not Path(where).is_dir():
        raise PairError(f"there is no model folder {model.path}")
    if Path(where).is_dir() and not (Path(where) / "config.json").is_file():
        raise PairError(f"the folder {model.path} holds no model (config.json is missing)")
    return where


def _options(model: Model) -> dict[str, Any]:
    return {"revision": model.revision, "trust_remote_code": model.trust_remote_code}


def _quantized(
    model: Model, config: PretrainedConfig, device: str | torch.device | None
) -> dict[str, Any]:
    """What `from_pretrained` needs for weights that are quantized or become so; nothing for others."""
    bits = model.quantization if isinstance(model, Teacher) else None
    stored = getattr(config, "quantization_config", None) is not None
    if not bits and not stored:
        return {}
    if bits and stored:
        raise PairError(
            f"teacher.quantization={bits} cannot be used on {model.path}, whose weights are stored "
            "quantized: drop it, or give the unquantized checkpoint"
        )
    where = pick_device() if device is None else torch.device(device)
    settings = quantization_options(bits, getattr(torch, model.dtype), where) if bits else {}
    return {**placement(where), **settings}


def _check_whole(model: Model, missing: Iterable[str]) -> None:
    names = sorted(missing)
    if names:
        raise PairError(
            f"the checkpoint {model.path} lacks {len(names)} weights of its architecture, "
            f"among them {names[0]}: it is incomplete or of another model class"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
