/* The words of CUDA C++ that the kernels use, for a C++ compiler of the CPU. Included by
 * kernels/cuda/device.cuh, whose integer types it uses. */
#ifndef BITSPIN_SHIM_LANGUAGE_H
#define BITSPIN_SHIM_LANGUAGE_H

#include <cmath>
#include <cstring>

#include "threads.h"

/* For what stands for instructions and is no kernel: shim/races.cpp does not watch it. */
#define UNWATCHED __attribute__((no_sanitize_thread))

#define __device__
#define __global__
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define KERNEL(threads, blocks) extern "C" void

#define threadIdx (shim::current->index)
#define blockIdx shim::block_index
#define blockDim shim::block_size
#define gridDim shim::grid_size

struct alignas(8) uint2 {
    u32 x, y;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct alignas(8) int2 {
    i32 x, y;
};
struct alignas(16) int4 {
    i32 x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
DEVICE uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
DEVICE uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
DEVICE int2 make_int2(i32 x, i32 y) { return {x, y}; }
DEVICE int4 make_int4(i32 x, i32 y, i32 z, i32 w) { return {x, y, z, w}; }
DEVICE float2 make_float2(float x, float y) { return {x, y}; }
DEVICE float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

DEVICE u8 *shared_memory() { return shim::shared; }

DEVICE void __syncthreads() { shim::block_barrier(); }

DEVICE void require_all_lanes(u32 lanes)
{
    if (lanes != ALL_LANES) shim::fail("a warp function was not called for all 32 lanes");
}

DEVICE void __syncwarp(u32 lanes = ALL_LANES)
{
    require_all_lanes(lanes);
    shim::warp_barrier();
}

template <typename T> DEVICE T __shfl_sync(u32 lanes, T value, int from)
{
    require_all_lanes(lanes);
    std::memcpy(&value, shim::exchange(&value, sizeof value)[from & (WARP - 1)], sizeof value);
    return value;
}

template <typename T> DEVICE T __shfl_xor_sync(u32 lanes, T value, int mask)
{
    return __shfl_sync(lanes, value, (int)(threadIdx.x % WARP) ^ mask);
}

template <typename T> DEVICE T __shfl_down_sync(u32 lanes, T value, u32 delta)
{
    const u32 from = threadIdx.x % WARP + delta;
    return __shfl_sync(lanes, value, from < WARP ? (int)from : (int)(threadIdx.x % WARP));
}

template <typename T> DEVICE T __shfl_up_sync(u32 lanes, T value, u32 delta)
{
    const u32 lane = threadIdx.x % WARP;
    return __shfl_sync(lanes, value, (int)(lane >= delta ? lane - delta : lane));
}

DEVICE u32 __ballot_sync(u32 lanes, int predicate)
{
    const u8 mine = predicate != 0;
    require_all_lanes(lanes);
    const shim::Operand *all = shim::exchange(&mine, sizeof mine);
    u32 bits = 0;
    for (int lane = 0; lane < WARP; lane++) bits |= (u32)*all[lane] << lane;
    return bits;
}

DEVICE int __any_sync(u32 lanes, int predicate) { return __ballot_sync(lanes, predicate) != 0; }
DEVICE int __all_sync(u32 lanes, int predicate)
{
    return __ballot_sync(lanes, predicate) == ALL_LANES;
}

DEVICE int __popc(u32 x) { return __builtin_popcount(x); }
DEVICE int __popcll(u64 x) { return __builtin_popcountll(x); }
DEVICE int __clz(i32 x) { return x == 0 ? 32 : __builtin_clz((u32)x); }
DEVICE int __ffs(i32 x) { return __builtin_ffs(x); }
DEVICE u32 __umulhi(u32 a, u32 b) { return (u32)((u64)a * b >> 32); }
DEVICE u32 __funnelshift_l(u32 low, u32 high, u32 shift)
{
    return (u32)(((u64)high << 32 | low) << (shift & 31) >> 32);
}
DEVICE u32 __funnelshift_r(u32 low, u32 high, u32 shift)
{
    return (u32)(((u64)high << 32 | low) >> (shift & 31));
}
DEVICE u32 __brev(u32 x)
{
    u32 result = 0;
    for (int i = 0; i < 32; i++) result |= (x >> i & 1u) << (31 - i);
    return result;
}
DEVICE u32 __byte_perm(u32 a, u32 b, u32 selector)
{
    const u64 bytes = (u64)b << 32 | a;
    u32 result = 0;
    for (int i = 0; i < 4; i++) {
        const u32 from = selector >> 4 * i & 7u;
        result |= (u32)(bytes >> 8 * from & 0xffu) << 8 * i;
    }
    return result;
}

DEVICE u32 __float_as_uint(float x)
{
    u32 bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
DEVICE float __uint_as_float(u32 bits)
{
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
/* The build keeps the compiler from fusing (-ffp-contract=off). */
DEVICE float __fmul_rn(float a, float b) { return a * b; }
DEVICE float __fadd_rn(float a, float b) { return a + b; }
DEVICE float __fsub_rn(float a, float b) { return a - b; }
DEVICE float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }

template <typename T> DEVICE T __ldg(const T *address) { return *address; }

DEVICE u32 atomicAdd(u32 *address, u32 value) { return shim::atomic_add(address, value); }
DEVICE i32 atomicAdd(i32 *address, i32 value)
{
    return (i32)shim::atomic_add((u32 *)address, (u32)value);
}
DEVICE u64 atomicAdd(u64 *address, u64 value)
{
    return shim::atomic_add((uint64_t *)address, (uint64_t)value);
}
DEVICE float atomicAdd(float *address, float value) { return shim::atomic_add(address, value); }
DEVICE u32 atomicOr(u32 *address, u32 value) { return shim::atomic_or(address, value); }

#endif
