/* The rules of one operation: operands, shapes, and that no int32 can overflow on any input.
 *
 * Those of kernels/model_rules.py and model_bounds.py. Every operation declares the interval of
 * its int32 output, so that it is checked from the declarations of the operations before it. */
#include "format.h"
#include "tile.h"

#define TRY(call)                      \
    do {                               \
        int error_ = (call);           \
        if (error_) return error_;     \
    } while (0)

enum { WEIGHTS = 1, PER_CHANNEL = 2, BIAS = 4, RESIDUAL = 8 }; /* sets of operands */
enum { NO_WEIGHTS = 255, N_OPCODES = BS_MULTIPLY };
#define OF(dtype) (1 << (dtype))
#define NUMBERS (OF(BS_U8) | OF(BS_I8) | OF(BS_I32))

/* |b| of a scale: |x m| + |b| + 2^30 <= 2^62 + 2^61 + 2^30 < 2^63. */
#define MAX_OFFSET ((int64_t)1 << 61)

typedef struct {
    uint8_t data;             /* types that data may have */
    uint8_t weights;          /* type of the weights */
    uint8_t needed, optional; /* operands beside data */
    int32_t product;          /* largest |x w| of a convolution, else 0 */
} rule;

static const rule RULES[N_OPCODES] = {
    {OF(BS_U8), BS_I8, WEIGHTS, PER_CHANNEL | BIAS, 255 * 128},
    {OF(BS_BITS), BS_BITS, WEIGHTS, PER_CHANNEL | BIAS, 1},
    {OF(BS_BITS), BS_I8, WEIGHTS, PER_CHANNEL | BIAS, 128},
    {OF(BS_I8), BS_I8, WEIGHTS, PER_CHANNEL | BIAS, 128 * 128},
    {OF(BS_I32), BS_I8, WEIGHTS, BIAS, 0},                                /* CONV_I32 */
    {NUMBERS, NO_WEIGHTS, PER_CHANNEL, 0, 0},                             /* THRESHOLD */
    {NUMBERS | OF(BS_BITS), NO_WEIGHTS, PER_CHANNEL | BIAS, 0, 0},        /* SCALE */
    {OF(BS_I32), NO_WEIGHTS, RESIDUAL, 0, 0},                             /* ADD */
    {OF(BS_I32) | OF(BS_BITS), NO_WEIGHTS, 0, 0, 0},                      /* MAX_POOL */
    {NUMBERS | OF(BS_BITS), NO_WEIGHTS, PER_CHANNEL | BIAS, 0, 0},        /* AVERAGE_POOL */
    {OF(BS_I32), BS_U16, WEIGHTS, 0, 0},                                  /* LOOKUP */
    {OF(BS_I32), NO_WEIGHTS, RESIDUAL, 0, 0},                             /* CONCAT */
    {OF(BS_I32) | OF(BS_BITS), NO_WEIGHTS, 0, 0, 0},                      /* SLICE */
    {OF(BS_I32), NO_WEIGHTS, RESIDUAL, 0, 0},                             /* MULTIPLY */
};

typedef struct {
    int64_t low, high; /* both included */
} interval;

/* One operation with its operands; those that are not there are null. */
typedef struct {
    const bs_model *model;
    const bs_op *op;
    const rule *rule;
    const bs_tensor *data, *weights, *per_channel, *bias, *residual, *out;
} checked;

static const bs_tensor *tensor_at(const bs_model *model, uint32_t number)
{
    return number == BS_NONE ? 0 : &bs_tensors(model)[number];
}

