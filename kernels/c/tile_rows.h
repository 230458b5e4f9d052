/* The product of a few rows and canonical columns, layout 0 of tile.h. */
#ifndef BITSPIN_TILE_ROWS_H
#define BITSPIN_TILE_ROWS_H

#include "tile.h"

/* As bs_run_tile in the form BS_XOR, but tile->panels are columns one behind the other, n_columns
 * of them; n_panels does not count. Any number of rows. */
void bs_tile_rows(uint32_t backend, const bs_tile *tile, int32_t n_columns);

#endif
