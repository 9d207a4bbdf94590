"""Sparse adapters on models in memory, under PEFT: importing this makes them known to it.

import sparseopd.adapters
model = PeftModel.from_pretrained(base, "adapter_dir")
"""

from sparseopd.adapters.config import SparseConfig
from sparseopd.adapters.layer import SparseLayer
from sparseopd.adapters.model import SparseModel
from sparseopd.adapters.registration import register
from sparseopd.adapters.weighted import Conflicts

__all__ = ["Conflicts", "SparseConfig", "SparseLayer", "SparseModel"]

register()
