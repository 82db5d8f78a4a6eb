/* The Mandelbrot set in scalar double precision: arithmetic in registers and one compare a step. */

#include "measure.h"

#define SIDE 256
#define MOST 200
#define STEPS_IN_ALL 2491477

static unsigned steps(double cr, double ci)
{
    double zr = 0, zi = 0;
    unsigned n = 0;
    while (n < MOST && zr * zr + zi * zi <= 4) {
        double next = zr * zr - zi * zi + cr;
        zi = 2 * zr * zi + ci;
        zr = next;
        n++;
    }
    return n;
}

/* All steps taken; IEEE 754 rounding makes it one number everywhere. */
static uint64_t work(void)
{
    uint64_t sum = 0;
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++)
            sum += steps(x * (3.0 / SIDE) - 2.25, y * (3.0 / SIDE) - 1.5);
    return sum;
}

int main(int argc, char **argv)
{
    return measure("mandelbrot", work, STEPS_IN_ALL, 15, argc, argv);
}