static const void *constant(const checked *c, const bs_tensor *tensor)
{
    return bs_file(c->model) + tensor->data_off;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t greatest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int is_int32(interval x)
{
    return x.low >= INT32_MIN && x.high <= INT32_MAX;
}

/* Values of an activation, as its type or the operation that wrote it says. */
static interval interval_of(const bs_model *model, uint32_t number)
{
    interval found = {INT32_MIN, INT32_MAX};
    const bs_tensor *tensor = &bs_tensors(model)[number];
    if (tensor->dtype == BS_U8) found = (interval){0, 255};
    if (tensor->dtype == BS_I8) found = (interval){-128, 127};
    if (tensor->dtype == BS_BITS) found = (interval){-1, 1};
    if (tensor->dtype != BS_I32) return found;
    for (uint32_t i = 0; i < model->n_ops; i++) {
        const bs_op *op = &bs_ops(model)[i];
        if (op->out == number) found = (interval){op->low, op->high};
    }
    return found;
}

/* What version 1.0 does not know has to be absent from its files. */
static int check_params(const checked *c)
{
    const bs_op *op = c->op;
    int is_of_bits = op->opcode == BS_CONV_B1 || op->opcode == BS_CONV_B1_I8;
    int minor = (int)c->model->minor;
    if (op->flags & ~(minor && is_of_bits ? BS_ZERO_BORDER : 0)) return BS_ERROR_OP;
    if (minor == 0)
        return op->extra || op->low || op->high || c->residual ? BS_ERROR_OP : BS_OK;
    int has_groups = bs_is_convolution(op) || (op->opcode == BS_CONV_I32 && minor > 1);
    if (has_groups) return op->extra >= 1 ? BS_OK : BS_ERROR_OP;
    if (bs_is_shifted(op)) return op->extra >= 1 && op->extra <= 31 ? BS_OK : BS_ERROR_OP;
    return op->extra == 0 ? BS_OK : BS_ERROR_OP;
}

static int check_operands(const checked *c)
{
    int given = (c->weights ? WEIGHTS : 0) | (c->per_channel ? PER_CHANNEL : 0) |
                (c->bias ? BIAS : 0) | (c->residual ? RESIDUAL : 0);
    int out = bs_is_scale(c->op) || !c->per_channel ? BS_I32 : BS_BITS;
    if (c->op->opcode == BS_MAX_POOL || c->op->opcode == BS_SLICE) out = c->data->dtype;
    if ((given & c->rule->needed) != c->rule->needed ||
        (given & ~(c->rule->needed | c->rule->optional)))
        return BS_ERROR_OPERAND;
    if (!(c->rule->data >> c->data->dtype & 1) || c->out->dtype != out ||
        (c->weights && c->weights->dtype != c->rule->weights) ||
        (c->residual && c->residual->dtype != BS_I32))
        return BS_ERROR_OPERAND;
    return BS_OK;
}

/* Windows along one axis, and of them windows of a max-pool; 0 if nothing would be left or a
 * parameter is not allowed. */
static int64_t output_size(const bs_op *op, int axis, int64_t size, int64_t kernel, int64_t pool)
{
    int64_t stride = op->stride[axis], padding = op->padding[axis];
    if (stride < 1 || pool < 1 || kernel < 1 || padding < 0 || padding >= kernel) return 0;
    /* Every coordinate of the padded image has to be an int32. */
    if (size + 2 * padding < kernel || size + 2 * padding > INT32_MAX) return 0;
    /* In 32 bits, because a 64-bit division is a library call on 32-bit ARM. */
    uint32_t room = (uint32_t)(size + 2 * padding - kernel);
    return (room / (uint32_t)stride + 1) / (uint32_t)pool;
}

static int has_dims(const bs_tensor *tensor, uint32_t height, uint32_t width, uint32_t channels)
{
    return tensor->rank == 3 && tensor->dims[0] == height && tensor->dims[1] == width &&
           tensor->dims[2] == channels;
}

static int check_convolution(const checked *c)
{
    const uint32_t *data = c->data->dims, *weights = c->weights->dims, *out = c->out->dims;
    uint32_t groups = (uint32_t)bs_groups(c->op);
    if (c->weights->rank != 4 || data[2] != (uint64_t)weights[3] * groups ||
        weights[0] % groups != 0 || out[2] != weights[0])
        return BS_ERROR_SHAPE;
    for (int axis = 0; axis < 2; axis++) {
        int64_t pool = c->op->pool[axis];
        int64_t size = output_size(c->op, axis, data[axis], weights[1 + axis], pool);
        if (size < 1 || size != out[axis]) return BS_ERROR_SHAPE;
    }
    /* A panel belongs to one group. */
    int32_t layout = c->weights->layout;
    if (layout != BS_ROWS && groups > 1 &&
        weights[0] / groups % (uint32_t)bs_panel_width(layout) != 0)
        return BS_ERROR_TENSOR;
    return BS_OK;
}

/* Weights of int32 data: they cover it in version 1.1, and never pool. */
static int check_conv_i32(const checked *c)
{
    const bs_op *op = c->op;
    const uint32_t *weights = c->weights->dims;
    TRY(check_convolution(c));
    if (op->pool[0] != 1 || op->pool[1] != 1) return BS_ERROR_SHAPE;
    int covers = has_dims(c->data, weights[1], weights[2], weights[3]);
    int is_plain = op->stride[0] == 1 && op->stride[1] == 1 && !op->padding[0] && !op->padding[1];
    return c->model->minor > 1 || (covers && is_plain) ? BS_OK : BS_ERROR_SHAPE;
}

/* A box inside of the data; of bits it cuts no word, unless the data ends there. */
static int check_slice(const checked *c)
{
    bs_box box = bs_box_of(c->op);
    for (int axis = 0; axis < 3; axis++) {
        int64_t end = (int64_t)box.start[axis] + box.size[axis];
        if (box.start[axis] < 0 || box.size[axis] < 1 || end > c->data->dims[axis] ||
            c->out->dims[axis] != (uint32_t)box.size[axis])
            return BS_ERROR_SHAPE;
    }
    if (c->data->dtype != BS_BITS) return BS_OK;
    int is_rest = (uint32_t)(box.start[2] + box.size[2]) == c->data->dims[2];
    return box.start[2] % 32 == 0 && (is_rest || box.size[2] % 32 == 0) ? BS_OK : BS_ERROR_SHAPE;
}

static int check_concat(const checked *c)
{
    const uint32_t *data = c->data->dims, *out = c->out->dims, *residual = c->residual->dims;
    return has_dims(c->residual, data[0], data[1], residual[2]) && out[0] == data[0] &&
                   out[1] == data[1] && out[2] == (uint64_t)data[2] + residual[2]
               ? BS_OK
               : BS_ERROR_SHAPE;
}

static int check_shapes(const checked *c)
{
    const bs_op *op = c->op;
    const uint32_t *data = c->data->dims, *out = c->out->dims;
    if (c->data->rank != 3 || c->out->rank != 3) return BS_ERROR_SHAPE;
    if (bs_is_convolution(op)) return check_convolution(c);
    if (op->opcode == BS_CONV_I32) return check_conv_i32(c);
    if (op->opcode == BS_SLICE) return check_slice(c);
    if (op->opcode == BS_MAX_POOL || op->opcode == BS_AVERAGE_POOL) {
        for (int axis = 0; axis < 2; axis++) {
            int64_t size = output_size(op, axis, data[axis], op->pool[axis], 1);
            if (size < 1 || size != out[axis]) return BS_ERROR_SHAPE;
        }
        return data[2] == out[2] ? BS_OK : BS_ERROR_SHAPE;
    }
    for (int axis = 0; axis < 2; axis++)
        if (op->stride[axis] != 1 || op->padding[axis] != 0 || op->pool[axis] != 1)
            return BS_ERROR_SHAPE;
    if (op->opcode == BS_CONCAT) return check_concat(c);
    if (c->residual && !has_dims(c->residual, data[0], data[1], data[2])) return BS_ERROR_SHAPE;
    return has_dims(c->out, data[0], data[1], data[2]) ? BS_OK : BS_ERROR_SHAPE;
}

static int is_matrix(const bs_tensor *tensor, int dtype, uint32_t rows, uint32_t columns)
{
    return tensor->dtype == dtype && tensor->rank == 2 && tensor->dims[0] == rows &&
           tensor->dims[1] == columns;
}

static int is_vector(const bs_tensor *tensor, int dtype, uint32_t n)
{
    return tensor->dtype == dtype && tensor->rank == 1 && tensor->dims[0] == n;
}

/* Shapes of the constants, and values that any input may meet. */
static int check_constants(const checked *c)
{
    uint32_t n = c->out->dims[2];
    if (bs_is_scale(c->op)) {
        uint32_t rows = c->per_channel->dims[0];
        if ((rows != 1 && rows != 3) || !is_matrix(c->per_channel, BS_I32, rows, n) ||
            !is_matrix(c->bias, BS_I64, rows == 3 ? 2 : 1, n))
            return BS_ERROR_OPERAND;
        const int64_t *bias = constant(c, c->bias);
        for (uint64_t i = 0; i < c->bias->bytes / 8; i++)
            if (bias[i] > MAX_OFFSET || bias[i] < -MAX_OFFSET) return BS_ERROR_OVERFLOW;
        return BS_OK;
    }
    if (c->op->opcode == BS_LOOKUP) {
        uint32_t size = c->weights->dims[0];
        int is_table = is_vector(c->weights, BS_U16, size) && size <= BS_MAX_TABLE && size % 2 == 0;
        return is_table ? BS_OK : BS_ERROR_OPERAND;
    }
    if (c->bias && !is_vector(c->bias, BS_I32, n)) return BS_ERROR_OPERAND;
    if (c->per_channel && !is_matrix(c->per_channel, BS_I32, 2, n)) return BS_ERROR_OPERAND;
    return BS_OK;
}

/* No accumulator can leave int32, whatever the weights are, and every threshold lies at most one
 * step out of reach. */
static int check_accumulator(const checked *c)
{
    interval reach = interval_of(c->model, c->op->in[BS_DATA]);
    uint32_t n = c->out->dims[2];
    if (c->rule->product) {
        const uint32_t *dims = c->weights->dims; /* of at most 2^36 elements: bits */
        reach.high = (int64_t)c->rule->product * dims[1] * dims[2] * dims[3];
        reach.low = -reach.high;
    }
    const int32_t *bias = c->bias && !bs_is_scale(c->op) ? constant(c, c->bias) : 0;
    const int32_t *level = c->out->dtype == BS_BITS && c->per_channel ? constant(c, c->per_channel)
                                                                      : 0;
    for (uint32_t i = 0; i < n; i++) {
        int64_t offset = bias && c->rule->product ? bias[i] : 0;
        int64_t magnitude = offset < 0 ? -offset : offset;
        if (c->rule->product && reach.high + magnitude > INT32_MAX) return BS_ERROR_OVERFLOW;
        if (!level) continue;
        int64_t flip = level[n + i];
        if (level[i] < reach.low - magnitude - 1 || level[i] > reach.high + magnitude + 1 ||
            flip < 0 || flip > 1)
            return BS_ERROR_THRESHOLD;
    }
    return BS_OK;
}

/* Sum of the positive and of the negative weights of one output. */
static interval weight_sums(const int8_t *row, uint64_t n)
{
    interval sums = {0, 0};
    for (uint64_t i = 0; i < n; i++) {
        if (row[i] > 0) sums.high += row[i];
        else sums.low += row[i];
    }
    return sums;
}

/* Accumulators with their bias. The border and a sum not yet complete count as 0, so all partial
 * sums lie in the interval without bias. */
static int product_interval(const checked *c, interval data, interval *found)
{
    const uint32_t *dims = c->weights->dims;
    uint64_t k = (uint64_t)dims[1] * dims[2] * dims[3];
    const int32_t *bias = c->bias ? constant(c, c->bias) : 0;
    data.low = least(data.low, 0);
    data.high = greatest(data.high, 0);
    *found = (interval){INT64_MAX, INT64_MIN};
    for (uint32_t i = 0; i < dims[0]; i++) {
        interval acc = {-(int64_t)k, (int64_t)k};
        if (c->weights->dtype == BS_I8) {
            interval w = weight_sums((const int8_t *)constant(c, c->weights) + i * k, k);
            /* Then no product below is larger than 2^31 * 2^31. */
            if (w.high - w.low > INT32_MAX) return BS_ERROR_OVERFLOW;
            acc.low = data.low * w.high + data.high * w.low;
            acc.high = data.high * w.high + data.low * w.low;
        }
        if (!is_int32(acc)) return BS_ERROR_OVERFLOW;
        found->low = least(found->low, acc.low + (bias ? bias[i] : 0));
        found->high = greatest(found->high, acc.high + (bias ? bias[i] : 0));
    }
    return BS_OK;
}

/* Sums of windows; outside is 0. A tensor has less than 2^31 pixels, so |sum| <= 2^62. */
static interval window_sum(const checked *c, interval data)
{
    const bs_op *op = c->op;
    int64_t n = least(op->pool[0], c->data->dims[0]) * least(op->pool[1], c->data->dims[1]);
    interval sum = {n * data.low, n * data.high};
    if (op->padding[0] || op->padding[1]) {
        sum.low = least(sum.low, 0);
        sum.high = greatest(sum.high, 0);
    }
    return sum;
}

/* Takes (x m + b + 2^(s-1)) >> s for both ends of x into *found; nothing if there is no x. */
static void take_scaled(interval x, int64_t m, int64_t b, int32_t shift, interval *found)
{
    if (x.low > x.high) return;
    int64_t half = (int64_t)1 << (shift - 1);
    int64_t first = (x.low * m + b + half) >> shift, last = (x.high * m + b + half) >> shift;
    found->low = least(found->low, least(first, last));
    found->high = greatest(found->high, greatest(first, last));
}

static int scale_interval(const checked *c, interval x, interval *found)
{
    uint32_t n = c->out->dims[2];
    const int32_t *m = constant(c, c->per_channel);
    const int64_t *b = constant(c, c->bias);
    int has_knee = c->per_channel->dims[0] == 3;
    if (!is_int32(x)) return BS_ERROR_OVERFLOW;
    *found = (interval){INT64_MAX, INT64_MIN};
    for (uint32_t i = 0; i < n; i++) {
        interval above = x, below = x;
        if (has_knee) {
            int64_t knee = m[2 * (uint64_t)n + i];
            above.low = greatest(x.low, knee);
            below.high = least(x.high, knee - 1);
            take_scaled(below, m[n + i], b[n + i], c->op->extra, found);
        }
        take_scaled(above, m[i], b[i], c->op->extra, found);
    }
    return BS_OK;
}

/* (x y + 2^(s-1)) >> s, whose ends are those of x with those of y. */
static interval multiply_interval(interval x, interval y, int32_t shift)
{
    interval found = {INT64_MAX, INT64_MIN};
    take_scaled(x, y.low, 0, shift, &found);
    take_scaled(x, y.high, 0, shift, &found);
    return found;
}

/* The interval of an int32 output is int32 and declared. */
static int check_interval(const checked *c)
{
    const bs_op *op = c->op;
    if (c->out->dtype != BS_I32) return op->low || op->high ? BS_ERROR_INTERVAL : BS_OK;
    if (c->model->minor == 0) return BS_OK; /* nobody reads it */
    interval data = interval_of(c->model, op->in[BS_DATA]), found = data;
    if (bs_is_convolution(op) || op->opcode == BS_CONV_I32)
        TRY(product_interval(c, data, &found));
    if (op->opcode == BS_SCALE) TRY(scale_interval(c, data, &found));
    if (op->opcode == BS_AVERAGE_POOL) TRY(scale_interval(c, window_sum(c, data), &found));
    if (op->opcode == BS_ADD) {
        interval other = interval_of(c->model, op->in[BS_RESIDUAL]);
        found = (interval){data.low + other.low, data.high + other.high};
    }
    if (op->opcode == BS_CONCAT) {
        interval other = interval_of(c->model, op->in[BS_RESIDUAL]);
        found = (interval){least(data.low, other.low), greatest(data.high, other.high)};
    }
    if (op->opcode == BS_MULTIPLY)
        found = multiply_interval(data, interval_of(c->model, op->in[BS_RESIDUAL]), op->extra);
    if (op->opcode == BS_LOOKUP) found = (interval){0, BS_MAX_TABLE - 1};
    if (!is_int32(found)) return BS_ERROR_OVERFLOW;
    return found.low == op->low && found.high == op->high ? BS_OK : BS_ERROR_INTERVAL;
}

int bs_check_op(const bs_model *model, uint32_t i)
{
    const bs_op *op = &bs_ops(model)[i];
    static const uint8_t n_opcodes[BS_MINOR + 1] = {BS_CONV_B1_I8, BS_LOOKUP, N_OPCODES};
    if (op->opcode < 1 || op->opcode > n_opcodes[model->minor]) return BS_ERROR_OP;
    const checked c = {model,
                       op,
                       &RULES[op->opcode - 1],
                       tensor_at(model, op->in[BS_DATA]),
                       tensor_at(model, op->in[BS_WEIGHTS]),
                       tensor_at(model, op->in[BS_PER_CHANNEL]),
                       tensor_at(model, op->in[BS_BIAS]),
                       tensor_at(model, op->in[BS_RESIDUAL]),
                       tensor_at(model, op->out)};
    TRY(check_params(&c));
    TRY(check_operands(&c));
    TRY(check_shapes(&c));
    TRY(check_constants(&c));
    TRY(check_accumulator(&c));
    return check_interval(&c);
}
