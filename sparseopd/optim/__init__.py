"""The masked optimizer: train k coordinates of a model with any torch optimizer.

# optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
optimizer = sparseopd.MaskedOptimizer(model, mask, torch.optim.AdamW, lr=1e-6)

    masked       MaskedOptimizer: step, clip, resume
    compact      one weight's k-vector: gather, write back
    build        from model and mask to k-vectors; attach hangs the hooks on the model
    inner        the optimizer over the k-vectors; groups gives some of them other settings
    gradients    norms of what was gathered
    shards       FSDP2: which coordinates lie in this process
    replicas     DDP: gradients averaged as k-vectors
    rounding     stochastic rounding into bf16 and fp16
    state        what is saved, by parameter name
    telemetry    what a step looks like from inside
"""

from sparseopd.optim.masked import MaskedOptimizer

__all__ = ["MaskedOptimizer"]
