/* Convolutions for Python: a batch of images, one scratch memory per call. */
#include "../bitspin.h"
#include "../conv.h"
#include "../pack.h"
#include "shape.h"

#define ADDRESS(type, value) ((type *)(uintptr_t)(value))

BS_API int64_t bsk_convolution_scratch(int64_t backend, int64_t shape);
BS_API int64_t bsk_convolve(int64_t backend, int64_t shape, int64_t images, int64_t weights,
                            int64_t bias, int64_t threshold, int64_t scratch, int64_t out,
                            int64_t begin, int64_t end);
BS_API int64_t bsk_convolve_f32(int64_t backend, int64_t shape, int64_t images, int64_t weights,
                                int64_t bias, int64_t threshold, int64_t scratch, int64_t out,
                                int64_t packed, float level);

/* Bytes of scratch memory that a call with this shape needs. */
int64_t bsk_convolution_scratch(int64_t backend, int64_t shape)
{
    bs_conv conv = bs_describe_conv(backend, shape);
    return (int64_t)bs_conv_scratch_bytes(&conv);
}

static int64_t words_of(int64_t n_bits)
{
    return (n_bits + 31) / 32;
}

/* Images [begin, end); bias and threshold may be 0. */
int64_t bsk_convolve(int64_t backend, int64_t shape, int64_t images, int64_t weights, int64_t bias,
                     int64_t threshold, int64_t scratch, int64_t out, int64_t begin, int64_t end)
{
    bs_conv conv = bs_describe_conv(backend, shape);
    int64_t pixels = (int64_t)conv.size[0] * conv.size[1];
    int64_t out_pixels = (int64_t)conv.out_size[0] * conv.out_size[1];
    int is_bits = conv.kind == BS_B1_B1 || conv.kind == BS_B1_I8;
    int64_t image_bytes = pixels * (is_bits ? 4 * words_of(conv.channels) : conv.channels);
    int64_t out_bytes = out_pixels * 4 * (threshold ? words_of(conv.n_out) : conv.n_out);
    conv.weights = ADDRESS(const void, weights);
    conv.bias = ADDRESS(const int32_t, bias);
    conv.threshold = ADDRESS(const int32_t, threshold);
    conv.scratch = ADDRESS(void, scratch);
    for (int64_t i = begin; i < end; i++) {
        conv.data = ADDRESS(const uint8_t, images) + i * image_bytes;
        conv.out = ADDRESS(uint8_t, out) + i * out_bytes;
        bs_convolve(&conv);
    }
    return 0;
}

/* One float32 image (height, width, channels): bit = value >= level, into packed, then the
 * convolution of the bits. */
int64_t bsk_convolve_f32(int64_t backend, int64_t shape, int64_t images, int64_t weights,
                         int64_t bias, int64_t threshold, int64_t scratch, int64_t out,
                         int64_t packed, float level)
{
    bs_conv conv = bs_describe_conv(backend, shape);
    int64_t pixels = (int64_t)conv.size[0] * conv.size[1], n = conv.channels;
    const float *from = ADDRESS(const float, images);
    uint32_t *to = ADDRESS(uint32_t, packed);
    if (n % 32 == 0) bs_pack_f32((uint32_t)backend, from, pixels * n, level, to);
    else
        for (int64_t i = 0; i < pixels; i++)
            bs_pack_f32((uint32_t)backend, from + i * n, n, level, to + i * words_of(n));
    return bsk_convolve(backend, shape, packed, weights, bias, threshold, scratch, out, 0, 1);
}
