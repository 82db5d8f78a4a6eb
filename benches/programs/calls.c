/* Indirect calls: a list of objects, each with a function of its own, called in an order hard to predict. */

#include "measure.h"

#define OBJECTS 4096

struct object {
    uint64_t (*act)(const struct object *self, uint64_t state);
    uint64_t value;
};

static struct object objects[OBJECTS];
static int kinds[OBJECTS];

static uint64_t add(const struct object *self, uint64_t state) { return state + self->value; }
static uint64_t subtract(const struct object *self, uint64_t state) { return state - self->value; }
static uint64_t flip(const struct object *self, uint64_t state) { return state ^ self->value; }
static uint64_t scale(const struct object *self, uint64_t state) { return state * (self->value | 1); }
static uint64_t turn(const struct object *self, uint64_t state)
{
    unsigned by = self->value % 63 + 1;
    return state << by | state >> (64 - by);
}
static uint64_t mix(const struct object *self, uint64_t state) { return state ^ (state >> 29) ^ self->value; }
static uint64_t spread(const struct object *self, uint64_t state) { return state + (state << 3) + self->value; }
static uint64_t keep(const struct object *self, uint64_t state) { return state & 1 ? state : state + self->value; }

static uint64_t (*const acts[8])(const struct object *, uint64_t) = {
    add, subtract, flip, scale, turn, mix, spread, keep,
};

static uint64_t work(void)
{
    uint64_t state = 1;
    for (int i = 0; i < OBJECTS; i++)
        state = objects[i].act(&objects[i], state);
    return state;
}

/* The same by direct calls. */
static uint64_t expected(void)
{
    uint64_t state = 1;
    for (int i = 0; i < OBJECTS; i++) {
        const struct object *object = &objects[i];
        switch (kinds[i]) {
        case 0: state = add(object, state); break;
        case 1: state = subtract(object, state); break;
        case 2: state = flip(object, state); break;
        case 3: state = scale(object, state); break;
        case 4: state = turn(object, state); break;
        case 5: state = mix(object, state); break;
        case 6: state = spread(object, state); break;
        default: state = keep(object, state); break;
        }
    }
    return state;
}

int main(int argc, char **argv)
{
    uint64_t seed = 4711;
    for (int i = 0; i < OBJECTS; i++) {
        kinds[i] = (int)(next_random(&seed) >> 20) & 7;
        objects[i].act = acts[kinds[i]];
        objects[i].value = next_random(&seed);
    }
    return measure("calls", work, expected(), 8000, argc, argv);
}
