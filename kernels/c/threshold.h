/* BatchNorm and sign of one row of accumulators: bit c of out is (acc[c] >= level[c]) ^ flip[c].
 * flip is 0 or 1. The spare bits of the last of the (n + 31) / 32 words are zero. */
#ifndef BITSPIN_THRESHOLD_H
#define BITSPIN_THRESHOLD_H

#include "cpu.h"

void bs_threshold(uint32_t backend, const int32_t *acc, const int32_t *level, const int32_t *flip,
                  int32_t n, uint32_t *out);

#if BS_ARM
void bs_threshold_neon(const int32_t *acc, const int32_t *level, const int32_t *flip, int32_t n,
                       uint32_t *out); /* pack_neon.c */
#endif

#endif
