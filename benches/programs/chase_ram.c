/* A walk along pointers in 128 MiB, a line each: beyond the caches and what their TLBs reach. */

#define NAME "chase_ram"
#define LINKS 2097152
#define STRIDE 64
#define STEPS 1000000
#include "chase.h"
