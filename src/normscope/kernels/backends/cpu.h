/* One call of the norm family on the CPU; formula.py defines the family. */

#pragma once
#include <stdint.h>

enum { CENTER = 1, DETACH_MEAN = 2, DETACH_STD = 4, PHI = 8, ROOT = 16, RELEASED = 32, LENGTH = 48, DIVISOR = 48 };
enum { FLOAT32, FLOAT64, BFLOAT16, FLOAT16, TYPES };

/* Rows are contiguous. Weight, bias, mean and square are double for FLOAT64 and float for every other type. Absent
 * arguments are NULL: residual and sum, weight, bias (never without a weight), mean (without CENTER), x (in a backward
 * pass that does not need it), dsum. */
struct norm {
    int64_t rows, width;
    int32_t flags, type;
    double eps, scale, k;
    const void *x, *residual, *weight, *bias, *dz, *dsum;
    void *sum, *z, *dx, *mean, *square;
};

typedef void forward_function(const struct norm *, int64_t begin, int64_t end);
typedef void backward_function(const struct norm *, int64_t begin, int64_t end, void *dweight, void *dbias);
typedef void reduce_function(void *partial, int64_t count, int64_t width, int type);
