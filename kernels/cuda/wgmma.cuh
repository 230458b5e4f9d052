/* Products by a warpgroup (4 warps, the first a multiple of 4) on Hopper, sm_90a only: D += A B^T
 * with 64 rows of A and 256 rows of B, 32 bytes long, both in shared memory; asynchronous.
 *
 * An operand lies in one of two ways:
 * - in core matrices of 8 rows x 16 bytes, 128 contiguous bytes each; of a row of 32 bytes, the
 *   second 16 bytes are in the core matrix `leading` bytes further on, the next 8 rows in the one
 *   `stride` bytes further on. So are panels on CUDA, with leading = 128;
 * - swizzled: in lines of 128 bytes, whose 16-byte chunk k stands at place k ^ (line % 8), the next
 *   8 lines `stride` bytes further on; so matmul.cuh has its tiles. The lines begin at a multiple
 *   of 1024 bytes, the operand at one of 32 within the first line; `leading` means nothing.
 * Either way 8 rows x 16 bytes fill all 32 banks once.
 *
 * Of D, the thread of warp w (of the warpgroup), group = lane / 4 and t = lane % 4 has in
 * d[4 j + 2 h + i] row 16 w + 8 h + group, column 8 j + 2 t + i.
 *
 * Order of work: write the operands; proxy_fence() in each thread that wrote; a barrier;
 * warpgroup_fence(); products; warpgroup_commit(); warpgroup_wait<N>(). Until the wait neither the
 * operands nor d may be touched. All threads of a warpgroup take part in each call. */
#pragma once
#include "device.cuh"
#include "ptx.cuh"

#if defined(BITSPIN_SHIM) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WGMMA 1
#endif

enum { WARPGROUP = 128, WGMMA_ROWS = 64, WGMMA_COLUMNS = 256, WGMMA_REGISTERS = 128 };

enum Swizzling { CORE_MATRICES = 0, SWIZZLED_LINES = 1 };

#ifdef BITSPIN_SHIM
#include "wgmma.h"
#elif defined(HAS_WGMMA)

/* Bits 0-13 address, 16-29 leading, 32-45 stride, all in 16 bytes; 49-51 where in 1024 bytes the
 * lines begin, here always 0; 62-63 swizzling. */
DEVICE u64 matrix_descriptor(const void *matrix, u32 leading, u32 stride, Swizzling swizzling)
{
    return (u64)(shared_address(matrix) >> 4 & 0x3fffu) | (u64)(leading >> 4 & 0x3fffu) << 16 |
           (u64)(stride >> 4 & 0x3fffu) << 32 | (u64)swizzling << 62;
}

/* The next multiple of 1024 bytes of shared memory; up to 896 bytes further on. */
DEVICE u8 *aligned_to_lines(u8 *memory)
{
    return memory + (0u - shared_address(memory)) % 1024u;
}

/* Lets the tensor cores see what this thread wrote, or copied and waited for, to shared memory. */
DEVICE void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

DEVICE void warpgroup_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/* Wait until at most N of the newest groups of products are under way. */
template <int N> DEVICE void warpgroup_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* The 128 registers of d, as names in the text of an instruction and as its operands. */
#define WGMMA_NAMES                                                                                \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                      \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "             \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "   \
    "%127}, %128, %129, "
#define WGMMA_4(kind, i) kind(d[i]), kind(d[i + 1]), kind(d[i + 2]), kind(d[i + 3])
#define WGMMA_16(kind, i)                                                                          \
    WGMMA_4(kind, i), WGMMA_4(kind, i + 4), WGMMA_4(kind, i + 8), WGMMA_4(kind, i + 12)
#define WGMMA_64(kind, i)                                                                          \
    WGMMA_16(kind, i), WGMMA_16(kind, i + 16), WGMMA_16(kind, i + 32), WGMMA_16(kind, i + 48)
#define WGMMA(name, kind, tail)                                                                    \
    asm volatile("wgmma.mma_async.sync.aligned.m64n256" name " " WGMMA_NAMES tail                  \
                 : WGMMA_64(kind, 0), WGMMA_64(kind, 64)                                           \
                 : "l"(a), "l"(b))

/* d += popc(a & b): 256 bits. */
DEVICE void wgmma_b1_and(i32 (&d)[WGMMA_REGISTERS], u64 a, u64 b)
{
    WGMMA("k256.s32.b1.b1.and.popc", "+r", "1;");
}

/* d += a b: 32 signed bytes. */
DEVICE void wgmma_s8(i32 (&d)[WGMMA_REGISTERS], u64 a, u64 b)
{
    WGMMA("k32.s32.s8.s8", "+r", "1;");
}

/* d += a b: 16 bfloat16. */
DEVICE void wgmma_bf16(float (&d)[WGMMA_REGISTERS], u64 a, u64 b)
{
    WGMMA("k16.f32.bf16.bf16", "+f", "1, 1, 1, 0, 0;");
}
#endif
