"""Independent pieces of a torch computation on the processor's cores, one piece a thread.

torch would spread every small operator over all cores and wait for the slowest after each of them, which on a
machine with other work stalls thousands of times per call. A thread that keeps a whole piece to itself waits once.
"""

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

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
    # torch keeps these modes per thread.
    inference = torch.is_inference_mode_enabled()

    def run(piece: Callable[[], None]) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            piece()

    with ThreadPoolExecutor(threads, initializer=_work_alone) as pool:
        for outcome in [pool.submit(run, piece) for piece in pieces]:
            outcome.result()


def _work_alone() -> None:
    """Run this thread's operators in this thread alone.

    `torch.set_num_threads` would also change the count that every thread of the process starts with. The libraries
    under torch know a count of the calling thread.
    """
    torch.get_num_threads()  # torch sets a thread's counts on its first use
    for set_threads in _setters_of_thread():
        set_threads(1)


@cache
def _setters_of_thread() -> tuple[Callable[[int], object], ...]:
    """OpenMP's and MKL's functions that set the threads of the calling thread, as far as torch is built on them."""
    found: list[Callable[[int], object]] = []
    with suppress(OSError):
        libraries = Path(torch.__file__).parent / "lib"
        library = ctypes.CDLL(str(next(iter(libraries.glob("*torch_cpu.*")), "")))
        for name in ("omp_set_num_threads", "MKL_Set_Num_Threads_Local"):
            with suppress(AttributeError):
                found.append(getattr(library, name))
    return tuple(found)
