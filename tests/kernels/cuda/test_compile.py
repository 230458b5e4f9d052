"""Every source for every architecture: it compiles, calls nothing, spills nothing, fits."""

import pytest

from kernels.cuda_compile import ARCHITECTURES, machine_code
from kernels.cuda_source import cuda_source, source_names
from kernels.errors import BackendUnavailable

N_REGISTERS = 65536
"""Of a multiprocessor."""
_WGMMA = ("matmul_wgmma", "probes_wgmma")


def is_lacking(source: str, kernel: str, architecture: str) -> bool:
    """Whether the instructions of a kernel are not those of the architecture.

    wgmma is Hopper's alone; bits on the tensor cores (mma and popc) ended with it.
    """
    if source in _WGMMA:
        return architecture != "sm_90a"
    return architecture == "sm_100" and "_b1" in kernel


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", source_names())
def test_every_kernel_compiles_within_its_budget(source, architecture):
    try:
        code = machine_code(source, architecture)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    declared = cuda_source(source).kernels
    assert declared
    assert list(code) == [k for k in declared if not is_lacking(source, k, architecture)]
    for name, kernel in code.items():
        signature = declared[name]
        assert signature.n_threads % 32 == 0
        assert 32 <= signature.n_threads <= 1024
        assert kernel.count("EXIT") > 0
        assert kernel.count("CALL") == 0, name
        assert kernel.stack_bytes == 0, name
        allocated = -(-kernel.n_registers // 8) * 8  # to a warp, by eight to a thread
        assert allocated * signature.n_threads <= N_REGISTERS // signature.n_blocks, name
