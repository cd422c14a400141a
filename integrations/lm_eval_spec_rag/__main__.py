"""The harness's own command line, with the model "spec-rag" known to it."""

from lm_eval.__main__ import cli_evaluate

import lm_eval_spec_rag  # noqa: F401  (registers the model)

cli_evaluate()
