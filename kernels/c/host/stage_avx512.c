/* Stages of training in AVX-512: a vector of 16 is one register. */
#include "../cpu.h"

#if BS_X86
#include <immintrin.h>

#define STAGE BS_TARGET_AVX512 BS_INLINE
#define STAGE_CALL BS_TARGET_AVX512
#define NAME(x) bs_stage_##x##_avx512
#define FMA(a, b, c) ((bs_lanes)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define KEEP(bits, x) ((bs_lanes)_mm512_maskz_mov_ps((__mmask16)(bits), (__m512)(x)))
#define LOOKUP(table, bits) \
    ((bs_lanes)_mm512_permutexvar_ps((__m512i)(bits), (__m512)(table)))
#include "stage_calls.h"
#endif
