"""What each phase of a step takes beyond weights and optimizer state, in bytes by item."""

from __future__ import annotations

from sparseopd.feasibility import activations
from sparseopd.feasibility.activations import Batch, numbers_of
from sparseopd.feasibility.plan import BYTES, Plan, PlannedTeacher
from sparseopd.masks.scope import block_of
from sparseopd.settings.objective import GIVEN

FULL = ("reverse-kl", "forward-kl", "jsd")
"""Objectives over the whole vocabulary."""
FULL_TILE = (4096, 32768)
"""Tokens and vocabulary of a tile of TRL's divergence over the whole vocabulary (trl 1.16)."""
CPU_TILE, DEVICE_TILE = (512, 4096), (2048, 16384)
"""The same of the objectives that need some tokens alone."""
CPU_TEMPORARIES = 8
"""Copies of a tile that TRL's divergence makes where there is no Triton (read from trl 1.16)."""
LOGIT_COPIES = 3
"""Logits of the whole vocabulary in float32: as they come, as probabilities, as gradient or sorted."""


def sampling(plan: Plan) -> dict[str, int]:
    """Return what sampling a batch of rollouts takes; nothing where vLLM does it."""
    if not plan.rollouts or plan.vllm_share:
        return {}
    text, lengths = plan.student.text, plan.lengths
    whole = Batch(plan.rollouts, lengths.prompt + lengths.response)
    prompts = Batch(plan.rollouts, lengths.prompt)
    return {
        "KV cache": activations.cache(text, whole, plan.numbers),
        # The prompts go through before the cache has grown; a generous but small addition.
        "logits and prompts": 4 * LOGIT_COPIES * plan.rollouts * text.vocabulary
        + activations.forward_workspace(text, prompts, plan.numbers),
    }


def scoring(plan: Plan) -> dict[str, int]:
    """Return what the student's forward keeps while the teacher looks at the same tokens."""
    passing = [_teacher_workspace(plan, one) for one in plan.teachers_here.values()]
    return {
        **_kept(plan),
        "one layer of the teacher": 0 if plan.kind in GIVEN else max(passing, default=0),
        "gradients": _earlier_gradients(plan),
    }


def loss(plan: Plan) -> dict[str, int]:
    """Return what there is while the loss becomes gradients of hidden states and output head."""
    states = 2 * 4 * plan.micro * plan.lengths.response * plan.student.text.hidden
    return {
        **_kept(plan),
        "logits": _logits(plan) + states,
        "gradient of the output head": _head_gradient(plan),
        "gradients": _earlier_gradients(plan),
    }


def last_layer(plan: Plan) -> dict[str, int]:
    """Return what there is while the last layer, the first that backward comes to, goes backward."""
    masked, again = plan.masked is not None, plan.checkpointing
    # A mask's share of the head's gradient is gathered, unless the embedding's is still to come.
    head = 0 if masked and not plan.student.tied else _head_gradient(plan)
    gathered = 4 * plan.trained.get(plan.student.head or "", 0) + _largest_gradient(plan)
    return {
        **_kept(plan),
        "the layer's own": _layer_gradients(plan) + (_layer_saved(plan) if again else 0),
        "gradient of the output head": head,
        "gradients": _earlier_gradients(plan) + (gathered if masked else 0),
    }


def first_layer(plan: Plan) -> dict[str, int]:
    """Return what there is while the first layer, the last that backward comes to, goes backward."""
    masked = plan.masked is not None
    # A tied embedding's gradient as a head is kept until that of its look-ups is there as well, which
    # a full run counts among all gradients.
    tied = _head_gradient(plan) * (2 if masked else 1) if plan.student.tied else 0
    return {
        "the layer's own": _layer_gradients(plan) + _layer_saved(plan),
        "gradient of the output head": tied,
        "gradients": _gradients(plan) + (_largest_gradient(plan) if masked and not tied else 0),
    }


