"""How a checkpoint is loaded, as values: checked, written plainly, and read back."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from spec_rag.errors import ConfigError, unknown_field
from spec_rag.options.loading import LoadOptions


def test_what_differs_from_the_defaults_is_written_as_json_can_hold_it_and_read_back() -> None:
    options = LoadOptions(device="cpu", dtype=torch.bfloat16, revision="v1", attn_implementation="eager")
    written = json.loads(json.dumps(options.to_dict()))
    assert written == {"device": "cpu", "dtype": "bfloat16", "revision": "v1", "attn_implementation": "eager"}
    assert LoadOptions.from_dict(written).to_dict() == written
    assert LoadOptions().to_dict() == {}


def test_a_quantisation_config_is_written_as_its_dict() -> None:
    class Config:
        def to_dict(self) -> dict[str, Any]:
            return {"bits": 4}

    assert LoadOptions(quantization_config=Config()).to_dict() == {"quantization_config": {"bits": 4}}


def test_a_dict_cannot_switch_on_remote_code_unless_it_is_trusted() -> None:
    with pytest.raises(ConfigError, match="trust_remote_code=True runs code"):
        LoadOptions.from_dict({"trust_remote_code": True})
    assert LoadOptions.from_dict({"trust_remote_code": True}, trusted=True).trust_remote_code
    assert not LoadOptions.from_dict({"trust_remote_code": False}).trust_remote_code


def test_a_misspelt_option_is_answered_with_the_near_one() -> None:
    with pytest.raises(ConfigError, match="no field 'devise': did you mean 'device'"):
        LoadOptions.from_dict({"devise": "cpu"})


def test_the_former_option_quantize_is_named_as_unknown() -> None:
    with pytest.raises(ConfigError, match="LoadOptions has no field 'quantize'"):
        LoadOptions.from_dict({"quantize": "int8"})


def test_a_field_that_resembles_none_is_answered_with_all() -> None:
    assert "no field 'xyz': its fields are alpha, beta." in str(unknown_field("Config", "xyz", ["beta", "alpha"]))


def test_from_pretrained_is_always_told_whether_to_run_code() -> None:
    assert LoadOptions().from_pretrained_arguments()["trust_remote_code"] is False
    trusting = LoadOptions(trust_remote_code=True, dtype="float16", attn_implementation="eager")
    assert trusting.from_pretrained_arguments() == {
        "trust_remote_code": True,
        "dtype": torch.float16,
        "attn_implementation": "eager",
    }


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is an accelerator")
def test_on_a_cpu_weights_are_float32_unless_something_else_is_asked_for() -> None:
    assert LoadOptions().resolved_device() == "cpu"
    assert LoadOptions().from_pretrained_arguments()["dtype"] is torch.float32
    assert LoadOptions(dtype="auto").from_pretrained_arguments()["dtype"] == "auto"
    assert LoadOptions(device_map="auto").from_pretrained_arguments()["dtype"] == "auto"


def test_a_draft_that_is_the_target_is_loaded_like_the_target_and_so_once() -> None:
    of_target, own = LoadOptions(dtype="bfloat16"), LoadOptions(device="cpu")
    assert LoadOptions.of_draft("m", None, "m", of_target) is of_target
    assert LoadOptions.of_draft("m", own, "m", of_target) is own
    assert LoadOptions.of_draft("d", None, "m", of_target) is None
    assert LoadOptions.of_draft(None, None, "m", of_target) is None


def test_options_are_read_without_loading_torch() -> None:
    code = "import sys; from spec_rag.options.loading import LoadOptions; LoadOptions(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
