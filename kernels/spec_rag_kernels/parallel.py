"""Independent pieces of a torch computation on the CPU, one piece per thread.

torch parallelizes within each operator and synchronizes all cores after it, which stalls thousands of times per call on
a busy machine. Whole pieces per thread synchronize once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

# Starting threads takes about as long as this many multiply-adds.
SMALL_WORK = 2**22


def threads_for(pieces: int, work: int, device: torch.device) -> int:
    """Number of threads for `pieces` pieces of `work` multiply-adds in total; 1 unless on a CPU."""
    return min(torch.get_num_threads(), pieces) if device.type == "cpu" and work > SMALL_WORK else 1


def run_pieces(pieces: Sequence[Callable[[], None]], work: int, device: torch.device) -> None:
    """Run all pieces, then return; an error in a piece is raised here.

    The pieces run in parallel, one thread each, on a CPU with more than one torch thread and enough `work`; otherwise
    sequentially. Pieces must write to disjoint memory.
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
