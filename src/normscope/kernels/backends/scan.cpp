// The steps of a recurrent net, one after the other, with torch's threads.

#include <ATen/Parallel.h>
#include <Python.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "scan.h"

namespace {

// Number of operations below which a second thread does not pay off.
constexpr int64_t SMALL = 1 << 17;

int64_t gates_of(const scan &call) { return call.cell == LSTM_CELL ? 4 : call.cell == GRU_CELL ? 3 : 1; }

char *at_entry(const void *base, int64_t entry, int64_t bytes) {
    return static_cast<char *>(const_cast<void *>(base)) + entry * bytes;
}

void multiply(const scan_functions &f, const product &call) {
    const int64_t panels = (call.columns + f.panel - 1) / f.panel, work = call.rows * call.inner * f.panel;
    auto body = [&](int64_t from, int64_t to) { f.product(&call, from, to); };
    if (work * panels <= SMALL) body(0, panels);
    else at::parallel_for(0, panels, std::max<int64_t>(1, SMALL / 2 / std::max<int64_t>(work, 1)), body);
}

// Call step(begin, end, thread) for the chunks of a step's rows.
template <class Function>
void over_chunks(const scan &call, int64_t rows, int64_t gates, const Function &step) {
    const int64_t chunks = (rows + CHUNK - 1) / CHUNK, work = CHUNK * gates * call.width * 8;
    auto body = [&](int64_t from, int64_t to) {
        const int64_t thread = at::get_thread_num();
        for (int64_t chunk = from; chunk < to; chunk++) step(chunk * CHUNK, std::min(rows, (chunk + 1) * CHUNK), thread);
    };
    if (work * chunks <= SMALL) body(0, chunks);
    else at::parallel_for(0, chunks, std::max<int64_t>(1, SMALL / 2 / work), body);
}

// Call step(offset, rows) for the steps in the order of computation, or against it.
template <class Function>
void over_steps(const scan &call, bool against, const Function &step) {
    const bool back = bool(call.reverse) != against;
    int64_t offset = back ? call.entries : 0;
    for (int64_t i = 0; i < call.steps; i++) {
        const int64_t rows = call.sizes[back ? call.steps - 1 - i : i];
        if (back) offset -= rows;
        step(offset, rows);
        if (!back) offset += rows;
    }
}

// Write call.before; return where each sequence ends.
std::vector<int64_t> find_states(const scan &call) {
    std::vector<int64_t> last(call.batch);
    for (int64_t row = 0; row < call.batch; row++) last[row] = -1 - row;
    over_steps(call, false, [&](int64_t offset, int64_t rows) {
        for (int64_t row = 0; row < rows; row++) {
            call.before[offset + row] = call.resets && call.resets[offset + row] ? FRESH : last[row];
            last[row] = offset + row;
        }
    });
    return last;
}

struct scratches {
    char *base, *rows;  // of every thread; [B, H]
    int64_t bytes;

