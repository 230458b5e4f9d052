/* bs_run and the small functions of the API. */
#include "conv.h"
#include "elementwise.h"
#include "format.h"

uint64_t bs_arena_bytes(const bs_model *model)
{
    return model->arena_bytes;
}

uint64_t bs_input_bytes(const bs_model *model)
{
    return bs_tensors(model)[0].bytes;
}

uint64_t bs_output_count(const bs_model *model)
{
    return bs_tensors(model)[bs_output(model)].bytes / 4;
}

uint32_t bs_version(void)
{
    return (uint32_t)BS_MAJOR << 16 | BS_MINOR;
}

int bs_set_backend(bs_model *model, uint32_t backend)
{
    if (!model) return BS_ERROR_ARGUMENT;
    uint32_t backends = bs_backends();
    if (backends >> BS_NEON & 1 && sizeof(void *) == 8) backends |= 1u << BS_DOTPROD;
    if (backend >= BS_BACKENDS || !(backends >> backend & 1)) return BS_ERROR_BACKEND;
    model->backend = backend;
    return BS_OK;
}

static const void *constant(const bs_model *model, uint32_t number)
{
    if (number == BS_NONE) return 0;
    return bs_file(model) + bs_tensors(model)[number].data_off;
}

bs_conv bs_prepare_conv(const bs_model *model, const bs_op *op)
{
    const bs_tensor *tensors = bs_tensors(model);
    const bs_tensor *data = &tensors[op->in[BS_DATA]], *out = &tensors[op->out];
    const bs_tensor *weights = &tensors[op->in[BS_WEIGHTS]];
    int is_of_bits = op->opcode == BS_CONV_B1 || op->opcode == BS_CONV_B1_I8;
    bs_conv conv;
    conv.data = conv.scratch = conv.out = 0;
    conv.weights = constant(model, op->in[BS_WEIGHTS]);
    conv.bias = constant(model, op->in[BS_BIAS]);
    conv.threshold = constant(model, op->in[BS_PER_CHANNEL]);
    for (int axis = 0; axis < 2; axis++) {
        conv.size[axis] = (int32_t)data->dims[axis];
        conv.kernel[axis] = (int32_t)weights->dims[1 + axis];
        conv.padding[axis] = op->padding[axis];
        conv.pool[axis] = op->pool[axis];
        conv.out_size[axis] = (int32_t)out->dims[axis];
        /* The stride to a second position, which alone is bounded by the size of the data. */
        int is_alone = op->pool[axis] == 1 && out->dims[axis] == 1;
        conv.stride[axis] = is_alone ? 1 : op->stride[axis];
    }
    conv.channels = (int32_t)data->dims[2];
    conv.n_out = (int32_t)weights->dims[0];
    conv.groups = bs_groups(op);
    conv.border = is_of_bits && !(op->flags & BS_ZERO_BORDER) ? -1 : 0;
    conv.kind = op->opcode; /* BS_CONV_I32 is BS_I32_I8 */
    conv.layout = weights->layout;
    conv.backend = model->backend;
    return conv;
}

static bs_elementwise prepare(const bs_model *model, const bs_op *op)
{
    const bs_tensor *tensors = bs_tensors(model);
    const bs_tensor *data = &tensors[op->in[BS_DATA]], *out = &tensors[op->out];
    bs_elementwise e;
    e.opcode = op->opcode;
    e.dtype = data->dtype;
    e.weights = constant(model, op->in[BS_WEIGHTS]);
    e.per_channel = constant(model, op->in[BS_PER_CHANNEL]);
    e.bias = constant(model, op->in[BS_BIAS]);
    for (int axis = 0; axis < 2; axis++) {
        e.size[axis] = (int32_t)data->dims[axis];
        e.out_size[axis] = (int32_t)out->dims[axis];
        e.window[axis] = op->pool[axis];
        e.stride[axis] = op->stride[axis];
        e.padding[axis] = op->padding[axis];
    }
    e.channels = (int32_t)data->dims[2];
    e.n_out = (int32_t)out->dims[2];
    e.has_knee = bs_is_scale(op) && tensors[op->in[BS_PER_CHANNEL]].dims[0] == 3;
    e.shift = op->extra;
    bs_box box = bs_box_of(op);
    for (int axis = 0; axis < 3; axis++) e.start[axis] = box.start[axis];
    e.n_table = op->opcode == BS_LOOKUP ? (int32_t)tensors[op->in[BS_WEIGHTS]].dims[0] : 0;
    return e;
}

int bs_run(const bs_model *model, void *arena, const void *input, int32_t *output)
{
    if (!model || !arena || !input || !output) return BS_ERROR_ARGUMENT;
    const bs_tensor *tensors = bs_tensors(model);
    int is_words = tensors[0].dtype == BS_BITS || tensors[0].dtype == BS_I32;
    if ((uintptr_t)arena % 8 || (uintptr_t)output % 4 || (is_words && (uintptr_t)input % 4))
        return BS_ERROR_ARGUMENT;
    uint8_t *memory = arena;
    for (uint32_t i = 0; i < model->n_ops; i++) {
        const bs_op *op = &bs_ops(model)[i];
        uint32_t data = op->in[BS_DATA], residual = op->in[BS_RESIDUAL];
        const void *from = data == 0 ? input : memory + tensors[data].arena_off;
        void *to = i + 1 == model->n_ops ? (void *)output : memory + tensors[op->out].arena_off;
        if (bs_is_convolution(op)) {
            bs_conv conv = bs_prepare_conv(model, op);
            conv.data = from;
            conv.out = to;
            conv.scratch = memory + model->scratch_offset;
            bs_convolve(&conv);
        } else if (op->opcode == BS_CONV_I32) {
            bs_conv conv = bs_prepare_conv(model, op);
            conv.data = from;
            conv.out = to;
            bs_conv_i32(&conv);
        } else {
            bs_elementwise e = prepare(model, op);
            e.data = from;
            e.out = to;
            e.residual = residual == 0 ? input : 0;
            if (residual != 0 && residual != BS_NONE)
                e.residual = (const int32_t *)(memory + tensors[residual].arena_off);
            bs_run_elementwise(model->backend, &e);
        }
    }
    return BS_OK;
}

const char *bs_strerror(int error)
{
    /* One string, not an array of pointers: the library then needs no relocation. */
    static const char messages[] =
        "no error\0"
        "an argument is null or not aligned\0"
        "the file is shorter or longer than it says\0"
        "not a .bspn file\0"
        "this version of the format is unknown here; update bitspin\0"
        "a field of the header has an impossible value\0"
        "a checksum is wrong: the file is damaged\0"
        "type, layout, dimensions or size of a tensor is impossible\0"
        "a constant is not where it has to be, or a gap is not zero\0"
        "a padding bit is not zero\0"
        "unknown operation, flag or parameter\0"
        "an operand is missing, superfluous or of the wrong type\0"
        "the shapes of an operation do not belong together\0"
        "a tensor is read before it is written, written twice or unused\0"
        "an accumulator could leave int32\0"
        "a threshold is out of reach, or a flip is neither 0 nor 1\0"
        "arena size or offset is wrong, or tensors that live together overlap\0"
        "the weights are packed for another kind of processor; export the model for this one\0"
        "the declared interval of an int32 output is wrong\0"
        "this processor or this library does not have that back end\0";
    const char *message = messages;
    if (error < 0 || error > BS_ERROR_BACKEND) return "unknown error";
    for (; error > 0; error--) {
        while (*message) message++;
        message++;
    }
    return message;
}
