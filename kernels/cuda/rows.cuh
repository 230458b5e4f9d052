/* Packed rows one after another, dealt to warps of 32 words, whatever rows these are of. */
#pragma once
#include "device.cuh"

enum { ROW_WARPS = 8 }; /* of a block */

/* Rows in words and units. Where a row fills its words, all rows are passed as a single one. */
struct Rows {
    u32 n_words; /* of all rows, at most 2^31 - 1 */
    u32 row_words;
    i64 row_length; /* units or elements */
};

struct Place {
    i64 row;
    u32 word; /* of the row */
};

DEVICE Place place_of(const Rows &rows, u32 word)
{
    if (rows.n_words == rows.row_words) return Place{0, word};
    const u32 row = word / rows.row_words;
    return Place{(i64)row, word - row * rows.row_words};
}

DEVICE void step_to_next(const Rows &rows, Place &place)
{
    place.word++;
    if (place.word == rows.row_words) place = Place{place.row + 1, 0};
}

DEVICE u32 first_word_of_warp()
{
    return (blockIdx.x * ROW_WARPS + (u32)warp_number()) * (u32)WARP;
}
