/* Stages of training in AVX2: the compiler makes two registers of a vector of 16. */
#include "../cpu.h"

#if BS_X86
#define STAGE BS_TARGET_AVX2 BS_INLINE
#define STAGE_CALL BS_TARGET_AVX2
#define NAME(x) bs_stage_##x##_avx2
#define FMA(a, b, c) ((a) * (b) + (c))
#define KEEP(bits, x) bs_keep(bits, x)
#include "stage_calls.h"
#endif
