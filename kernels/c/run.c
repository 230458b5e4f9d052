/* bs_run and the small functions of the API. */
#include "conv.h"
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

static const void *constant(const bs_model *model, uint32_t number)
{
    if (number == BS_NONE) return 0;
    return bs_file(model) + bs_tensors(model)[number].data_off;
}

static bs_conv prepare(const bs_model *model, const bs_op *op, uint8_t *arena)
{
    const bs_tensor *tensors = bs_tensors(model);
    const bs_tensor *data = &tensors[op->in[BS_DATA]], *out = &tensors[op->out];
    const uint32_t *weights = tensors[op->in[BS_WEIGHTS]].dims;
    bs_conv conv;
    conv.data = arena + data->arena_off;
    conv.weights = constant(model, op->in[BS_WEIGHTS]);
    conv.bias = constant(model, op->in[BS_BIAS]);
    conv.threshold = constant(model, op->in[BS_THRESHOLD]);
    conv.patches = arena + model->scratch_offset;
    conv.out = arena + out->arena_off;
    for (int axis = 0; axis < 2; axis++) {
        conv.size[axis] = (int32_t)data->dims[axis];
        conv.kernel[axis] = (int32_t)weights[1 + axis];
        conv.stride[axis] = op->stride[axis];
        conv.padding[axis] = op->padding[axis];
        conv.pool[axis] = op->pool[axis];
        conv.out_size[axis] = (int32_t)out->dims[axis];
    }
    conv.channels = (int32_t)weights[3];
    conv.n_pixel = op->opcode == BS_CONV_B1 ? (int32_t)bs_words(weights[3]) : conv.channels;
    conv.n_patch = conv.kernel[0] * conv.kernel[1] * conv.n_pixel;
    conv.n_out = (int32_t)weights[0];
    return conv;
}

int bs_run(const bs_model *model, void *arena, const void *input, int32_t *output)
{
    if (!model || !arena || !input || !output) return BS_ERROR_ARGUMENT;
    int is_packed = bs_tensors(model)[0].dtype == BS_BITS;
    if ((uintptr_t)arena % 8 || (uintptr_t)output % 4 || (is_packed && (uintptr_t)input % 4))
        return BS_ERROR_ARGUMENT;
    for (uint32_t i = 0; i < model->n_ops; i++) {
        const bs_op *op = &bs_ops(model)[i];
        bs_conv conv = prepare(model, op, arena);
        if (op->in[BS_DATA] == 0) conv.data = input;
        if (i + 1 == model->n_ops) conv.out = output;
        if (op->opcode == BS_CONV_U8) bs_conv_u8(&conv);
        if (op->opcode == BS_CONV_B1) bs_conv_b1(&conv, model->cpu_features);
        if (op->opcode == BS_CONV_B1_I8) bs_conv_b1_i8(&conv);
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
        "arena size or offset is wrong, or tensors that live together overlap\0";
    const char *message = messages;
    if (error < 0 || error > BS_ERROR_ARENA) return "unknown error";
    for (; error > 0; error--) {
        while (*message) message++;
        message++;
    }
    return message;
}
