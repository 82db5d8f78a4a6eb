/* Streams through three arrays of 4 MB. */

#define NAME "streaming"
#define COUNT 500000
#define PASSES 64
#include "streaming.h"
