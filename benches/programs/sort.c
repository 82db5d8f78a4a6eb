/* Quicksort, finished by insertion sort, of random 32-bit numbers: unpredictable branches, recursion, swaps. */

#include <string.h>

#include "measure.h"

#define COUNT 200000
#define SHORT 12

static uint32_t shuffled[COUNT], numbers[COUNT];
static uint64_t total;

static void insertion_sort(uint32_t *first, uint32_t *end)
{
    for (uint32_t *next = first + 1; next < end; next++) {
        uint32_t value = *next, *hole = next;
        for (; hole > first && hole[-1] > value; hole--)
            *hole = hole[-1];
        *hole = value;
    }
}

static uint32_t middle_of_three(uint32_t a, uint32_t b, uint32_t c)
{
    if (a < b)
        return b < c ? b : a < c ? c : a;
    return a < c ? a : b < c ? c : b;
}

static void quicksort(uint32_t *first, uint32_t *end)
{
    while (end - first > SHORT) {
        uint32_t pivot = middle_of_three(*first, first[(end - first) / 2], end[-1]);
        uint32_t *low = first, *high = end - 1;
        while (low <= high) {
            while (*low < pivot)
                low++;
            while (*high > pivot)
                high--;
            if (low <= high) {
                uint32_t swapped = *low;
                *low++ = *high;
                *high-- = swapped;
            }
        }
        quicksort(first, high + 1);
        first = low;
    }
    insertion_sort(first, end);
}

/* 1 if the numbers are in order and still add up to what they did. */
static uint64_t work(void)
{
    uint64_t sum = 0, ordered = 1;
    memcpy(numbers, shuffled, sizeof numbers);
    quicksort(numbers, numbers + COUNT);
    for (int i = 0; i < COUNT; i++) {
        sum += numbers[i];
        ordered &= i == 0 || numbers[i - 1] <= numbers[i];
    }
    return ordered && sum == total;
}

int main(int argc, char **argv)
{
    uint64_t state = 20260101;
    for (int i = 0; i < COUNT; i++)
        total += shuffled[i] = (uint32_t)next_random(&state);
    return measure("sort", work, 1, 30, argc, argv);
}
