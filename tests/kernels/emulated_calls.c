/* Functions whose results tell whether the emulator passes arguments and arrays as AAPCS64 does. */
#include <stdint.h>

#define API __attribute__((visibility("default")))

/* Decimal digits: the arguments past the eighth of a kind lie on the stack. */
API int64_t digits(int64_t a, float f, int64_t b, int64_t c, int64_t d, int64_t e, float g,
                   int64_t h, int64_t i, int64_t j, int64_t k, int64_t l)
{
    int64_t values[] = {a, (int64_t)(2 * f), b, c, d, e, (int64_t)(2 * g), h, i, j, k, l};
    int64_t number = 0;
    for (int at = 0; at < 12; at++) number = number * 10 + values[at];
    return number;
}

API int64_t many_floats(float a, float b, float c, float d, float e, float f, float g, float h,
                        float i, float j)
{
    return (int64_t)(a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + 10 * j);
}

/* to[i] += from[i]; the sum of what was read. */
API int64_t add(const int32_t *from, int32_t *to, int64_t n)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += from[i];
        to[i] += from[i];
    }
    return sum;
}
