"""vertical_slash_attention in plain torch for any device: blocks of queries against the keys that they attend to.

The query heads of one KV head are stacked as rows. A block multiplies with the columns left of its band and with the
band, a slice of the keys. Columns inside the slice stay visible to the rows whose own band starts after them.
"""

from bisect import bisect_left
from functools import partial

import torch
from torch import Tensor

from spec_rag_kernels.checks import compute_dtype
from spec_rag_kernels.parallel import run_pieces, threads_for
from spec_rag_kernels.vertical_slash_attention.request import VerticalSlashRequest

# Rows of one product, over all query heads of a KV head: enough to amortize reading the keys, few enough for the
# CPU cache.
ROWS_PER_BLOCK = 768
MIN_QUERIES_PER_BLOCK = 64
MASKED = float("-inf")


def vertical_slash_attention_chunked(request: VerticalSlashRequest) -> Tensor:
    """[b, h, n, d] in query's dtype; about ROWS_PER_BLOCK x (v + slash + ROWS_PER_BLOCK / group) floats per thread."""
    r = request
    batch, _, tokens, _ = r.query.shape
    out = torch.empty_like(r.query, memory_format=torch.contiguous_format)
    heads = [(row, key_head) for row in range(batch) for key_head in range(r.key.shape[1])]
    # At least two pieces per thread balance the load; each piece gathers the columns of its head again.
    work = 2 * r.query.numel() * (r.band + r.sorted_columns.shape[2])
    threads = threads_for(tokens, work, r.query.device)
    pieces_per_head = 1 if threads == 1 else -(-2 * threads // len(heads))
    step = -(-tokens // pieces_per_head)
    run_pieces(
        [
            partial(_attend_range, r, row, key_head, start, min(start + step, tokens), out)
            for start in range(0, tokens, step)
            for row, key_head in heads
        ],
        work,
        r.query.device,
    )
    return out


def _attend_range(r: VerticalSlashRequest, row: int, key_head: int, first: int, last: int, out: Tensor) -> None:
    head = _KeyHead(r, row, key_head)
    for start in range(first, last, head.queries_per_block):
        stop = min(start + head.queries_per_block, last)
        out[row, head.query_heads, start:stop] = head.attend(start, stop).to(out.dtype)


class _KeyHead:
    """One KV head of one batch row with its gathered columns, and the query heads that share it."""

    def __init__(self, r: VerticalSlashRequest, row: int, key_head: int) -> None:
        self.r = r
        self.row = row
        dtype = compute_dtype(r.query)
        self.key, self.value = r.key[row, key_head].to(dtype), r.value[row, key_head].to(dtype)
        self.key_mask = None if r.key_mask is None else r.key_mask[row]
        if self.key_mask is not None:
            # Padding may hold NaN, which a weight of zero does not remove.
            self.value = self.value.masked_fill(~self.key_mask[:, None], 0.0)
        self.columns = r.sorted_columns[row, key_head]
        self.column_key, self.column_value = self.key[self.columns], self.value[self.columns]
        self.is_column = torch.zeros(self.key.shape[0], dtype=torch.bool, device=self.key.device)
        self.is_column[self.columns] = True
        self.column_list = self.columns.tolist()
        self.query_heads = slice(key_head * r.group, (key_head + 1) * r.group)
        self.queries_per_block = min(self.key.shape[0], max(MIN_QUERIES_PER_BLOCK, ROWS_PER_BLOCK // r.group))
        longest = min(self.key.shape[0], r.band + self.queries_per_block - 1) + len(self.column_list) + 1
        self.buffer = torch.empty(r.group * self.queries_per_block * longest, dtype=dtype, device=self.key.device)

    def attend(self, start: int, stop: int) -> Tensor:
        """[group, queries, d]: the attention of queries [start, stop)."""
        r, queries = self.r, stop - start
        band = max(0, start - r.band + 1)
        first, last = self._columns_between(start, band)
        columns, width = last - first, last - first + stop - band
        rows = (self.r.query[self.row, self.query_heads, start:stop].to(self.key.dtype) * r.scaling).flatten(0, 1)
        flat = self.buffer[: rows.shape[0] * (width + 1)].view(rows.shape[0], width + 1)
        if r.sinks is None:
            flat = self.buffer[: rows.shape[0] * width].view(rows.shape[0], width)
        torch.mm(rows, self.column_key[first:last].T, out=flat[:, :columns])
        torch.mm(rows, self.key[band:stop].T, out=flat[:, columns:width])
        if r.softcap is not None:
            flat.div_(r.softcap).tanh_().mul_(r.softcap)
        self._mask(flat.view(r.group, queries, -1), start, stop, band, first, last)
        if r.sinks is not None:
            flat.view(r.group, queries, -1)[..., -1] = r.sinks[self.query_heads].to(flat.dtype)[:, None]
        # Only padding can leave a query without keys: its own key is always in the band.
        empty = flat.amax(-1) == MASKED if self.key_mask is not None and r.sinks is None else None
        torch.softmax(flat, dim=-1, out=flat)
        out = torch.mm(flat[:, columns:width], self.value[band:stop])
        if columns:
            out.addmm_(flat[:, :columns], self.column_value[first:last])
        if empty is not None:
            out.masked_fill_(empty[:, None], 0.0)
        return out.view(r.group, queries, -1)

    def _columns_between(self, start: int, band: int) -> tuple[int, int]:
        """The half-open range of sorted columns left of the band and inside at least one query's sliding window."""
        oldest = 0 if self.r.sliding_window is None else max(0, start - self.r.sliding_window + 1)
        last = bisect_left(self.column_list, band)
        return min(bisect_left(self.column_list, oldest), last), last

    def _mask(self, logits: Tensor, start: int, stop: int, band: int, first: int, last: int) -> None:
        """Mask logits [group, queries, columns + band] with the causal, band, sliding window and padding masks."""
        r, device = self.r, logits.device
        columns, width = last - first, last - first + stop - band
        position = torch.arange(start, stop, device=device)[:, None]
        # The causal mask affects only the last keys of the slice, the left edge of the band only the first.
        later = torch.arange(start, stop, device=device) > position
        logits[..., columns + start - band : width].masked_fill_(later, MASKED)
        edge = min(stop, max(band, stop - r.band))
        if edge > band:
            key_position = torch.arange(band, edge, device=device)
            outside = (key_position <= position - r.band) & ~self.is_column[band:edge]
            logits[..., columns : columns + edge - band].masked_fill_(outside, MASKED)
        if r.sliding_window is not None:
            key_position = torch.cat([self.columns[first:last], torch.arange(band, stop, device=device)])
            logits[..., :width].masked_fill_(position - key_position >= r.sliding_window, MASKED)
        if self.key_mask is not None:
            missing = ~torch.cat([self.key_mask[self.columns[first:last]], self.key_mask[band:stop]])
            logits[..., :width].masked_fill_(missing, MASKED)
