"""A stopping criterion that watches a generation from inside: its first token, and whether it has been cancelled."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class CancelCriterion(StoppingCriteria):  # type: ignore[misc]
    """Stops every row as soon as `cancelled` is set.

    Attributes:
        first_token_at: time.perf_counter() when the first token was there, or None.
    """

    def __init__(self, cancelled: threading.Event | None = None) -> None:
        self.cancelled = cancelled
        self.first_token_at: float | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool [rows]: whether to stop."""
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        stop = self.cancelled is not None and self.cancelled.is_set()
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)
