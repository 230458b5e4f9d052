/* The records of a .bspn file as they lie in it. All offsets are natural, so a file in 8-byte
 * aligned memory is used where it lies. Private to the runtime. */
#ifndef BITSPIN_FORMAT_H
#define BITSPIN_FORMAT_H

#include "bitspin.h"
#include "conv.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the format is little-endian and is read in place: a little-endian target is needed"
#endif

enum { BS_MAJOR = 1, BS_MINOR = 2, BS_MAX_OPS = 1024, BS_MAX_TENSORS = 8192, BS_ALIGNMENT = 64 };
enum { BS_U8 = 0, BS_I8 = 1, BS_I32 = 2, BS_I64 = 3, BS_BITS = 4, BS_U16 = 5 };
enum {
    BS_CONV_U8 = 1,
    BS_CONV_B1 = 2,
    BS_CONV_B1_I8 = 3, /* version 1.0 ends here */
    BS_CONV_I8 = 4,
    BS_CONV_I32 = 5, /* in version 1.1 its weights cover the data */
    BS_THRESHOLD = 6,
    BS_SCALE = 7,
    BS_ADD = 8,
    BS_MAX_POOL = 9,
    BS_AVERAGE_POOL = 10,
    BS_LOOKUP = 11, /* version 1.1 ends here */
    BS_CONCAT = 12,
    BS_SLICE = 13,
    BS_MULTIPLY = 14
};
enum { BS_ZERO_BORDER = 1 }; /* flags */
enum { BS_MAX_TABLE = 1 << 16 }; /* entries of the table of BS_LOOKUP, which are uint16 */
/* The operands of an operation; BS_PER_CHANNEL is its threshold or multiplier. */
enum { BS_DATA = 0, BS_WEIGHTS = 1, BS_PER_CHANNEL = 2, BS_BIAS = 3, BS_RESIDUAL = 4, BS_INPUTS = 5 };

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
    int32_t stride[2], padding[2], pool[2]; /* of BS_SLICE a bs_box */
    int32_t extra;     /* groups of a convolution, shift of a scale or product, else 0 */
    int32_t low, high; /* of an int32 output, on any input; 0 in version 1.0 */
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

/* A convolution of bs_convolve. */
static inline int bs_is_convolution(const bs_op *op)
{
    return op->opcode <= BS_CONV_I8;
}

/* An operation with a multiplier and a shift. */
static inline int bs_is_scale(const bs_op *op)
{
    return op->opcode == BS_SCALE || op->opcode == BS_AVERAGE_POOL;
}

/* An operation with a shift. */
static inline int bs_is_shifted(const bs_op *op)
{
    return bs_is_scale(op) || op->opcode == BS_MULTIPLY;
}

/* Rows, columns and channels of a slice. */
typedef struct {
    int32_t start[3], size[3];
} bs_box;

static inline bs_box bs_box_of(const bs_op *op)
{
    return (bs_box){{op->stride[0], op->stride[1], op->padding[0]},
                    {op->padding[1], op->pool[0], op->pool[1]}};
}

/* Groups of a convolution; version 1.0 wrote 0, and 1.1 for BS_CONV_I32. */
static inline int32_t bs_groups(const bs_op *op)
{
    return op->extra ? op->extra : 1;
}

static inline uint64_t bs_align(uint64_t bytes)
{
    return (bytes + BS_ALIGNMENT - 1) / BS_ALIGNMENT * BS_ALIGNMENT;
}

/* rules.c: everything about operation i that does not concern the arena, once the operands are
 * known to exist. */
int bs_check_op(const bs_model *model, uint32_t i);

/* run.c: a checked convolution, BS_CONV_I32 among them, without data, out and scratch. */
bs_conv bs_prepare_conv(const bs_model *model, const bs_op *op);

#endif
