/* A recurrent net over whole sequences on the CPU: what the driver (scan.cpp) and the kernels (scan.c) share. */

#pragma once
#include "cpu.h"

enum { LSTM_CELL, GRU_CELL };

/* One direction of one layer. The storage type T is that of the input; S, the type of statistics, is double for double
 * and float for every other type. N is the number of entries of all sequences, sorted by falling length, in the order
 * of the steps; step t has sizes[t] rows. Absent arguments are NULL.
 *
 * G is 4 H for an LSTM (i, f, g, o) and 3 H for a GRU (r, z, n). hidden normalizes the recurrent product of an LSTM, or
 * its first 2 H entries in a GRU, whose last H candidate normalizes; cell normalizes c where it is read. Only flags,
 * eps, scale, k, weight and bias of these are read; flags 0 is no norm. */
struct scan {
    int64_t steps, batch, width, entries; /* T, B, H, N */
    int32_t cell, type, reverse, carried;
    const int64_t *sizes;
    struct norm hidden, candidate, read;
    const void *part;     /* T [N, G]: the part of the gates that comes from the input */
    const void *forward_weights;  /* packed W_h^T, [H] to [G] */
    const void *backward_weights; /* packed W_h, [G] to [H] */
    void *h, *c;          /* T and S [batch, H]: the states, or their gradients; changed in place */
    void *output;         /* T [N, H] */
    /* kept for the backward pass */
    void *h_before, *c_before;    /* T and S [N, H] */
    void *product;        /* T [N, G]: W_h h */
    void *gates;          /* T [N, G]: after their nonlinearities */
    void *mean, *square;  /* S [3, N]: statistics of hidden, candidate and read */
    /* backward */
    const void *doutput;  /* T [N, H] */
    void *dpart;          /* T [N, G] */
    void *dproduct;       /* T [N, G]; dpart itself if nothing is normalized */
    void *dhidden, *dcandidate, *dread; /* S [chunks, 2, width of the norm]: partial sums for weight and bias */
    void *scratch;        /* S [threads, CHUNK, SCRATCH, H], then T [batch, H] */
};

/* CHUNK: rows that one thread computes one after the other; the partial sums do not depend on the number of threads.
 * SCRATCH: entries of the statistics' type per unit and row that it needs. */
enum { CHUNK = 4, SCRATCH = 6 };

/* The functions for one type: a step's rows begin to end, a multiple of CHUNK apart, whose first row is that of offset
 * among the entries; the panels from..to of a product [rows, inner] x [inner, columns]; the rows from..to of a product
 * whose left matrix is the transpose of [inner, rows], in the type of the statistics; and the packing of a matrix. */
struct scan_functions {
    void (*forward[2])(const struct scan *, int64_t offset, int64_t begin, int64_t end, void *scratch);
    void (*backward[2])(const struct scan *, int64_t offset, int64_t begin, int64_t end, void *scratch);
    void (*product)(const void *a, const void *packed, void *out, int64_t rows, int64_t inner, int64_t columns,
                    int64_t from, int64_t to);
    void (*gradient)(const void *a, const void *packed, void *out, int64_t rows, int64_t inner, int64_t columns,
                     int64_t from, int64_t to);
    void (*pack)(const void *from, void *to, int64_t inner, int64_t columns, int transposed);
    void (*add)(const void *from, void *to, int64_t count);
    int64_t panel, entry, statistic; /* columns of a panel; bytes of an entry, and of a statistic */
};