    scratches(const scan_functions &f, const scan &call)
        : base(static_cast<char *>(call.scratch)),
          rows(base + at::get_num_threads() * CHUNK * SCRATCH * call.width * f.statistic),
          bytes(CHUNK * SCRATCH * call.width * f.statistic) {}
    char *of(int64_t thread) const { return base + thread * bytes; }
};

void forward(const scan_functions &f, const scan &call) {
    const int64_t H = call.width, gates = gates_of(call), row = H * f.entry, wide = H * f.statistic;
    const scratches scratch(f, call);
    const std::vector<int64_t> last = find_states(call);
    over_steps(call, false, [&](int64_t offset, int64_t rows) {
        over_chunks(call, rows, 1, [&](int64_t begin, int64_t end, int64_t) {
            f.gather(&call, offset, begin, end, at_entry(scratch.rows, begin, row));
        });
        product call_{scratch.rows, call.weights, call.bias, at_entry(call.product, call.keeps ? offset : 0, gates * row),
                      rows, H, gates * H, 0};
        if (call.summed) call_.start = call_.out, call_.stride = gates * H;
        multiply(f, call_);
        over_chunks(call, rows, gates, [&](int64_t begin, int64_t end, int64_t thread) {
            f.forward[call.cell](&call, offset, begin, end, scratch.of(thread));
        });
    });
    for (int64_t r = 0; r < call.batch; r++) {
        const int64_t at = last[r], from = at < 0 ? r : at;
        std::memcpy(at_entry(call.end_h, r, row), at_entry(at < 0 ? call.initial_h : call.output, from, row), row);
        if (call.end_c) std::memcpy(at_entry(call.end_c, r, wide), at_entry(at < 0 ? call.initial_c : call.c, from, wide), wide);
    }
}

// out [rows, columns] (+)= the transpose of a [inner, rows] times the b [inner, columns] that rows_of(from, count, to)
// finds or copies to a place.
template <class Rows>
void transposed(const scan_functions &f, const void *a, void *out, int64_t rows, int64_t inner, int64_t columns,
                const Rows &rows_of) {
    // A block of b fits in the second-level cache.
    const int64_t block = MOST_TALL, all = (columns + f.panel - 1) / f.panel, spans = (all + 7) / 8;
    const int64_t panels = (all + spans - 1) / std::max<int64_t>(1, spans), span = panels * f.panel;
    if (!inner) std::memset(out, 0, rows * columns * f.statistic);
    at::parallel_for(0, (rows + block - 1) / block, 1, [&](int64_t from, int64_t to) {
        std::vector<char> packed(panels * f.panel * MOST_SUMMED * f.statistic), copy(MOST_SUMMED * columns * f.entry);
        for (int64_t first = 0; first < columns; first += span)
            for (int64_t k = 0; k < inner; k += MOST_SUMMED) {
                const int64_t count = std::min<int64_t>(MOST_SUMMED, inner - k);
                const int64_t wide = std::min(span, columns - first);
                f.pack(at_entry(rows_of(k, count, copy.data()), first, f.entry), columns, packed.data(), count, wide, 0);
                f.gradient(at_entry(a, k * rows, f.entry), rows, packed.data(), count, wide, at_entry(out, first, f.statistic),
                           columns, from * block, std::min(rows, to * block), k > 0);
            }
    });
}

void backward(const scan_functions &f, const scan &call) {
    const int64_t H = call.width, gates = gates_of(call), row = H * f.entry;
    const scratches scratch(f, call);
    find_states(call);
    over_steps(call, true, [&](int64_t offset, int64_t rows) {
        over_chunks(call, rows, gates, [&](int64_t begin, int64_t end, int64_t thread) {
            f.backward[call.cell](&call, offset, begin, end, scratch.of(thread));
        });
        product call_{at_entry(call.dproduct, offset, gates * row), call.transposed, call.dh, call.dh, rows, gates * H, H, H};
        if (call.dropout) call_.start = nullptr, call_.out = scratch.rows;
        multiply(f, call_);
        if (call.dropout || call.resets)
            over_chunks(call, rows, 1, [&](int64_t begin, int64_t end, int64_t) {
                f.settle(&call, offset, begin, end, scratch.rows);
            });
    });
    if (!call.dweights) return;
    transposed(f, call.dproduct, call.dweights, gates * H, call.entries, H, [&](int64_t from, int64_t count, char *copy) {
        for (int64_t t = 0, offset = 0; t < call.steps && offset < from + count; offset += call.sizes[t++]) {
            const int64_t begin = std::max<int64_t>(0, from - offset);
            const int64_t end = std::min(call.sizes[t], from + count - offset);
            if (begin < end) f.gather(&call, offset, begin, end, at_entry(copy, offset + begin - from, row));
        }
        return copy;
    });
}

void matrix(const scan_functions &f, const product &call) {
    // By rows, so that a panel that was loaded serves many of them.
    const int64_t block = 64, blocks = (call.rows + block - 1) / block, panels = (call.columns + f.panel - 1) / f.panel;
    at::parallel_for(0, blocks, 1, [&](int64_t from, int64_t to) {
        for (int64_t b = from; b < to; b++) {
            product part = call;
            part.rows = std::min(block, call.rows - b * block);
            part.a = at_entry(call.a, b * block * call.inner, f.entry);
            part.out = at_entry(call.out, b * block * call.columns, f.entry);
            f.product(&part, 0, panels);
        }
    });
}

// The transpose of a [inner, rows] times b [inner, columns], which is not packed.
void gradient(const scan_functions &f, const product &call) {
    transposed(f, call.a, call.out, call.rows, call.inner, call.columns, [&](int64_t from, int64_t, char *) {
        return at_entry(call.packed, from * call.columns, f.entry);
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
