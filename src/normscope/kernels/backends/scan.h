/* A recurrent net over whole sequences on the CPU: what the driver (scan.cpp) and the kernels (scan.c) share. */

#pragma once
#include "cpu.h"

enum { LSTM_CELL, GRU_CELL, RNN_CELL, CELLS };

/* Norms of the product with the input, one for each group of gates that share statistics; of the recurrent product; of
 * the c that is read. */
enum { GROUPS = 4, HIDDEN = GROUPS, READ_OUT = 2 * GROUPS, NORMS };

/* Where the state before an entry is: the entry it followed, -1 - row of an initial state, or the start of an episode. */
#define FRESH INT64_MIN

/* One direction of one layer. The storage type T is that of the input; S, the type of statistics, is double for double
 * and float for every other type. N is the number of entries of all sequences, sorted by falling length, in the order
 * of the steps; step t has sizes[t] rows. Absent arguments are NULL.
 *
 * G is 4 H for an LSTM (i, f, g, o), 3 H for a GRU (r, z, n) and H for an RNN. Only flags, eps, scale, k, weight and bias
 * of the norms are read; flags 0 is no norm. If the products are summed, that of the input has been added to product
 * before it is normalized, by the norms of the input, and part is not read. */
struct scan {
    int64_t steps, batch, width, entries; /* T, B, H, N */
    int32_t cell, type, reverse, carried, summed, relu, groups;
    int32_t keeps;        /* whether product has rows for all entries, or those of one step */
    const int64_t *sizes; /* [T] */
    int64_t widths[GROUPS];
    struct norm norms[NORMS];
    double zoneout[2];    /* share of the old h and c that is mixed in, where no mask is given */
    const void *part;     /* T [N, G]: W_x x */
    const void *weights, *transposed; /* packed W_h^T, [H] to [G]; packed W_h, [G] to [H] */
    const void *bias;     /* T [G]: added to the recurrent product before it is normalized */
    const void *initial_h, *initial_c; /* T and S [B, H] */
    const void *start_h, *start_c;     /* T and S [H]: the state where an episode begins */
    const uint8_t *resets;             /* [N]: whether one begins with the entry */
    const void *held_h, *held_c;       /* T and S [N, H], zero or not: whether zoneout holds the old value */
    const void *dropout;  /* T [B, H]: factor of the h that is multiplied */
    void *product;        /* T [N, G]: W_h h */
    void *output, *c;     /* T and S [N, H]: the states after every entry */
    void *end_h, *end_c;  /* T and S [B, H] */
    int64_t *before;      /* [N]: where the state before an entry is; the driver writes it */
    void *scratch;        /* S [threads, CHUNK, SCRATCH, H], then T [B, H] */
    /* backward */
    const void *doutput;  /* T [N, H] */
    void *dh, *dc;        /* T and S [B, H]: gradients of the final states, which become those of the initial ones */
    void *dstart_h, *dstart_c; /* T and S [B, H]: sums are added */
    void *dpart, *dproduct; /* T [N, G]; may be part and product themselves, and each other if nothing is normalized */
    void *dnorms[NORMS];  /* S [chunks, 2, width of the norm]: partial sums for weight and bias are added */
    void *dweights;       /* S [G, H] */
};

/* CHUNK: rows that one thread computes one after the other; the partial sums do not depend on the number of threads.
 * SCRATCH: entries of the statistics' type per unit and row that it needs. */
enum { CHUNK = 4, SCRATCH = 14 };
/* Entries that one call of the gradient of weights adds up, and rows whose entries it rearranges at once. */
enum { MOST_SUMMED = 256, MOST_TALL = 64 };

/* A product out [rows, columns] = start + a [rows, inner] b; rows of start are a stride apart, or there is none. */
struct product {
    const void *a, *packed, *start;
    void *out;
    int64_t rows, inner, columns, stride;
};

/* The functions for one type: a step's rows begin to end, a multiple of CHUNK apart, whose first row is that of offset
 * among the entries; the panels from..to of a product; the sum over k < count of a[k, r] b[k, :] for r in from..to, with
 * rows of a, and of out in the type of the statistics, a stride apart; and the packing of a matrix, likewise. */
typedef void rows_function(const struct scan *, int64_t offset, int64_t begin, int64_t end, void *scratch);
struct scan_functions {
    rows_function *forward[CELLS], *backward[CELLS];
    rows_function *gather; /* the h that is multiplied, to scratch, the row begin first */
    rows_function *settle; /* the gradient of that h, from scratch, and those of states that started anew */
    void (*product)(const struct product *, int64_t from, int64_t to);
    void (*gradient)(const void *a, int64_t stride, const void *packed, int64_t count, int64_t columns, void *out,
                     int64_t stride_out, int64_t from, int64_t to, int add);
    void (*pack)(const void *from, int64_t stride, void *to, int64_t inner, int64_t columns, int transposed);
    int64_t panel, entry, statistic; /* columns of a panel; bytes of an entry, and of a statistic */
};
