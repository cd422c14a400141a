"""Independent pieces of a torch computation on the CPU, one piece per thread.

torch parallelizes within each operator and synchronizes all cores after it, which stalls thousands of times per call on
a busy machine. Whole pieces per thread synchronize once.
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
