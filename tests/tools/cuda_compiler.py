"""Compile small CUDA files with a real nvcc, where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = """
__global__ void scale(float *x, int n)
{
    for (int i = 0; i < n; i++)
        x[threadIdx.x] = x[threadIdx.x] * 2.0f + i;
}

extern "C" int run(float *x)
{
    scale<<<1, 32>>>(x, 5);
    return (int)cudaGetLastError();
}

#ifdef PROGRAM
int main() { return run(0) != 0; }
#endif
"""


def find() -> str | None:
    """Return the nvcc of the PATH or of the usual place, or None."""
    usual = "/usr/local/cuda/bin/nvcc"
    return shutil.which("nvcc") or (usual if os.access(usual, os.X_OK) else None)


def supports(nvcc: str, *architectures: str) -> bool:
    """Tell whether this release of nvcc compiles for all of `architectures` (`compute_80`)."""
    done = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True)
    return set(architectures) <= set(done.stdout.split())


def compile_cuda(nvcc: str, output: Path, *options: str) -> Path:
    """Compile SOURCE to `output`; raises RuntimeError with nvcc's own words."""
    source = output.with_suffix(".cu")
    source.write_text(SOURCE)
    command = [nvcc, *options, "-o", str(output), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return output
