/* bs_open: checks everything that a run relies on, so that a run needs no check.
 *
 * The rules are those of kernels/model_rules.py, arena.py and model_format.py; what concerns one
 * operation alone is in rules.c. All sizes are computed in 64 bits; a product is compared with
 * BS_MAX_BYTES after every factor of at most 32 bits, so none can overflow. No memory is needed:
 * who writes and who reads a tensor is found by walking the operation table, which BS_MAX_OPS
 * keeps short. */
#include "conv.h"
#include "format.h"

#define TRY(call)                      \
    do {                               \
        int error_ = (call);           \
        if (error_) return error_;     \
    } while (0)

static const uint8_t MAGIC[8] = {'B', 'S', 'P', 'N', '\r', '\n', 0x1a, '\n'};

/* CRC-32C, four bits at a time, without the final inversion. */
static uint32_t crc32c(uint32_t crc, const uint8_t *bytes, uint64_t n)
{
    static const uint32_t table[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
        0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    for (uint64_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        crc = table[crc & 15] ^ (crc >> 4);
        crc = table[crc & 15] ^ (crc >> 4);
    }
    return crc;
}

static int all_zero(const uint8_t *bytes, uint64_t n)
{
    uint8_t any = 0;
    for (uint64_t i = 0; i < n; i++) any |= bytes[i];
    return any == 0;
}

static int check_header(const bs_header *header, uint64_t file_bytes)
{
    for (int i = 0; i < 8; i++)
        if (header->magic[i] != MAGIC[i]) return BS_ERROR_MAGIC;
    if (header->major != BS_MAJOR || header->minor > BS_MINOR) return BS_ERROR_VERSION;
    if (header->file_size != file_bytes) return BS_ERROR_SIZE;
    if (header->header_size != sizeof(bs_header) || !all_zero(header->zero, 8) ||
        header->n_ops < 1 || header->n_ops > BS_MAX_OPS || header->n_tensors < 1 ||
        header->n_tensors > BS_MAX_TENSORS)
        return BS_ERROR_HEADER;
    uint64_t end = sizeof(bs_header) + (uint64_t)header->n_ops * sizeof(bs_op) +
                   (uint64_t)header->n_tensors * sizeof(bs_tensor);
    if (end > file_bytes) return BS_ERROR_SIZE;

    const uint8_t *bytes = (const uint8_t *)header;
    const uint8_t zero[4] = {0, 0, 0, 0}; /* stands for the checksum itself */
    uint32_t crc = crc32c(0xffffffff, bytes, 52);
    crc = crc32c(crc, zero, 4);
    crc = crc32c(crc, bytes + 56, end - 56);
    return ~crc == header->crc32c ? BS_OK : BS_ERROR_CHECKSUM;
}

/* The panels that this library reads beside rows. */
static int32_t own_panels(void)
{
#if BS_X86
    return BS_LANES;
#elif BS_ARM
    return BS_VECTORS;
#else
    return BS_ROWS;
#endif
}

/* Words side by side of one column in a panel. */
static uint64_t panel_step(int32_t layout)
{
    return layout == BS_VECTORS ? BS_VECTORS_WORDS : 1;
}

/* n rounded up to a multiple of a power of two. */
static uint64_t round_up(uint64_t n, uint64_t multiple)
{
    return (n + multiple - 1) & ~(multiple - 1);
}

/* Bytes that the dimensions ask for, 0 if they are not allowed. In panels, whole panels of whole
 * steps (tile.h); `step` and `width` are then those of the layout, else 1. */
static uint64_t bytes_of(const bs_tensor *tensor)
{
    static const uint8_t item[] = {1, 1, 4, 8, 4, 2};
    int is_panel = tensor->layout != BS_ROWS;
    uint64_t width = is_panel ? (uint64_t)bs_panel_width(tensor->layout) : 1;
    if (tensor->dtype > BS_U16 || tensor->rank < 1 || tensor->rank > 4) return 0;
    if (tensor->layout > BS_VECTORS || (is_panel && (tensor->dtype != BS_BITS ||
                                                     tensor->rank != 4 || !tensor->data_off)))
        return 0;
    uint64_t bytes = item[tensor->dtype];
    for (uint32_t i = 4; i-- > 0;) {
        uint64_t n = tensor->dims[i];
        if (i >= tensor->rank) {
            if (n != 0) return 0;
            continue;
        }
        if (n < 1 || n > BS_MAX_BYTES) return 0;
        if (tensor->dtype == BS_BITS && i + 1u == tensor->rank) n = bs_words((uint32_t)n);
        if (is_panel && i == 0) {
            bytes = round_up(bytes, 4 * panel_step(tensor->layout));
            n = round_up(n, width);
        }
        bytes *= n;
        if (bytes > BS_MAX_BYTES) return 0;
    }
    return bytes;
}

/* Bits past the last channel of every tap are zero: XOR with data of the same rule adds nothing. */
static int check_padding_bits(const bs_tensor *tensor, const uint32_t *words)
{
    uint32_t n_bits = tensor->dims[tensor->rank - 1];
    if (n_bits % 32 == 0) return BS_OK;
    uint32_t spare = ~0u << n_bits % 32;
    uint64_t n_words = tensor->bytes / 4;
    for (uint64_t i = bs_words(n_bits) - 1; i < n_words; i += bs_words(n_bits))
        if (words[i] & spare) return BS_ERROR_PADDING;
    return BS_OK;
}

/* In panels so are the columns and words that fill them up. */
static int check_panels(const bs_tensor *tensor, const uint32_t *word)
{
    const uint32_t *dims = tensor->dims;
    uint32_t n_tap = bs_words(dims[3]), n_words = dims[1] * dims[2] * n_tap; /* below 2^29 */
    uint32_t width = (uint32_t)bs_panel_width(tensor->layout);
    uint32_t step = (uint32_t)panel_step(tensor->layout);
    uint32_t last = dims[3] % 32 ? ~(~0u << dims[3] % 32) : ~0u;
    for (uint32_t first = 0; first < dims[0]; first += width)
        for (uint32_t w = 0; w < n_words; w += step)
            for (uint32_t c = first; c < first + width; c++)
                for (uint32_t i = 0; i < step; i++, word++) {
                    uint32_t used = (w + i) % n_tap + 1 == n_tap ? last : ~0u;
                    if (c >= dims[0] || w + i >= n_words) used = 0;
                    if (*word & ~used) return BS_ERROR_PADDING;
                }
    return BS_OK;
}

/* *end is where the previous part of the file ended; a constant has to begin right behind it. */
static int check_tensor(const bs_tensor *tensor, const uint8_t *file, uint64_t file_bytes,
                        uint64_t *end)
{
    uint64_t bytes = bytes_of(tensor);
    if (bytes == 0 || bytes != tensor->bytes || tensor->zero != 0) return BS_ERROR_TENSOR;
    if (tensor->data_off == 0) return tensor->crc32c == 0 ? BS_OK : BS_ERROR_CHECKSUM;
    uint64_t start = bs_align(*end);
    if (tensor->data_off != start || tensor->arena_off != 0) return BS_ERROR_OFFSET;
    if (start > file_bytes || bytes > file_bytes - start) return BS_ERROR_SIZE;
    if (!all_zero(file + *end, start - *end)) return BS_ERROR_OFFSET;
    if (~crc32c(0xffffffff, file + start, bytes) != tensor->crc32c) return BS_ERROR_CHECKSUM;
    *end = start + bytes;
    const uint32_t *words = (const uint32_t *)(file + start);
    if (tensor->layout != BS_ROWS && tensor->layout != own_panels()) return BS_ERROR_LAYOUT;
    if (tensor->layout != BS_ROWS) return check_panels(tensor, words);
    return tensor->dtype == BS_BITS ? check_padding_bits(tensor, words) : BS_OK;
}

static int check_tensors(const bs_model *model, const bs_header *header)
{
    const uint8_t *file = bs_file(model);
    const bs_tensor *tensors = bs_tensors(model);
    uint64_t end = (uint64_t)((const uint8_t *)(tensors + model->n_tensors) - file);
    for (uint32_t i = 0; i < model->n_tensors; i++) {
        if (tensors[i].layout != BS_ROWS && header->minor == 0) return BS_ERROR_TENSOR;
        TRY(check_tensor(&tensors[i], file, header->file_size, &end));
    }
    uint64_t meta = bs_align(end);
    if (header->meta_off != meta) return BS_ERROR_OFFSET;
    if (header->file_size != meta + header->meta_len) return BS_ERROR_SIZE;
    return all_zero(file + end, meta - end) ? BS_OK : BS_ERROR_OFFSET;
}

/* Is tensor t the network's input or written by one of the first n operations? */
static int is_written(const bs_model *model, uint32_t t, uint32_t n)
{
    if (t == 0) return 1;
    for (uint32_t i = 0; i < n; i++)
        if (bs_ops(model)[i].out == t) return 1;
    return 0;
}

/* Every operand is there, constants are constants, activations are written once and in time. */
static int check_order(const bs_model *model, uint32_t i)
{
    const bs_op *op = &bs_ops(model)[i];
    const bs_tensor *tensors = bs_tensors(model);
    if (op->in[BS_DATA] >= model->n_tensors || op->out >= model->n_tensors)
        return BS_ERROR_OPERAND;
    for (int k = BS_WEIGHTS; k <= BS_RESIDUAL; k++) {
        if (op->in[k] == BS_NONE) continue;
        if (op->in[k] >= model->n_tensors) return BS_ERROR_OPERAND;
        if (k != BS_RESIDUAL && tensors[op->in[k]].data_off == 0) return BS_ERROR_OPERAND;
    }
    if (!is_written(model, op->in[BS_DATA], i)) return BS_ERROR_ORDER;
    if (op->in[BS_RESIDUAL] != BS_NONE && !is_written(model, op->in[BS_RESIDUAL], i))
        return BS_ERROR_ORDER;
    if (is_written(model, op->out, i) || tensors[op->out].data_off != 0) return BS_ERROR_ORDER;
    return BS_OK;
}

/* Tensor 0 is the input, the last out is the output, and every other tensor is read by someone. */
static int check_uses(const bs_model *model)
{
    const bs_tensor *tensors = bs_tensors(model);
    uint32_t output = bs_output(model);
    if (tensors[0].data_off != 0 || tensors[output].dtype != BS_I32) return BS_ERROR_OPERAND;
    for (uint32_t t = 0; t < model->n_tensors; t++) {
        int used = t == output;
        for (uint32_t i = 0; i < model->n_ops && !used; i++)
            for (int k = 0; k < BS_INPUTS; k++) used |= bs_ops(model)[i].in[k] == t;
        if (!used) return BS_ERROR_ORDER;
    }
    return BS_OK;
}

/* The largest working memory of a convolution, more than BS_MAX_BYTES if it is too large. */
static uint64_t scratch_bytes(const bs_model *model)
{
    uint64_t largest = 0;
    for (uint32_t i = 0; i < model->n_ops; i++) {
        const bs_op *op = &bs_ops(model)[i];
        if (!bs_is_convolution(op)) continue;
        bs_conv conv = bs_prepare_conv(model, op);
        uint64_t bytes = bs_conv_scratch_bytes(&conv);
        if (bytes > largest) largest = bytes;
    }
    return largest;
}

/* Activations that live together do not overlap; input and output are the caller's memory. */
static int check_arena(bs_model *model, uint64_t declared)
{
    const bs_op *ops = bs_ops(model);
    const bs_tensor *tensors = bs_tensors(model);
    uint32_t output = bs_output(model);
    uint64_t end = 0;
    if (tensors[0].arena_off != 0 || tensors[output].arena_off != 0) return BS_ERROR_ARENA;
    for (uint32_t i = 0; i < model->n_ops; i++) {
        const bs_tensor *a = &tensors[ops[i].out];
        if (ops[i].out == output) continue;
        uint64_t a_end = (uint64_t)a->arena_off + a->bytes;
        if (a->arena_off % BS_ALIGNMENT) return BS_ERROR_ARENA;
        if (bs_align(a_end) > end) end = bs_align(a_end);
        uint32_t last = i; /* the operation that reads this tensor last */
        for (uint32_t j = i + 1; j < model->n_ops; j++)
            if (ops[j].in[BS_DATA] == ops[i].out || ops[j].in[BS_RESIDUAL] == ops[i].out) last = j;
        for (uint32_t j = i + 1; j <= last; j++) {
            const bs_tensor *b = &tensors[ops[j].out];
            if (ops[j].out != output && a->arena_off < b->arena_off + b->bytes &&
                b->arena_off < a_end)
                return BS_ERROR_ARENA;
        }
    }
    /* Working memory is no part of the file; in version 1.0 it was, as another runtime had it. */
    if (declared < end || (model->minor > 0 && declared > end) || declared > BS_MAX_BYTES)
        return BS_ERROR_ARENA;
    model->scratch_offset = end;
    model->arena_bytes = end + bs_align(scratch_bytes(model));
    return model->arena_bytes <= BS_MAX_BYTES ? BS_OK : BS_ERROR_ARENA;
}

int bs_open(bs_model *model, const void *file, uint64_t file_bytes)
{
    if (!model || !file || (uintptr_t)file % 8 != 0) return BS_ERROR_ARGUMENT;
    if (file_bytes < sizeof(bs_header)) return BS_ERROR_SIZE;
    const bs_header *header = file;
    TRY(check_header(header, file_bytes));

    model->file = (uintptr_t)file;
    model->n_ops = header->n_ops;
    model->n_tensors = header->n_tensors;
    model->arena_bytes = model->scratch_offset = 0;
    model->backend = bs_best_backend(bs_backends());
    model->minor = header->minor;
    for (int i = 0; i < 6; i++) model->reserved[i] = 0;

    TRY(check_tensors(model, header));
    for (uint32_t i = 0; i < model->n_ops; i++) TRY(check_order(model, i));
    TRY(check_uses(model));
    for (uint32_t i = 0; i < model->n_ops; i++) TRY(bs_check_op(model, i));
    return check_arena(model, header->arena_bytes);
}
