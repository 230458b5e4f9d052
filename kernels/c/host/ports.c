/* What the execution ports of this processor can do at most, from registers alone: the limit that
 * the kernels are held against, measured in the same run as they.
 *
 * Each function returns how much it did, so rate = result / seconds:
 *
 *   bsk_port_xor_popcnt_add   binary operations, two (multiply, add) per bit of the vectors
 *   bsk_port_vnni             int8 operations, two (multiply, add) per byte of the vectors
 *   bsk_read_bandwidth        bytes read
 *
 * or 0 if nothing is known of that back end. The caller knows that the processor has it, since
 * asking takes tens of microseconds in a virtual machine; only bsk_port_vnni asks itself. With n
 * of some 100000 neither that nor the call counts.
 *
 * A product of 512 bits is three vector operations on AVX-512, and one of 128 bits three on ARM:
 * xor, count, add. Cores with two 512-bit vector ports (Ice Lake) thus reach 2/3 * 1024 binary
 * operations per cycle, and with four (Zen 5) 4/3 * 1024. AVX2 counts by table: xor, shuffle, add
 * for each half of the bytes, six operations for 256 bits, and three that split the bytes, which
 * the six rows of a tile share: 39 for six products, on three ports 236 operations per cycle. */
#include "../bitspin.h"
#include "../cpu.h"

BS_API int64_t bsk_port_xor_popcnt_add(int64_t backend, int64_t n);
BS_API int64_t bsk_port_vnni(int64_t n); /* 0: no AVX-512 VNNI */
BS_API int64_t bsk_read_bandwidth(int64_t address, int64_t bytes, int64_t n);

/* Enough independent sums to hide the latency of an add on four ports. */
#define EIGHT(step) step(0) step(1) step(2) step(3) step(4) step(5) step(6) step(7)
enum { SUMS = 8 };

#if BS_X86
#include <immintrin.h>

BS_TARGET_AVX512 static int64_t xor_popcnt_add_avx512(int64_t n)
{
    __m512i sum[SUMS], t, a = _mm512_set1_epi32(5), b = _mm512_set1_epi32(3);
    for (int i = 0; i < SUMS; i++) sum[i] = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i++) {
#define STEP(s)                                                                     \
    __asm__ volatile("vpxord %2, %3, %1\n\tvpopcntd %1, %1\n\tvpaddd %1, %0, %0"    \
                     : "+v"(sum[s]), "=&v"(t)                                       \
                     : "v"(a), "v"(b));
        EIGHT(STEP)
#undef STEP
    }
    return n * SUMS * 512 * 2;
}

BS_TARGET_AVX2 static int64_t xor_popcnt_add_avx2(int64_t n)
{
    __m256i sum[6], t, u, a = _mm256_set1_epi32(5), low, high, mask = _mm256_set1_epi8(15);
    __m256i table = _mm256_set1_epi32(4);
    for (int i = 0; i < 6; i++) sum[i] = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i++) {
        __asm__ volatile("vpand %2, %3, %0\n\tvpsrld $4, %2, %1\n\tvpand %1, %3, %1"
                         : "=&x"(low), "=&x"(high)
                         : "x"(a), "x"(mask));
#define STEP(s)                                                                        \
    __asm__ volatile("vpxor %3, %4, %1\n\tvpshufb %1, %6, %1\n\tvpaddb %1, %0, %0\n\t" \
                     "vpxor %3, %5, %2\n\tvpshufb %2, %6, %2\n\tvpaddb %2, %0, %0"      \
                     : "+x"(sum[s]), "=&x"(t), "=&x"(u)                                 \
                     : "x"(a), "x"(low), "x"(high), "x"(table));
        STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5)
#undef STEP
    }
    return n * 6 * 256 * 2;
}

/* A dot product takes five cycles, so that two ports need ten sums or more. */
BS_TARGET_AVX512 static int64_t vnni_avx512(int64_t n)
{
    __m512i low[SUMS], high[SUMS], a = _mm512_set1_epi32(5), b = _mm512_set1_epi32(3);
    for (int i = 0; i < SUMS; i++) low[i] = high[i] = _mm512_setzero_si512();
    for (int64_t i = 0; i < 4 * n; i++) { /* long enough that asking for it does not count */
#define STEP(s)                                                                         \
    __asm__ volatile("vpdpbusd %2, %3, %0\n\tvpdpbusd %2, %3, %1"                       \
                     : "+v"(low[s]), "+v"(high[s])                                      \
                     : "v"(a), "v"(b));
        EIGHT(STEP)
#undef STEP
    }
    return 4 * n * 2 * SUMS * 64 * 2;
}

