/* Numbers to bits: bit i of out is x[i] >= threshold, least significant bit first. The spare bits
 * of the last word are zero; a NaN gives 0. n values become (n + 31) / 32 words. */
#ifndef BITSPIN_PACK_H
#define BITSPIN_PACK_H

#include "cpu.h"

void bs_pack_f32(uint32_t backend, const float *x, int64_t n, float threshold, uint32_t *out);

/* Any threshold: above 127 or 255 no bit is set, at or below -128 or 0 every one. */
void bs_pack_u8(uint32_t backend, const uint8_t *x, int64_t n, int32_t threshold, uint32_t *out);
void bs_pack_i8(uint32_t backend, const int8_t *x, int64_t n, int32_t threshold, uint32_t *out);

#if BS_ARM
/* pack_neon.c. The thresholds of the bytes lie in their range. */
void bs_pack_f32_neon(const float *x, int64_t n, float threshold, uint32_t *out);
void bs_pack_u8_neon(const uint8_t *x, int64_t n, uint8_t threshold, uint32_t *out);
void bs_pack_i8_neon(const int8_t *x, int64_t n, int8_t threshold, uint32_t *out);
#endif

#endif