def update(plan: Plan) -> dict[str, int]:
    """Return all gradients, and what the optimizer computes on the way."""
    return {"gradients": _gradients(plan), "the optimizer's temporaries": _temporaries(plan)}


def _kept(plan: Plan) -> dict[str, int]:
    """What the student's forward leaves until its backward."""
    kept = activations.saved(
        plan.student.text, plan.batch, plan.numbers, checkpointing=plan.checkpointing
    )
    vision, images = plan.student.vision, plan.lengths.image_tokens
    if vision is not None and any(block_of(name) == "vision" for name in plan.trained):
        patches = plan.micro * images * vision.patches_per_token
        kept += activations.vision_saved(vision, patches, plan.numbers)
    casts = 0
    if plan.numbers == "autocast":  # of trained weights, so that they are cast once a forward
        linear = plan.student.linear
        casts = 2 * sum(plan.student.numels[name] for name in plan.trained if name in linear)
    return {"activations": kept, "16-bit copies of weights": casts}


def _teacher_workspace(plan: Plan, teacher: PlannedTeacher) -> int:
    length = plan.lengths.teacher_prompt + plan.lengths.response
    numbers = numbers_of(teacher.settings.dtype, autocast=plan.autocast)
    return activations.forward_workspace(teacher.shape.text, Batch(plan.micro, length), numbers)


def _logits(plan: Plan) -> int:
    """Return the bytes of logits that exist at once."""
    vocabulary = plan.student.text.vocabulary
    tokens = plan.micro * plan.lengths.response
    if plan.kind in (*GIVEN, "grpo"):  # TRL's trainers of these make them whole
        rows = plan.batch.tokens if plan.kind in GIVEN else tokens
        return 4 * LOGIT_COPIES * rows * vocabulary
    cpu = plan.device == "cpu"
    if plan.kind in FULL:
        rows, columns = FULL_TILE
        # Pages of a CPU's buffer that no logit is written to take no memory.
        width = min(columns, vocabulary) if cpu else columns
        copies = 2 + (CPU_TEMPORARIES if cpu else 0)
    else:
        rows, columns = CPU_TILE if cpu else DEVICE_TILE
        width, copies = min(columns, vocabulary), 2
    # The tile's part of the head is cast to the dtype of products, which a CPU cannot mix.
    cast = {"float32": 0, "half": 4 if cpu else 0, "autocast": 4 if cpu else 2}[plan.numbers]
    part = cast * min(columns, vocabulary) * plan.student.text.hidden
    return 4 * copies * min(rows, tokens) * width + part


def _head_gradient(plan: Plan) -> int:
    if not plan.trains_head:
        return 0
    each = 4 if plan.kind in FULL else BYTES[plan.dtype]
    return each * plan.student.numels[plan.student.head or ""]


def _earlier_gradients(plan: Plan) -> int:
    """Return the bytes that earlier passes of the same update left."""
    return _gradients(plan) if plan.accumulation > 1 else 0


def _gradients(plan: Plan) -> int:
    """Return the bytes of all gradients; those of a mask's coordinates are gathered in float32."""
    return plan.k * (BYTES[plan.dtype] if plan.masked is None else 4)


def _largest_gradient(plan: Plan) -> int:
    """Return the bytes of the largest gradient that is dense for a moment, the head's own apart."""
    numels, head = plan.student.numels, plan.student.head
    others = [numels[name] for name in plan.trained if name != head]
    return BYTES[plan.dtype] * max(others, default=0)


def _layer_saved(plan: Plan) -> int:
    return activations.layer_saved(plan.student.text, plan.batch, plan.numbers)


def _layer_gradients(plan: Plan) -> int:
    return activations.backward_workspace(plan.student.text, plan.batch, plan.numbers)


def _temporaries(plan: Plan) -> int:
    """Return what a step computes on the way: on a CPU of one tensor at a time, elsewhere of all."""
    if plan.optimizer.name.endswith("8bit") or not plan.trained:
        return 0
    return 4 * (2 * max(plan.trained.values()) if plan.device == "cpu" else plan.k)
