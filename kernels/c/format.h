/* The records of a .bspn file as they lie in it. All offsets are natural, so a file in 8-byte
 * aligned memory is used where it lies. Private to the runtime. */
#ifndef BITSPIN_FORMAT_H
#define BITSPIN_FORMAT_H

#include "bitspin.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the format is little-endian and is read in place: a little-endian target is needed"
#endif

enum { BS_MAJOR = 1, BS_MINOR = 0, BS_MAX_OPS = 1024, BS_MAX_TENSORS = 8192, BS_ALIGNMENT = 64 };
enum { BS_U8 = 0, BS_I8 = 1, BS_I32 = 2, BS_I64 = 3, BS_BITS = 4 };
enum { BS_CONV_U8 = 1, BS_CONV_B1 = 2, BS_CONV_B1_I8 = 3 };
enum { BS_DATA = 0, BS_WEIGHTS = 1, BS_THRESHOLD = 2, BS_BIAS = 3, BS_RESIDUAL = 4, BS_INPUTS = 5 };

#define BS_NONE 0xffffffffu     /* an operand that is not there */
#define BS_MAX_BYTES 0x7fffffff /* of a tensor and of the arena: int32 indexes both */

typedef struct {
    uint8_t magic[8];
    uint16_t major, minor;
    uint32_t header_size;
    uint64_t file_size;
    uint32_t n_ops, n_tensors;
    uint64_t arena_bytes, meta_off;
    uint32_t meta_len, crc32c;
    uint8_t zero[8];
} bs_header;

typedef struct {
    uint16_t opcode, flags;
    uint32_t in[BS_INPUTS];
    uint32_t out;
    int32_t stride[2], padding[2], pool[2], zero[3];
} bs_op;

typedef struct {
    uint8_t dtype, layout;
    uint16_t rank;
    uint32_t dims[4];
    uint32_t arena_off;
    uint64_t data_off, bytes;
    uint32_t crc32c, zero;
} bs_tensor;

typedef char bs_assert_header[sizeof(bs_header) == 64 ? 1 : -1];
typedef char bs_assert_op[sizeof(bs_op) == 64 ? 1 : -1];
typedef char bs_assert_tensor[sizeof(bs_tensor) == 48 ? 1 : -1];
typedef char bs_assert_model[sizeof(bs_model) == 64 ? 1 : -1];

static inline const uint8_t *bs_file(const bs_model *model)
{
    return (const uint8_t *)(uintptr_t)model->file;
}

static inline const bs_op *bs_ops(const bs_model *model)
{
    return (const bs_op *)(bs_file(model) + sizeof(bs_header));
}

static inline const bs_tensor *bs_tensors(const bs_model *model)
{
    return (const bs_tensor *)(bs_ops(model) + model->n_ops);
}

/* Number of the tensor that holds the network's output. */
static inline uint32_t bs_output(const bs_model *model)
{
    return bs_ops(model)[model->n_ops - 1].out;
}

/* Words of 32 bits that hold the channels of one pixel or tap. */
static inline uint32_t bs_words(uint32_t n_channels)
{
    return n_channels / 32 + (n_channels % 32 != 0);
}

static inline uint64_t bs_align(uint64_t bytes)
{
    return (bytes + BS_ALIGNMENT - 1) / BS_ALIGNMENT * BS_ALIGNMENT;
}

#endif
