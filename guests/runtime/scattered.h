/*
 * Pages that follow each other in linear addresses and lie scattered in memory, and loops at CPL 3 over them that run
 * long enough for a translator to look for whatever makes them fast.
 */
#ifndef SCATTERED_H
#define SCATTERED_H

#include "guest.h"

enum order { DESCENDING, SHUFFLED, PAIRS, ASCENDING };

/* Where the page `number` of `count` lies among as many frames. `count` is even and no multiple of 37 or 2 * 37. */
unsigned place_of(enum order order, unsigned number, unsigned count);

/* Map `count` pages from `linear` on to the frames from `frames` on. */
void lay_out(u64 linear, u8 *frames, unsigned count, enum order order, u64 rights);

/*
 * Loops, called at CPL 3, over the `count` pages from `linear` on, `rounds` times: 16 quadwords of each page, which lie
 * `STRIDE` bytes apart.
 */
enum { STRIDE = 256, WORDS_A_PAGE = PAGE / STRIDE };

u64 read_all(u64 linear, unsigned count, unsigned rounds);
void add_to_all(u64 linear, unsigned count, unsigned rounds, u64 what);
void write_all(u64 linear, unsigned count, unsigned rounds, u64 what);

/* Whether the quadwords of a frame that the loops reach are all `value`, and all others `rest`. */
bool frame_is(const u8 *frame, u64 value, u64 rest);

#endif
