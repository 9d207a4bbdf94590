"""The masked optimizer: train k coordinates of a model with any torch optimizer.

# optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
optimizer = sparseopd.MaskedOptimizer(model, mask, torch.optim.AdamW, lr=1e-6)
"""

from sparseopd.optim.masked import MaskedOptimizer

__all__ = ["MaskedOptimizer"]
