/* Operations of the integer network that multiply no weights with bits, made ready to run. */
#ifndef BITSPIN_ELEMENTWISE_H
#define BITSPIN_ELEMENTWISE_H

#include "cpu.h"

typedef struct {
    int32_t opcode; /* of format.h: BS_THRESHOLD ... BS_MULTIPLY */
    int32_t dtype;  /* of data */
    const void *data;
    const int32_t *residual;    /* BS_ADD, BS_CONCAT, BS_MULTIPLY */
    const uint16_t *weights;    /* the table of BS_LOOKUP */
    const int32_t *per_channel; /* thresholds (2, C), or multipliers (1 or 3, C) */
    const int64_t *bias;        /* of a scale, else null */
    void *out;
    int32_t size[2], out_size[2], window[2], stride[2], padding[2];
    int32_t channels, n_out;
    int32_t has_knee, shift; /* of a scale; BS_MULTIPLY has a shift too */
    int32_t start[3];        /* BS_SLICE: row, column, channel; of bits a multiple of 32 */
    int32_t n_table;
} bs_elementwise;

void bs_run_elementwise(uint32_t backend, const bs_elementwise *e);

#endif
