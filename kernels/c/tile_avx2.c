/* The tile for x86-64 with AVX2. */
#include "tile.h"

#if BS_X86
void bs_tile_avx2(const bs_tile *tile)
{
    bs_tile_portable(tile, BS_LANES);
}
#endif
