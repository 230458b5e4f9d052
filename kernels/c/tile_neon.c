/* The tile for ARM. */
#include "tile.h"

#if BS_ARM
void bs_tile_neon(const bs_tile *tile)
{
    bs_tile_portable(tile, BS_VECTORS);
}
#endif
