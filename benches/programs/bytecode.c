/* A bytecode interpreter that counts primes with a sieve: indirect branches, a stack in memory, byte loads. */

#include <string.h>

#include "measure.h"

#define LIMIT 200000
#define PRIMES_BELOW_LIMIT 17984

enum opcode { PUSH, LOAD, STORE, ADD, LESS, FETCH, PUT, JUMP, JUMP_IF, JUMP_UNLESS, STOP };
enum variable { NUMBER, MULTIPLE, COUNT };

struct instruction {
    int32_t opcode;
    int32_t operand;
};

static unsigned char composite[LIMIT];

/* for (NUMBER = 2; NUMBER < LIMIT; NUMBER++) if (!composite[NUMBER]) { COUNT++; strike out its multiples; } */
static const struct instruction program[] = {
    /*  0 */ {PUSH, 2},        {STORE, NUMBER},
    /*  2 */ {LOAD, NUMBER},   {PUSH, LIMIT},    {LESS, 0},     {JUMP_UNLESS, 34},
    /*  6 */ {LOAD, NUMBER},   {FETCH, 0},       {JUMP_IF, 29},
    /*  9 */ {LOAD, COUNT},    {PUSH, 1},        {ADD, 0},      {STORE, COUNT},
    /* 13 */ {LOAD, NUMBER},   {LOAD, NUMBER},   {ADD, 0},      {STORE, MULTIPLE},
    /* 17 */ {LOAD, MULTIPLE}, {PUSH, LIMIT},    {LESS, 0},     {JUMP_UNLESS, 29},
    /* 21 */ {PUSH, 1},        {LOAD, MULTIPLE}, {PUT, 0},
    /* 24 */ {LOAD, MULTIPLE}, {LOAD, NUMBER},   {ADD, 0},      {STORE, MULTIPLE},  {JUMP, 17},
    /* 29 */ {LOAD, NUMBER},   {PUSH, 1},        {ADD, 0},      {STORE, NUMBER},    {JUMP, 2},
    /* 34 */ {LOAD, COUNT},    {STOP, 0},
};

static int64_t interpret(const struct instruction *at)
{
    int64_t stack[16], variables[3] = {0}, *top = stack;
    for (;; at++) {
        switch ((enum opcode)at->opcode) {
        case PUSH: *top++ = at->operand; break;
        case LOAD: *top++ = variables[at->operand]; break;
        case STORE: variables[at->operand] = *--top; break;
        case ADD: top--; top[-1] += *top; break;
        case LESS: top--; top[-1] = top[-1] < *top; break;
        case FETCH: top[-1] = composite[top[-1]]; break;
        case PUT: top -= 2; composite[top[1]] = (unsigned char)top[0]; break;
        case JUMP: at = program + at->operand - 1; break;
        case JUMP_IF: if (*--top) at = program + at->operand - 1; break;
        case JUMP_UNLESS: if (!*--top) at = program + at->operand - 1; break;
        case STOP: return top[-1];
        }
    }
}

static uint64_t work(void)
{
    memset(composite, 0, sizeof composite);
    return (uint64_t)interpret(program);
}

int main(int argc, char **argv)
{
    return measure("bytecode", work, PRIMES_BELOW_LIMIT, 12, argc, argv);
}
