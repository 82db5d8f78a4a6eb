/* Bodies that attract each other, in double precision: square roots, divisions, structures in memory. */

#include <math.h>
#include <string.h>

#include "measure.h"

#define BODIES 5
#define STEPS 40000
#define BITS_AT_END 0xee3c89abe926f78b

struct body {
    double position[3], velocity[3], mass;
};

/* A heavy body at rest and four on nearly circular paths around it, with gravity's constant as 1. */
static const struct body at_start[BODIES] = {
    {{0, 0, 0}, {0, 0, 0}, 1000},
    {{10, 0, 0}, {0, 10, 0.1}, 1},
    {{0, 20, 0}, {-7, 0, 0.2}, 2},
    {{-40, 0, 1}, {0, -5, 0}, 3},
    {{0, -90, 0}, {3.3, 0, 0}, 1},
};

static void attract(struct body *a, struct body *b, double dt)
{
    double distance[3], square = 0;
    for (int i = 0; i < 3; i++) {
        distance[i] = a->position[i] - b->position[i];
        square += distance[i] * distance[i];
    }
    double pull = dt / (square * sqrt(square));
    for (int i = 0; i < 3; i++) {
        a->velocity[i] -= distance[i] * b->mass * pull;
        b->velocity[i] += distance[i] * a->mass * pull;
    }
}

static void step(struct body *bodies, double dt)
{
    for (int i = 0; i < BODIES; i++)
        for (int j = i + 1; j < BODIES; j++)
            attract(&bodies[i], &bodies[j], dt);
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++)
            bodies[i].position[k] += dt * bodies[i].velocity[k];
}

/* The bits of where the bodies end; IEEE 754 rounding makes them the same everywhere. */
static uint64_t work(void)
{
    struct body bodies[BODIES];
    uint64_t mixed = 0;
    memcpy(bodies, at_start, sizeof bodies);
    for (int i = 0; i < STEPS; i++)
        step(bodies, 0.001);
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++) {
            uint64_t bits;
            memcpy(&bits, &bodies[i].position[k], sizeof bits);
            mixed = mixed * 31 + bits;
        }
    return mixed;
}

int main(int argc, char **argv)
{
    return measure("nbody", work, BITS_AT_END, 20, argc, argv);
}
