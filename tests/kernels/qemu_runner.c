/* Runs a model under qemu-user, without libc: reads from standard input, writes to standard output.
 *
 * Input: u64 model bytes, u64 image bytes, u64 number of images, the model, the images.
 * Output: the int32 outputs of all images. Exit code: the bs_error, or 99 if the input is cut.
 */
#include "bitspin.h"
#include "qemu_calls.h"

#define BYTES (1 << 24)

static uint64_t input_words[BYTES / 8];
static uint64_t arena_words[BYTES / 8];
static int32_t output[1 << 16];

static _Noreturn void leave(int code) {
    for (;;) call(EXIT, code, 0, 0);
}

static int run(void) {
    uint8_t *input = (uint8_t *)input_words;
    uint64_t n = 0;
    for (long got; (got = call(READ, 0, (long)(input + n), (long)(BYTES - n))) > 0;)
        n += (uint64_t)got;
    uint64_t model_bytes = input_words[0], image_bytes = input_words[1], n_images = input_words[2];
    if (n != 24 + model_bytes + image_bytes * n_images) return 99;
    const uint8_t *images = input + 24 + model_bytes;
    bs_model model;
    int error = bs_open(&model, input + 24, model_bytes);
    if (error) return error;
    if (bs_arena_bytes(&model) > BYTES || bs_input_bytes(&model) != image_bytes) return 99;
    for (uint64_t i = 0; i < n_images; i++) {
        error = bs_run(&model, arena_words, images + i * image_bytes, output);
        if (error) return error;
        call(WRITE, 1, (long)output, (long)(4 * bs_output_count(&model)));
    }
    return 0;
}

_Noreturn void _start(void) {
    leave(run());
}
