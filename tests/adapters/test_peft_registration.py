"""Sparse adapters are known to PEFT, and what was read of its inside is still so."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, mapping
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import hotswap

from sparseopd.adapter_files.format import PEFT_TYPE
from sparseopd.adapters import SparseConfig, SparseLayer, SparseModel
from sparseopd.adapters.registration import register
from tests.adapters.adapted import adapt, loss_of, mask_of, new_values, write_adapter
from tests.conftest import make_qwen3

ROOT = Path(__file__).parents[2]


def imported_by(line: str) -> set[str]:
    """The top-level modules that one line leaves in a new process."""
    code = f"{line}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_importing_the_package_imports_neither_peft_nor_torch() -> None:
    assert not imported_by("import sparseopd") & {"peft", "torch", "transformers"}


def test_peft_knows_configuration_tuner_and_prefix() -> None:
    assert mapping.PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] is SparseConfig  # pyright: ignore
    assert mapping.PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] is SparseModel  # pyright: ignore
    assert mapping.PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] == SparseModel.prefix  # pyright: ignore
    assert PEFT_TYPE in hotswap.CONFIG_KEYS_TO_CHECK


def test_pefts_mappings_are_those_its_public_functions_read() -> None:
    """If PEFT moved them, entering a type there would do nothing."""
    assert mapping.PEFT_TYPE_TO_CONFIG_MAPPING["LORA"] is LoraConfig  # pyright: ignore
    assert "PEFT_TYPE_TO_TUNER_MAPPING" in inspect.getsource(PeftModel.__init__)
    assert "PEFT_TYPE_TO_CONFIG_MAPPING" in inspect.getsource(PeftModel.from_pretrained)
    assert "CONFIG_KEYS_TO_CHECK" in inspect.getsource(hotswap.check_hotswap_configs_compatible)
    assert PEFT_TYPE not in {kind.value for kind in peft.PeftType}


def test_a_saved_configuration_is_read_as_a_sparse_one(tmp_path: Path) -> None:
    base = make_qwen3()
    mask = mask_of(base)
    folder = write_adapter(tmp_path / "adapter", base, mask, new_values(mask, base, 0))
    config = PeftConfig.from_pretrained(folder)
    assert isinstance(config, SparseConfig)
    assert config.k == mask.count()
    assert config.base_model_name_or_path == "base"


def test_registering_again_changes_nothing() -> None:
    before = hotswap.hotswap_adapter_from_state_dict
    register()
    assert hotswap.hotswap_adapter_from_state_dict is before


def fresh_hotswap() -> ModuleType:
    """PEFT's module as it is before anything is registered."""
    spec = importlib.util.spec_from_file_location("peft.utils.hotswap_again", hotswap.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pefts_hot_swap_still_calls_a_function_of_this_signature() -> None:
    fresh = fresh_hotswap()
    names = [*inspect.signature(fresh.hotswap_adapter_from_state_dict).parameters]
    assert names == ["model", "state_dict", "adapter_name", "config", "parameter_prefix"]
    called = inspect.getsource(fresh.hotswap_adapter)
    assert "hotswap_adapter_from_state_dict(\n        model=model" in called


def parameters_of(function: Any) -> dict[str, Any]:
    """The parameters of a function, by name, with their kind."""
    return {name: one.kind for name, one in inspect.signature(function).parameters.items()}


def overridden(ours: type, theirs: type) -> list[str]:
    """The methods of a class that its base has as well."""
    names = [name for name, one in vars(ours).items() if callable(getattr(ours, name, one))]
    return [name for name in names if name in vars(theirs) and not name.startswith("__")]


@pytest.mark.parametrize(
    ("ours", "theirs"), [(SparseModel, BaseTuner), (SparseLayer, BaseTunerLayer)]
)
def test_what_is_overridden_takes_what_pefts_own_takes(ours: type, theirs: type) -> None:
    for name in overridden(ours, theirs):
        if isinstance(vars(ours)[name], type) or name == "_create_and_replace":
            continue
        asked, taken = (parameters_of(getattr(one, name)) for one in (theirs, ours))
        assert [*taken][: len(asked)] == [*asked], name


PRIVATE = {
    SparseModel: (
        "_unload_and_optionally_merge",
        "_enable_adapter_layers",
        "_check_merge_allowed",
        "_cast_adapter_dtype",
        "_create_and_replace",
        "_get_adapter_state_dict",
        "_remap_adapter_state_dict_for_load",
        "_remove_adapter_name_from_key",
    ),
    SparseLayer: (
        "_active_adapter",
        "_disable_adapters",
        "merged_adapters",
        "adapter_layer_names",
        "other_param_names",
        "merge",
        "unmerge",
        "set_requires_grad",
    ),
}
"""What PEFT calls or reads by these names; under others it would do without ours."""


@pytest.mark.parametrize("kind", PRIVATE)
def test_what_peft_calls_behind_the_scenes_is_still_called_so(kind: type) -> None:
    base: type = BaseTuner if kind is SparseModel else BaseTunerLayer
    assert [name for name in PRIVATE[kind] if not hasattr(base, name)] == []


def test_nothing_of_pefts_base_is_left_that_expects_wrapping_layers() -> None:
    """Methods of PEFT's that look for `base_layer` or replace modules must be ours instead."""
    touching = {
        name
        for name, one in vars(BaseTuner).items()
        if inspect.isfunction(one)
        and any(word in inspect.getsource(one) for word in ("base_layer", "_create_and_replace("))
    }
    left = {name for name in touching if getattr(SparseModel, name) is getattr(BaseTuner, name)}
    # These are called by `inject_adapter` and `_unload_and_optionally_merge` alone, which are ours.
    assert left == {"_inject_parameters", "_replace_module"}


def test_a_lora_adapter_works_as_ever_beside_the_registration(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    first, second = (get_peft_model(make_qwen3(), config) for _ in range(2))
    second.save_pretrained(str(tmp_path))
    hotswap.hotswap_adapter(first, str(tmp_path), "default")
    assert loss_of(first).item() == loss_of(second).item()


def test_hot_swapping_another_kind_of_adapter_is_refused(tmp_path: Path) -> None:
    lora = get_peft_model(make_qwen3(), LoraConfig(target_modules=["q_proj"]))
    lora.save_pretrained(str(tmp_path))
    sparse = adapt(base := make_qwen3(), mask_of(base))
    with pytest.raises(ValueError, match="Incompatible PEFT types"):
        hotswap.hotswap_adapter(sparse, str(tmp_path), "default")


def test_the_status_names_the_kind_of_adapter() -> None:
    model = adapt(base := make_qwen3(), mask_of(base))
    assert model.get_model_status().peft_types == {"default": PEFT_TYPE}
