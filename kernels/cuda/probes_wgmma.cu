/* Micro-benchmarks of a warpgroup's products, as kernels/cuda/probes.cu; sm_90a only. */
#include "wgmma.cuh"

#ifdef HAS_WGMMA

enum { PRODUCTS = 4, A_BYTES = WGMMA_ROWS * 32, B_BYTES = WGMMA_COLUMNS * 32 };

struct B1 {
    typedef i32 Sum;
    DEVICE void product(i32 (&d)[WGMMA_REGISTERS], u64 a, u64 b) { wgmma_b1_and(d, a, b); }
};
struct S8 {
    typedef i32 Sum;
    DEVICE void product(i32 (&d)[WGMMA_REGISTERS], u64 a, u64 b) { wgmma_s8(d, a, b); }
};
struct Bf16 {
    typedef float Sum;
    DEVICE void product(float (&d)[WGMMA_REGISTERS], u64 a, u64 b) { wgmma_bf16(d, a, b); }
};

/* Every warpgroup: n_loops times 4 products of the same 64 rows of a and 256 rows of b, both as
 * panels of rows of 8 words. result[warpgroup][row][column], int32 or float. Two warpgroups a
 * multiprocessor, as many as their accumulators leave room for, keep the tensor cores busy. */
template <typename Kind>
DEVICE void probe_wgmma(i32 n_loops, const u32 *a, const u32 *b, typename Kind::Sum *result)
{
    u8 *shared_a = shared_memory(), *shared_b = shared_a + A_BYTES;
    for (i32 i = (i32)threadIdx.x; i < A_BYTES / 4; i += (i32)blockDim.x)
        ((u32 *)shared_a)[i] = a[i];
    for (i32 i = (i32)threadIdx.x; i < B_BYTES / 4; i += (i32)blockDim.x)
        ((u32 *)shared_b)[i] = b[i];
    proxy_fence();
    __syncthreads();
    const u64 rows = matrix_descriptor(shared_a, 128, 256, CORE_MATRICES);
    const u64 columns = matrix_descriptor(shared_b, 128, 256, CORE_MATRICES);
    typename Kind::Sum d[WGMMA_REGISTERS];
#pragma unroll
    for (int i = 0; i < WGMMA_REGISTERS; i++) d[i] = 0;
    for (i32 loop = 0; loop < n_loops; loop++) {
        warpgroup_fence();
#pragma unroll
        for (int i = 0; i < PRODUCTS; i++) Kind::product(d, rows, columns);
        warpgroup_commit();
        warpgroup_wait<1>();
    }
    warpgroup_wait<0>();
    const i64 warpgroup = (i64)blockIdx.x * (blockDim.x / WARPGROUP) + threadIdx.x / WARPGROUP;
    const i32 row = warp_number() % 4 * 16 + lane_number() / 4, column = lane_number() % 4 * 2;
    typename Kind::Sum *mine = result + (warpgroup * WGMMA_ROWS + row) * WGMMA_COLUMNS + column;
#pragma unroll
    for (int i = 0; i < WGMMA_REGISTERS; i++)
        mine[i / 2 % 2 * 8 * WGMMA_COLUMNS + i / 4 * 8 + i % 2] = d[i];
}

KERNEL(256, 1) probe_wgmma_b1(i32 n_loops, const u32 *a, const u32 *b, i32 *result)
{
    probe_wgmma<B1>(n_loops, a, b, result);
}

KERNEL(256, 1) probe_wgmma_s8(i32 n_loops, const u32 *a, const u32 *b, i32 *result)
{
    probe_wgmma<S8>(n_loops, a, b, result);
}

KERNEL(256, 1) probe_wgmma_bf16(i32 n_loops, const u32 *a, const u32 *b, float *result)
{
    probe_wgmma<Bf16>(n_loops, a, b, result);
}
#endif
