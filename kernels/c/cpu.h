/* Back ends, and what the processor offers beyond the baseline of its architecture. */
#ifndef BITSPIN_CPU_H
#define BITSPIN_CPU_H

#include <stdint.h>

/* The codes are those of kernels/backends.py. Higher is faster on machines that have several. */
enum {
    BS_PORTABLE = 0, /* plain C99 */
    BS_AVX2 = 1,     /* x86-64: AVX2, BMI2, FMA3, POPCNT */
    BS_AVX512 = 2,   /* x86-64: AVX-512 F, BW, DQ, VL, VBMI and VPOPCNTDQ */
    BS_NEON = 3,     /* aarch64 and armv7: base NEON */
    BS_DOTPROD = 4,  /* aarch64: NEON with the dot product of Armv8.2 */
    BS_BACKENDS = 5
};

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#define BS_X86 1
#define BS_TARGET_AVX2 __attribute__((target("avx2,bmi,bmi2,fma,popcnt,lzcnt")))
#if defined(__clang__)
#define BS_PREFER_512
#else
#define BS_PREFER_512 ",prefer-vector-width=512" /* clang has no such attribute */
#endif
#define BS_TARGET_AVX512 \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vpopcntdq," \
                          "avx2,bmi,bmi2,fma,popcnt,lzcnt" BS_PREFER_512)))
#else
#define BS_X86 0
#endif

#if defined(__aarch64__) || (defined(__ARM_NEON) && defined(__arm__))
#define BS_ARM 1
#else
#define BS_ARM 0
#endif

#if defined(__aarch64__) && defined(__GNUC__)
#define BS_ARM_DOTPROD 1
#if defined(__clang__)
#define BS_TARGET_DOTPROD __attribute__((target("dotprod")))
#else
#define BS_TARGET_DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#else
#define BS_ARM_DOTPROD 0
#endif

#if defined(__GNUC__)
#define BS_INLINE static inline __attribute__((always_inline))
#else
#define BS_INLINE static inline
#endif

#if BS_X86
/* What the operating system saves at a context switch: bits of XCR0. */
static inline uint32_t bs_saved_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}
#endif

/* Bit b is set if back end b can run on this processor. The dot product of aarch64 is among them
 * on macOS only, where every processor has it (of iOS, those before the A13 have not): without libc
 * only the caller knows, and it may pass the code at its own risk (bs_set_backend). */
static inline uint32_t bs_backends(void)
{
    uint32_t mask = 1u << BS_PORTABLE;
#if BS_X86
    unsigned a, b, c, d, leaf7_b, leaf7_c;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_POPCNT)) return mask;
    int has_fma = (c & bit_FMA) != 0;
    uint32_t saved = bs_saved_state();
    if (!__get_cpuid_count(7, 0, &a, &leaf7_b, &leaf7_c, &d)) return mask;
    if (has_fma && (leaf7_b & bit_AVX2) && (leaf7_b & bit_BMI2) && (saved & 0x06) == 0x06)
        mask |= 1u << BS_AVX2;
    else
        return mask;
    uint32_t needed_b = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    uint32_t needed_c = 1u << 1 /* VBMI */ | 1u << 14 /* VPOPCNTDQ */;
    if ((leaf7_b & needed_b) == needed_b && (leaf7_c & needed_c) == needed_c &&
        (saved & 0xe6) == 0xe6)
        mask |= 1u << BS_AVX512;
#elif BS_ARM
    mask |= 1u << BS_NEON;
#if defined(__ENVIRONMENT_MAC_OS_X_VERSION_MIN_REQUIRED__) && BS_ARM_DOTPROD
    mask |= 1u << BS_DOTPROD;
#endif
#endif
    return mask;
}

#define BS_X86_DISPATCH BS_X86
enum { BS_CPU_POPCNT = 1 };

static inline uint32_t bs_cpu_features(void)
{
#if BS_X86
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_POPCNT)) return BS_CPU_POPCNT;
#endif
    return 0;
}

/* The fastest back end of a mask of bs_backends. */
static inline uint32_t bs_best_backend(uint32_t mask)
{
    uint32_t best = BS_PORTABLE;
    for (uint32_t b = 0; b < BS_BACKENDS; b++)
        if (mask >> b & 1) best = b;
    return best;
}

#endif
