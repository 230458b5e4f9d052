/* What every kernel begins with. Rules that all kernels keep, and tests check:
 * - a kernel is written  KERNEL(threads, blocks) name(parameters) { ... }  with literal numbers:
 *   threads of a block, a multiple of 32, and blocks that should fit a multiprocessor at a time;
 *   parameters are of the types below, float, or pointers to them (kernels/cuda_source.py);
 * - shared memory is dynamic only, taken by shared_memory(); its size is an argument of the launch;
 * - warp functions (ballot, shuffles, mma, ldmatrix) are called by all 32 lanes of a warp;
 * - bit i of a word is element i; bits and words past the end are written as 0;
 * - indices that can pass 2^31 are i64.
 * The same text is compiled for the CPU with BITSPIN_SHIM defined (kernels/shim). */
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define DEVICE static __device__ __forceinline__
#define ALL_LANES 0xffffffffu

enum { WARP = 32, WORD_BITS = 32 };

#ifdef BITSPIN_SHIM
#include "language.h"
#else
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

/* The dynamic shared memory of the block, aligned to 128 bytes. */
DEVICE u8 *shared_memory()
{
    extern __shared__ __align__(128) u8 bitspin_shared[];
    return bitspin_shared;
}
#endif

DEVICE i32 lane_number() { return (i32)(threadIdx.x % WARP); }
DEVICE i32 warp_number() { return (i32)(threadIdx.x / WARP); }

template <typename T> DEVICE T ceil_divide(T a, T b) { return (a + b - 1) / b; }
template <typename T> DEVICE T smaller(T a, T b) { return a < b ? a : b; }
template <typename T> DEVICE T larger(T a, T b) { return a > b ? a : b; }

/* Bits of word `word` that exist in a row of n_bits; none past its end. */
DEVICE u32 word_mask(i64 n_bits, i64 word)
{
    const i64 left = n_bits - word * WORD_BITS;
    return left >= WORD_BITS ? ~0u : left <= 0 ? 0u : (1u << left) - 1u;
}

/* bfloat16 is the upper half of a float; rounding to nearest even, NaN stays NaN. */
DEVICE float float_of_bf16(u16 x) { return __uint_as_float((u32)x << 16); }
DEVICE u16 bf16_of_float(float x)
{
    const u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)(bits >> 16 | 0x40u);
    return (u16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