BS_TARGET_AVX512 static void read_avx512(const char *from, const char *end)
{
    __m512i t;
    for (; from + 256 <= end; from += 256) {
        __asm__ volatile("vmovdqu32 (%1), %0" : "=v"(t) : "r"(from));
        __asm__ volatile("vmovdqu32 64(%1), %0" : "=v"(t) : "r"(from));
        __asm__ volatile("vmovdqu32 128(%1), %0" : "=v"(t) : "r"(from));
        __asm__ volatile("vmovdqu32 192(%1), %0" : "=v"(t) : "r"(from));
    }
}

BS_TARGET_AVX2 static void read_avx2(const char *from, const char *end)
{
    __m256i t;
    for (; from + 128 <= end; from += 128) {
        __asm__ volatile("vmovdqu (%1), %0" : "=x"(t) : "r"(from));
        __asm__ volatile("vmovdqu 32(%1), %0" : "=x"(t) : "r"(from));
        __asm__ volatile("vmovdqu 64(%1), %0" : "=x"(t) : "r"(from));
        __asm__ volatile("vmovdqu 96(%1), %0" : "=x"(t) : "r"(from));
    }
}

static int has_vnni(void)
{
    unsigned a, b, c, d;
    return (bs_backends() >> BS_AVX512 & 1) && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           (c >> 11 & 1);
}
#endif

#if defined(__aarch64__)
#include <arm_neon.h>

static int64_t xor_popcnt_add_neon(int64_t n)
{
    uint8x16_t sum[SUMS], t, a = vdupq_n_u8(5), b = vdupq_n_u8(3);
    for (int i = 0; i < SUMS; i++) sum[i] = vdupq_n_u8(0);
    for (int64_t i = 0; i < n; i++) {
#define STEP(s)                                                                           \
    __asm__ volatile("eor %1.16b, %2.16b, %3.16b\n\tcnt %1.16b, %1.16b\n\t"               \
                     "add %0.16b, %0.16b, %1.16b"                                         \
                     : "+w"(sum[s]), "=&w"(t)                                             \
                     : "w"(a), "w"(b));
        EIGHT(STEP)
#undef STEP
    }
    return n * SUMS * 128 * 2;
}
#endif

int64_t bsk_port_xor_popcnt_add(int64_t backend, int64_t n)
{
#if BS_X86
    if (backend == BS_AVX512) return xor_popcnt_add_avx512(n);
    if (backend == BS_AVX2) return xor_popcnt_add_avx2(n);
#elif defined(__aarch64__)
    if (backend == BS_NEON || backend == BS_DOTPROD) return xor_popcnt_add_neon(n);
#endif
    (void)backend;
    (void)n;
    return 0;
}

int64_t bsk_port_vnni(int64_t n)
{
#if BS_X86
    if (has_vnni()) return vnni_avx512(n);
#endif
    (void)n;
    return 0;
}

/* Reads bytes (a multiple of 256) n times from address, with the widest loads there are. */
int64_t bsk_read_bandwidth(int64_t address, int64_t bytes, int64_t n)
{
    const char *from = (const char *)(uintptr_t)address;
    uint32_t mask = bs_backends(); /* once: a virtual machine takes microseconds for it */
#if BS_X86
    if (mask >> BS_AVX512 & 1) {
        for (int64_t i = 0; i < n; i++) read_avx512(from, from + bytes);
        return n * bytes;
    }
    if (mask >> BS_AVX2 & 1) {
        for (int64_t i = 0; i < n; i++) read_avx2(from, from + bytes);
        return n * bytes;
    }
#endif
    (void)mask;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t at = 0; at < bytes; at += 8) {
            uint64_t word = *(const volatile uint64_t *)(from + at);
            (void)word;
        }
    }
    return n * bytes;
}
