/* Streams through three arrays of 4 MiB: the same elements' pages differ only in high bits of their numbers. */

#define NAME "aliasing"
#define COUNT 524288
#define PASSES 16
#include "streaming.h"
