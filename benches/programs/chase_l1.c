/* A walk along pointers in 16 KiB, which every first-level cache holds. */

#define NAME "chase_l1"
#define LINKS 1024
#define STRIDE 16
#define STEPS 200000000
#include "chase.h"
