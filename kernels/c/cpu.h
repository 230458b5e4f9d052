/* What the processor offers beyond the baseline of its architecture. */
#ifndef BITSPIN_CPU_H
#define BITSPIN_CPU_H

#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#define BS_X86_DISPATCH 1
#else
#define BS_X86_DISPATCH 0
#endif

enum { BS_CPU_POPCNT = 1 };

static inline uint32_t bs_cpu_features(void)
{
#if BS_X86_DISPATCH
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_POPCNT)) return BS_CPU_POPCNT;
#endif
    return 0;
}

#endif
