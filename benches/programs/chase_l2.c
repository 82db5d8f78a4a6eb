/* A walk along pointers in 256 KiB, a line each: beyond the first-level cache, within the second. */

#define NAME "chase_l2"
#define LINKS 4096
#define STRIDE 64
#define STEPS 60000000
#include "chase.h"
