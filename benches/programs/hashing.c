/* A table of words by hash (FNV-1a, open addressing): byte loads, string compares, allocation by bumping. */

#include <string.h>

#include "measure.h"

#define SLOTS 32768
#define WORDS 200000
#define VARIETY 10007 /* a prime, so that the multiplication below reaches every word */

static const char *table[SLOTS];
static char letters[SLOTS * 16];

/* Write the word of a number: letters of its digits in base 11 behind a common prefix. */
static size_t spell(char *word, uint32_t number)
{
    size_t length = 0;
    memcpy(word, "word-", 5);
    for (length = 5; number || length == 5; number /= 11)
        word[length++] = (char)('a' + number % 11);
    word[length] = 0;
    return length;
}

static uint64_t hash(const char *word)
{
    uint64_t value = 0xcbf29ce484222325;
    for (; *word; word++)
        value = (value ^ (unsigned char)*word) * 0x100000001b3;
    return value;
}

static int same(const char *left, const char *right)
{
    while (*left && *left == *right)
        left++, right++;
    return *left == *right;
}

/* How many different words there were among all that were looked up. */
static uint64_t work(void)
{
    char word[16], *unused = letters;
    uint64_t different = 0;
    memset(table, 0, sizeof table);
    for (uint32_t i = 0; i < WORDS; i++) {
        size_t length = spell(word, i * 3001u % VARIETY);
        uint64_t slot = hash(word) % SLOTS;
        while (table[slot] && !same(table[slot], word))
            slot = (slot + 1) % SLOTS;
        if (!table[slot]) {
            table[slot] = memcpy(unused, word, length + 1);
            unused += length + 1;
            different++;
        }
    }
    return different;
}

int main(int argc, char **argv)
{
    return measure("hashing", work, VARIETY, 40, argc, argv);
}
