"""Independent pieces of a torch computation on the processor's cores, one piece a thread.

torch would spread every small operator over all cores and wait for the slowest after each of them, which on a
machine with other work stalls thousands of times per call. A thread that keeps a whole piece to itself waits once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

# Starting threads takes about as long as this many multiply-adds.
SMALL_WORK = 2**22


def threads_for(pieces: int, work: int, device: torch.device) -> int:
    """How many threads so many pieces, together of `work` multiply-adds, run in: one on anything but a CPU."""
    return min(torch.get_num_threads(), pieces) if device.type == "cpu" and work > SMALL_WORK else 1


def run_pieces(pieces: Sequence[Callable[[], None]], work: int, device: torch.device) -> None:
    """Run all pieces and return when the last is done; an error in one is raised here.

    On a CPU with more than one torch thread, and enough `work` to start them for, the pieces run side by side, each
    in one thread; elsewhere one after the other. Pieces must write to different places.
    """
    threads = threads_for(len(pieces), work, device)
    if threads <= 1:
        for piece in pieces:
            piece()
        return
    own_threads = torch.get_num_threads()
    # torch keeps these modes per thread.
    inference = torch.is_inference_mode_enabled()

    def run(piece: Callable[[], None]) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            piece()

    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for outcome in [pool.submit(run, piece) for piece in pieces]:
                outcome.result()
    finally:
        # The count is the thread's own, but the last one set is also what new threads start with.
        torch.set_num_threads(own_threads)
