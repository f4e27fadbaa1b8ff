"""The highest rate of float32 multiply-adds that one core reaches, as a yardstick for networks."""

import ctypes
import os
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

# Twelve independent accumulators hide the latency of a fused multiply-add (4 cycles on 2 units need 8) and
# fit into the 16 vector registers of AVX2.
SOURCE = """
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define COUNT 12
typedef float vector __attribute__((vector_size(BYTES)));

/* Returns the number of multiply-adds. */
long run(long rounds, float *result) {
    vector sums[COUNT] = {{0}}, factor = {0}, addend = {0};
    for (int i = 0; i < BYTES / 4; i++) { factor[i] = 0.5f; addend[i] = 1.0f + result[0]; }
    for (long round = 0; round < rounds; round++) {
        #pragma GCC unroll 12
        for (int i = 0; i < COUNT; i++) sums[i] = sums[i] * factor + addend;
    }
    for (int i = 1; i < COUNT; i++) sums[0] += sums[i];
    result[0] = sums[0][0];
    return rounds * COUNT * (BYTES / 4);
}
"""


def fma_gmadds(*, seconds: float = 1.0) -> float | None:
    """Billions of float32 multiply-adds per second in a loop of fused multiply-adds, on one thread.

    The loop reads no memory, so no real network can exceed this rate on one core. None without a C compiler.
    """
    library = compiled()
    if library is None:
        return None
    result, best, until = ctypes.c_float(0.0), 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        result.value = 0.0
        start = time.perf_counter()
        done = library.run(1_000_000, ctypes.byref(result))
        best = max(best, done / (time.perf_counter() - start) / 1e9)
    return best


def compiled() -> ctypes.CDLL | None:
    """The loop, compiled for this CPU by `cc` or the compiler that the environment variable CC names.

    None if there is no compiler, or it cannot compile for this CPU.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    with TemporaryDirectory() as folder:
        source, binary = Path(folder, "peak.c"), Path(folder, "peak.so")
        source.write_text(SOURCE)
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        if subprocess.run([compiler, *flags, str(source), "-o", str(binary)]).returncode:
            return None
        library = ctypes.CDLL(str(binary))
    library.run.restype, library.run.argtypes = ctypes.c_long, [ctypes.c_long, ctypes.POINTER(ctypes.c_float)]
    return library
