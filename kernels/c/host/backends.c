/* The library face of the kernels: what Python calls, beside the runtime that ships. Every scalar
 * is int64_t or float, every array an address, every result int64_t. */
#include "bitspin.h"
#include "cpu.h"

BS_API int64_t bsk_backends(void);

int64_t bsk_backends(void)
{
    return bs_backends();
}
