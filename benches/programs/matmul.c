/* A product of matrices in double precision, by the plain triple loop over rows. */

#include <string.h>

#include "measure.h"

#define N 240

static double left[N][N], right[N][N], product[N][N];

/* The sum of all elements; every partial sum is a whole number below 2^53, so the order does not matter. */
static uint64_t work(void)
{
    double sum = 0;
    memset(product, 0, sizeof product);
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++)
            for (int j = 0; j < N; j++)
                product[i][j] += left[i][k] * right[k][j];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            sum += product[i][j];
    return (uint64_t)sum;
}

int main(int argc, char **argv)
{
    uint64_t columns_by_rows = 0;
    for (uint64_t i = 0; i < N; i++)
        for (uint64_t j = 0; j < N; j++) {
            left[i][j] = (double)(i + 2 * j);
            right[i][j] = (double)(3 * i + j + 1);
        }
    /* The sum of a product's elements is the sum over k of column k of the left times row k of the right. */
    for (uint64_t k = 0; k < N; k++)
        columns_by_rows += (N * (N - 1) / 2 + 2 * k * N) * (N * (3 * k + 1) + N * (N - 1) / 2);
    return measure("matmul", work, columns_by_rows, 15, argc, argv);
}
