/* Micro-benchmarks: what the units of a multiprocessor do at most, and how fast memory is copied.
 * Operands stay in registers; results are written, so that nothing is left out, and can be checked.
 * An operand has rows of 8 words: 256 bits, 32 bytes or 16 bfloat16. */
#include "ptx.cuh"

enum { ROW_WORDS = 8, N_CHAINS = 8, N_POPC_CHAINS = 16, COPIES = 4 };

/* Product that a machine without such an instruction would only emulate is left out. */
#if defined(BITSPIN_SHIM) || __CUDA_ARCH__ < 1000
#define HAS_B1 1
#endif

struct B1 {
    typedef i32 Sum;
#ifdef HAS_B1
    DEVICE void product(i32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_b1_and(c, a, b); }
#endif
};
struct S8 {
    typedef i32 Sum;
    DEVICE void product(i32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_s8(c, a, b); }
};
struct Bf16 {
    typedef float Sum;
    DEVICE void product(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_bf16(c, a, b); }
};

/* Every warp: n_loops times 8 independent products of the same 16 rows of a and 8 rows of b.
 * result[thread][i] is the sum of the 8 accumulators c[i]. 16 warps a multiprocessor with 8 chains
 * each hide the latency of the tensor cores, some 33 cycles. */
template <typename Kind>
DEVICE void probe_mma(i32 n_loops, const u32 *a, const u32 *b, typename Kind::Sum *result)
{
    const i32 group = lane_number() / 4, t = lane_number() % 4;
    const u32 *row = a + group * ROW_WORDS + t, *column = b + group * ROW_WORDS + t;
    const u32 rows[4] = {row[0], row[8 * ROW_WORDS], row[4], row[8 * ROW_WORDS + 4]};
    const u32 columns[2] = {column[0], column[4]};
    typename Kind::Sum c[N_CHAINS][4];
#pragma unroll
    for (int chain = 0; chain < N_CHAINS; chain++)
#pragma unroll
        for (int i = 0; i < 4; i++) c[chain][i] = 0;
    for (i32 loop = 0; loop < n_loops; loop++)
#pragma unroll
        for (int chain = 0; chain < N_CHAINS; chain++) Kind::product(c[chain], rows, columns);
    typename Kind::Sum *mine = result + ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        typename Kind::Sum sum = 0;
#pragma unroll
        for (int chain = 0; chain < N_CHAINS; chain++) sum += c[chain][i];
        mine[i] = sum;
    }
}

#ifdef HAS_B1
KERNEL(256, 2) probe_mma_b1(i32 n_loops, const u32 *a, const u32 *b, i32 *result)
{
    probe_mma<B1>(n_loops, a, b, result);
}
#endif

KERNEL(256, 2) probe_mma_s8(i32 n_loops, const u32 *a, const u32 *b, i32 *result)
{
    probe_mma<S8>(n_loops, a, b, result);
}

KERNEL(256, 2) probe_mma_bf16(i32 n_loops, const u32 *a, const u32 *b, float *result)
{
    probe_mma<Bf16>(n_loops, a, b, result);
}

/* Every thread: n_loops times 16 independent chains of sum += popc(x ^ y), 32 bits each; y grows by
 * an odd number, which costs one addition in 16. x: 32 x 16 words, of lane and chain. */
KERNEL(256, 4) probe_popc(i32 n_loops, const u32 *x, u32 y, u32 step, i32 *result)
{
    u32 words[N_POPC_CHAINS];
    i32 sums[N_POPC_CHAINS];
#pragma unroll
    for (int chain = 0; chain < N_POPC_CHAINS; chain++) {
        words[chain] = x[lane_number() * N_POPC_CHAINS + chain];
        sums[chain] = 0;
    }
    for (i32 loop = 0; loop < n_loops; loop++, y += step)
#pragma unroll
        for (int chain = 0; chain < N_POPC_CHAINS; chain++) sums[chain] += __popc(words[chain] ^ y);
    i32 sum = 0;
#pragma unroll
    for (int chain = 0; chain < N_POPC_CHAINS; chain++) sum += sums[chain];
    result[(i64)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

/* 16 bytes a lane, four loads under way in each thread; n_words is a multiple of 4. */
KERNEL(256, 8) probe_copy(const u32 *from, u32 *to, i64 n_words)
{
    const i64 n = n_words / 4, first = (i64)blockIdx.x * (COPIES * 256) + threadIdx.x;
    uint4 vectors[COPIES];
#pragma unroll
    for (int i = 0; i < COPIES; i++)
        if (first + i * 256 < n) vectors[i] = ((const uint4 *)from)[first + i * 256];
#pragma unroll
    for (int i = 0; i < COPIES; i++)
        if (first + i * 256 < n) ((uint4 *)to)[first + i * 256] = vectors[i];
}
