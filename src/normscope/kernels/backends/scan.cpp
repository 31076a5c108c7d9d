// The steps of a recurrent net, one after the other, with torch's threads.

#include <ATen/Parallel.h>
#include <Python.h>

#include <algorithm>
#include <cstring>

#include "scan.h"

namespace {

// Number of operations below which a second thread does not pay off.
constexpr int64_t SMALL = 1 << 17;

int64_t panels_of(const scan_functions &f, int64_t columns) { return (columns + f.panel - 1) / f.panel; }

void multiply(const scan_functions &f, const void *a, const void *packed, void *out, int64_t rows, int64_t inner,
              int64_t columns) {
    const int64_t panels = panels_of(f, columns), work = rows * inner * f.panel;
    auto body = [&](int64_t from, int64_t to) { f.product(a, packed, out, rows, inner, columns, from, to); };
    if (work * panels <= SMALL) body(0, panels);
    else at::parallel_for(0, panels, std::max<int64_t>(1, SMALL / 2 / std::max<int64_t>(work, 1)), body);
}

template <class Function>
void over_chunks(const scan_functions &f, const scan &call, int64_t rows, int64_t gates, const Function &step) {
    const int64_t chunks = (rows + CHUNK - 1) / CHUNK, work = CHUNK * gates * call.width * 8;
    const int64_t bytes = CHUNK * SCRATCH * call.width * f.statistic;
    auto body = [&](int64_t from, int64_t to) {
        char *scratch = static_cast<char *>(call.scratch) + at::get_thread_num() * bytes;
        for (int64_t chunk = from; chunk < to; chunk++)
            step(chunk * CHUNK, std::min(rows, (chunk + 1) * CHUNK), scratch);
    };
    if (work * chunks <= SMALL) body(0, chunks);
    else at::parallel_for(0, chunks, std::max<int64_t>(1, SMALL / 2 / work), body);
}

char *at_entry(void *base, int64_t entry, int64_t bytes) { return static_cast<char *>(base) + entry * bytes; }

void forward(const scan_functions &f, const scan &call) {
    const int64_t H = call.width, gates = call.cell == LSTM_CELL ? 4 : 3, row = H * f.entry;
    int64_t offset = call.reverse ? call.entries : 0;
    for (int64_t t = 0; t < call.steps; t++) {
        const int64_t rows = call.sizes[call.reverse ? call.steps - 1 - t : t];
        if (call.reverse) offset -= rows;
        char *before = at_entry(call.h_before, offset, row);
        std::memcpy(before, call.h, rows * row);
        multiply(f, before, call.forward_weights, at_entry(call.product, offset, gates * row), rows, H, gates * H);
        over_chunks(f, call, rows, gates, [&](int64_t begin, int64_t end, void *scratch) {
            f.forward[call.cell](&call, offset, begin, end, scratch);
        });
        if (!call.reverse) offset += rows;
    }
}

// call.h and call.c are the gradients of the states after the sequences, and become those of the initial ones.
void backward(const scan_functions &f, const scan &call) {
    const int64_t H = call.width, gates = call.cell == LSTM_CELL ? 4 : 3, row = H * f.entry;
    const int64_t bytes = CHUNK * SCRATCH * H * f.statistic;
    char *dh = static_cast<char *>(call.scratch) + at::get_num_threads() * bytes;
    int64_t offset = call.reverse ? 0 : call.entries;
    for (int64_t t = call.steps; t-- > 0;) {
        const int64_t rows = call.sizes[call.reverse ? call.steps - 1 - t : t];
        if (!call.reverse) offset -= rows;
        over_chunks(f, call, rows, gates, [&](int64_t begin, int64_t end, void *scratch) {
            f.backward[call.cell](&call, offset, begin, end, scratch);
        });
        multiply(f, at_entry(call.dproduct, offset, gates * row), call.backward_weights, dh, rows, gates * H, H);
        f.add(dh, call.h, rows * H);
        if (call.reverse) offset += rows;
    }
}

// One product of matrices: a struct of addresses and sizes.
struct product {
    const void *a, *packed;
    void *out;
    int64_t rows, inner, columns;
};

void matrix(const scan_functions &f, const product &call) {
    // By rows, so that a panel that was loaded serves many of them.
    const int64_t block = 64, blocks = (call.rows + block - 1) / block, panels = panels_of(f, call.columns);
    at::parallel_for(0, blocks, 1, [&](int64_t from, int64_t to) {
        for (int64_t b = from; b < to; b++) {
            const int64_t rows = std::min(block, call.rows - b * block);
            f.product(static_cast<const char *>(call.a) + b * block * call.inner * f.entry, call.packed,
                      static_cast<char *>(call.out) + b * block * call.columns * f.entry, rows, call.inner, call.columns, 0,
                      panels);
        }
    });
}

void gradient(const scan_functions &f, const product &call) {
    const int64_t block = 64;
    at::parallel_for(0, (call.rows + block - 1) / block, 1, [&](int64_t from, int64_t to) {
        f.gradient(call.a, call.packed, call.out, call.rows, call.inner, call.columns, from * block,
                   std::min(call.rows, to * block));
    });
}

// forward(functions, call) and the others: addresses of a struct scan_functions and of a struct scan or product
template <class Call, void (*RUN)(const scan_functions &, const Call &)>
PyObject *run(PyObject *, PyObject *const *args, Py_ssize_t count) {
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "expected two addresses");
        return nullptr;
    }
    const auto &functions = *static_cast<const scan_functions *>(PyLong_AsVoidPtr(args[0]));
    const auto &call = *static_cast<const Call *>(PyLong_AsVoidPtr(args[1]));
    if (PyErr_Occurred()) return nullptr;
    Py_BEGIN_ALLOW_THREADS
    RUN(functions, call);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(run<scan, forward>)), METH_FASTCALL, nullptr},
    {"backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(run<scan, backward>)), METH_FASTCALL, nullptr},
    {"product", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(run<product, matrix>)), METH_FASTCALL, nullptr},
    {"gradient", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(run<product, gradient>)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_scan", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__scan() { return PyModule_Create(&module); }
