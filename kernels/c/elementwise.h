/* Operations of the integer network that multiply no weights with bits, made ready to run. */
#ifndef BITSPIN_ELEMENTWISE_H
#define BITSPIN_ELEMENTWISE_H

#include "cpu.h"

typedef struct {
    int32_t opcode; /* of format.h: BS_DENSE_I32 ... BS_LOOKUP */
    int32_t dtype;  /* of data */
    const void *data;
    const int32_t *residual;    /* BS_ADD */
    const void *weights;        /* int8, or uint16: the table of BS_LOOKUP */
    const int32_t *per_channel; /* thresholds (2, C), or multipliers (1 or 3, C) */
    const void *bias;           /* int64 of a scale, int32 of BS_DENSE_I32; or null */
    void *out;
    int32_t size[2], out_size[2], window[2], stride[2], padding[2];
    int32_t channels, n_out;
    int32_t has_knee, shift; /* of a scale */
    int32_t n_table;
} bs_elementwise;

void bs_run_elementwise(uint32_t backend, const bs_elementwise *e);

#endif
