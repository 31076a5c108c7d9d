// A thin autograd function over the CPU kernels, with which small calls are as fast as torch's operations.
//
// Accepts plain tensors in plain modes. For anything else (subclasses, transforms, forward-mode derivatives, tracing,
// another device, an unsupported dtype) it returns None, and Python decides.

#include <ATen/Dispatch.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>

#include "cpu.h"

using at::Tensor;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

namespace {

forward_function *forward_rows;
backward_function *backward_rows;
reduce_function *reduce;
PyObject *closed_form;  // gradients() of formula.py, in differentiable operations, for create_graph=True

struct Formula {
    int32_t flags;
    double eps, scale, k;
    bool keeps_input(bool weight) const {
        return ((flags & DIVISOR) && !(flags & DETACH_STD)) || (flags & PHI) || weight;
    }
};

int32_t type_of(at::ScalarType dtype) {
    switch (dtype) {
        case at::kFloat: return FLOAT32;
        case at::kDouble: return FLOAT64;
        case at::kBFloat16: return BFLOAT16;
        case at::kHalf: return FLOAT16;
        default: return -1;
    }
}

at::ScalarType statistics_of(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }
void *data(const Tensor &t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }
const void *read(const Tensor &t) { return t.defined() ? t.const_data_ptr() : nullptr; }
Tensor empty(at::IntArrayRef sizes, at::ScalarType dtype) { return at::detail::empty_cpu(sizes, dtype); }

// The kernels do not support a bias without a weight.
Tensor ones(int64_t width, at::ScalarType dtype) { return empty({width}, dtype).fill_(1); }

// Number of entries below which a second thread does not pay off.
constexpr int64_t SMALL = 1 << 15;
constexpr int64_t PARTS = 32, ROWS = 64;  // as in cpu.py

template <class Rows>
void over_rows(const norm &call, const Rows &body) {
    if (call.rows * call.width <= SMALL) body(0, call.rows);
    else at::parallel_for(0, call.rows, std::max<int64_t>(1, SMALL / 2 / call.width), body);
}

void forward_all(const norm &call) {
    over_rows(call, [&](int64_t begin, int64_t end) { forward_rows(&call, begin, end); });
}

// With parts, also sums for the gradients of the parameters, split by the number of rows alone.
void backward_all(const norm &call, int64_t parts, void *dweight, void *dbias) {
    if (!parts) {
        over_rows(call, [&](int64_t begin, int64_t end) { backward_rows(&call, begin, end, nullptr, nullptr); });
        return;
    }
    const int64_t size = (call.rows + parts - 1) / parts;
    const int64_t bytes = call.width * (call.type == FLOAT64 ? sizeof(double) : sizeof(float));
    auto body = [&](int64_t from, int64_t to) {
        for (int64_t part = from; part < to; part++) {
            char *w = static_cast<char *>(dweight) + part * bytes, *b = static_cast<char *>(dbias) + part * bytes;
            std::memset(w, 0, bytes);
            std::memset(b, 0, bytes);
            backward_rows(&call, std::min(call.rows, part * size), std::min(call.rows, (part + 1) * size), w, b);
        }
    };
    if (parts == 1) body(0, 1);
    else at::parallel_for(0, parts, 1, body);
}

// One of equal groups of rows, as a call of its own, with its row of the weights and biases.
norm group_of(const norm &call, int64_t groups, int64_t group) {
    static constexpr int64_t SIZES[TYPES] = {4, 8, 2, 2};
    norm own = call;
    own.rows = call.rows / groups;
    const int64_t statistic = call.type == FLOAT64 ? 8 : 4, first = group * own.rows;
    const auto move = [](auto &pointer, int64_t bytes) {
        if (pointer) pointer = (char *)pointer + bytes;
    };
    for (const void **rows : {&own.x, &own.residual, &own.dz, &own.dsum}) move(*rows, first * call.width * SIZES[call.type]);
    for (void **rows : {&own.sum, &own.z, &own.dx}) move(*rows, first * call.width * SIZES[call.type]);
    for (void **rows : {&own.mean, &own.square}) move(*rows, first * statistic);
    for (const void **parameter : {&own.weight, &own.bias}) move(*parameter, group * call.width * statistic);
    return own;
}

template <class Body>
void over_groups(const norm &call, int64_t groups, const Body &body) {
    const int64_t grain = std::max<int64_t>(1, SMALL * groups / std::max<int64_t>(1, call.rows * call.width));
    auto some = [&](int64_t from, int64_t to) {
        for (int64_t group = from; group < to; group++) body(group, group_of(call, groups, group));
    };
    if (groups <= grain) some(0, groups);
    else at::parallel_for(0, groups, grain, some);
}

// A parameter or its gradient in another dtype. Written out because torch's conversion costs as much as a small norm.
Tensor cast(const Tensor &given, at::ScalarType dtype) {
    if (!given.defined() || (given.scalar_type() == dtype && given.is_contiguous())) return given;
    const Tensor from = given.contiguous();
    Tensor to = empty(from.sizes(), dtype);
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, from.scalar_type(), "cast", [&] {
        using From = scalar_t;
        AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, "cast", [&] {
            const From *in = from.const_data_ptr<From>();
            scalar_t *out = to.mutable_data_ptr<scalar_t>();
            for (int64_t i = 0; i < from.numel(); i++) out[i] = static_cast<scalar_t>(in[i]);
        });
    });
    return to;
}

// Whether a tensor is plain memory that the kernels may read by address.
bool plain(const Tensor &t) {
    constexpr c10::DispatchKeySet usual({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
                                         c10::DispatchKey::ADInplaceOrView, c10::DispatchKey::AutocastCPU});
    return !(t.key_set().raw_repr() & ~usual.raw_repr()) && type_of(t.scalar_type()) >= 0 && !t.is_neg() &&
           !t._fw_grad(0).defined();
}

struct NormBackward : torch::autograd::Node {
    Formula formula;
    int64_t width, groups;
    SavedVariable x, mean, square, weight;
    bool x_is_output, has_weight, has_bias;
    at::ScalarType bias_dtype;

    std::string name() const override { return "NormscopeNormBackward"; }

    void release_variables() override {
        std::lock_guard<std::mutex> lock(mutex_);
        x.reset_data();
        mean.reset_data();
        square.reset_data();
        weight.reset_data();
    }

    variable_list apply(variable_list &&upstream) override {
        std::lock_guard<std::mutex> lock(mutex_);
        const Tensor &given = upstream[0], dsum = upstream.size() > 1 ? upstream[1] : Tensor();
        if (!given.defined()) return {dsum, dsum, Tensor(), Tensor()};
        Tensor input = x_is_output ? x.unpack(getptr()) : x.unpack(), means = mean.unpack(), squares = square.unpack();
        Tensor gain = weight.unpack();
        const bool learn_weight = has_weight && task_should_compute_output(2);
        const bool learn_bias = has_bias && task_should_compute_output(3);
        Tensor dx, dweight, dbias;
        // Tensors that cannot be read by address use differentiable operations, too: a pending negation, zeros without
        // memory, a batch of gradients, or the result of a hook on a saved tensor.
        auto readable = [&](const Tensor &t, at::ScalarType dtype) {
            return !t.defined() || (plain(t) && t.scalar_type() == dtype);
        };
        const auto dtype = given.scalar_type(), statistics = statistics_of(dtype);
        if (at::GradMode::is_enabled() || !readable(given, dtype) || !readable(dsum, dtype) || !readable(input, dtype) ||
            !readable(means, statistics) || !readable(squares, statistics) || (gain.defined() && !plain(gain))) {
            std::tie(dx, dweight, dbias) = differentiable(given, input, squares, gain);
            if (dsum.defined()) dx = dx.add(dsum);
            if (dweight.defined()) dweight = dweight.to(gain.scalar_type()).reshape(gain.sizes());
            dbias = has_bias ? dbias.to(bias_dtype).reshape(bias_sizes) : Tensor();
        } else {
            const Tensor dz = given.contiguous(), added = dsum.defined() ? dsum.contiguous() : dsum;
            dx = empty(dz.sizes(), dtype);
            means = means.defined() ? means.contiguous() : means;
            squares = squares.contiguous();
            Tensor factor = cast(gain, statistics);
            if (learn_bias && !factor.defined()) factor = ones(width, statistics);
            norm call{squares.numel(), width, formula.flags, type_of(dtype), formula.eps, formula.scale, formula.k};
            if (input.defined()) input = input.contiguous();
            call.x = read(input);
            call.weight = read(factor);
            call.dz = read(dz);
            call.dsum = read(added);
            call.dx = data(dx);
            call.mean = data(means);
            call.square = data(squares);
            if (learn_weight || learn_bias) std::tie(dweight, dbias) = with_parameters(call, statistics);
            else if (groups == 1) backward_all(call, 0, nullptr, nullptr);
            else
                over_groups(call, groups, [](int64_t, const norm &own) { backward_all(own, 0, nullptr, nullptr); });
            dweight = learn_weight ? cast(dweight, gain.scalar_type()).view(gain.sizes()) : Tensor();
            dbias = learn_bias ? cast(dbias, bias_dtype).view(bias_sizes) : Tensor();
        }
        return {dx, dx, dweight, dbias};
    }

    // Adds partial sums in a fixed order; those of a group are as if it were alone.
    std::pair<Tensor, Tensor> with_parameters(const norm &call, at::ScalarType statistics) {
        const int64_t rows = call.rows / groups;
        const int64_t parts = std::max({int64_t(1), std::min({rows * width / SMALL, PARTS, rows}), rows / ROWS});
        Tensor dweight = empty({groups, parts, width}, statistics), dbias = empty({groups, parts, width}, statistics);
        const int64_t bytes = parts * width * dweight.element_size();
        char *w = static_cast<char *>(data(dweight)), *b = static_cast<char *>(data(dbias));
        over_groups(call, groups, [&](int64_t group, const norm &own) {
            backward_all(own, parts, w + group * bytes, b + group * bytes);
            if (parts > 1) {
                reduce(w + group * bytes, parts, width, call.type);
                reduce(b + group * bytes, parts, width, call.type);
            }
        });
        if (parts > 1) {
            dweight = dweight.select(1, 0).clone();
            dbias = dbias.select(1, 0).clone();
        }
        return {dweight, dbias};
    }

    std::tuple<Tensor, Tensor, Tensor> differentiable(const Tensor &dz, const Tensor &input, const Tensor &squares,
                                                      const Tensor &gain) {
        const std::array<int64_t, 2> matrix{squares.numel(), width};
        pybind11::gil_scoped_acquire held;
        auto wrap = [](const Tensor &t) {
            return t.defined() ? pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(t)) : pybind11::none();
        };
        pybind11::object result = pybind11::reinterpret_borrow<pybind11::object>(closed_form)(
            formula.flags, formula.eps, formula.scale, formula.k, wrap(dz.reshape(matrix)),
            wrap(input.defined() ? input.reshape(matrix) : input), wrap(squares),
            wrap(!gain.defined() ? gain : groups == 1 ? gain.reshape({-1}) : gain.reshape({groups, width})));
        auto take = [&](int i) {
            PyObject *one = PyTuple_GET_ITEM(result.ptr(), i);
            return one == Py_None ? Tensor() : THPVariable_Unpack(one);
        };
        return {take(0).reshape(dz.sizes()), take(1), take(2)};
    }

    std::vector<int64_t> bias_sizes;
};

// In newer torch a node is reference-counted intrusively, in older torch by a shared pointer.
template <class N>
auto make_node() {
    if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, torch::autograd::Node>) return c10::make_intrusive<N>();
    else return std::shared_ptr<N>(new N(), [](N *node) { deleteNode(node); });
}

bool plain(PyObject *object) {
    if (!THPVariable_CheckExact(object) && reinterpret_cast<PyObject *>(Py_TYPE(object)) != ParameterClass) return false;
    return plain(THPVariable_Unpack(object));
}

bool plain_mode() {
    const auto included = c10::impl::tls_local_dispatch_key_set().included_;
    return (included - c10::default_included_set - c10::autocast_dispatch_keyset).empty();
}

Tensor optional(PyObject *object) { return object == Py_None ? Tensor() : THPVariable_Unpack(object); }

// norm(x, shape, weight, bias, residual, flags, eps, scale, k) -> z, (z, sum), or None if Python must decide.
// With a tenth argument, groups, parameters are [groups, *shape], and the rows of x come in as many equal groups.
PyObject *norm_call(PyObject *, PyObject *const *args, Py_ssize_t count) {
    HANDLE_TH_ERRORS
    if (count != 9 && count != 10) {
        PyErr_SetString(PyExc_TypeError, "norm takes 9 or 10 arguments");
        return nullptr;
    }
    if (!plain_mode() || !PyTuple_CheckExact(args[1])) Py_RETURN_NONE;
    for (int i : {0, 2, 3, 4})
        if (!(i && args[i] == Py_None) && !plain(args[i])) Py_RETURN_NONE;
    const Tensor &given = THPVariable_Unpack(args[0]);
    const Tensor weight = optional(args[2]), bias = optional(args[3]), added = optional(args[4]);
    const auto dtype = given.scalar_type(), statistics = statistics_of(dtype);
    const Py_ssize_t axes = PyTuple_GET_SIZE(args[1]);
    if (given.dim() < axes || axes == 0) Py_RETURN_NONE;
    int64_t width = 1;
    for (Py_ssize_t i = 0; i < axes; i++) {
        const int64_t size = PyLong_AsLongLong(PyTuple_GET_ITEM(args[1], i));
        if (given.size(given.dim() - axes + i) != size) Py_RETURN_NONE;
        width *= size;
    }
    const auto row = given.sizes().slice(given.dim() - axes);
    const int64_t groups = count == 10 ? PyLong_AsLongLong(args[9]) : 1;
    if (count == 10 && (groups < 1 || !width || given.numel() / width % groups || !weight.defined())) Py_RETURN_NONE;
    const auto fits = [&](const Tensor &one) {
        if (one.scalar_type() == at::kDouble && statistics != at::kDouble) return false;
        if (count == 9) return one.sizes() == row;
        return one.dim() == axes + 1 && one.size(0) == groups && one.sizes().slice(1) == row;
    };
    for (const Tensor &one : {weight, bias})
        if (one.defined() && !fits(one)) Py_RETURN_NONE;
    if (added.defined() && (added.scalar_type() != dtype || added.sizes() != given.sizes())) Py_RETURN_NONE;
    const Formula formula{static_cast<int32_t>(PyLong_AsLong(args[5])), PyFloat_AsDouble(args[6]),
                          PyFloat_AsDouble(args[7]), PyFloat_AsDouble(args[8])};
    if (PyErr_Occurred()) return nullptr;

    RECORD_FUNCTION("normscope::norm", c10::ArrayRef<const c10::IValue>{});
    const Tensor x = given.is_contiguous() ? given : given.contiguous();
    const Tensor residual = !added.defined() || added.is_contiguous() ? added : added.contiguous();
    const bool learns = torch::autograd::compute_requires_grad(x, residual, weight, bias);
    const bool learns_weight = weight.defined() && weight.requires_grad();
    const int64_t rows = width ? x.numel() / width : 0;
    Tensor z = empty(x.sizes(), dtype), sum, mean, square = empty({rows}, statistics);
    if (residual.defined()) sum = empty(x.sizes(), dtype);
    if (formula.flags & CENTER) mean = empty({rows}, statistics);
    Tensor factor = cast(weight, statistics), shift = cast(bias, statistics);
    if (shift.defined() && !factor.defined()) factor = ones(width, statistics);
    norm call{rows, width, formula.flags, type_of(dtype), formula.eps, formula.scale, formula.k};
    call.x = read(x);
    call.residual = read(residual);
    call.weight = read(factor);
    call.bias = read(shift);
    call.sum = data(sum);
    call.z = data(z);
    call.mean = data(mean);
    call.square = data(square);
    {
        pybind11::gil_scoped_release others_may_run;
        if (groups == 1) forward_all(call);
        else over_groups(call, groups, [](int64_t, const norm &own) { forward_all(own); });
    }
    if (learns) {
        auto node = make_node<NormBackward>();
        node->formula = formula;
        node->width = width;
        node->groups = groups;
        node->set_next_edges(torch::autograd::collect_next_edges(x, residual, weight, bias));
        node->has_weight = weight.defined();
        node->has_bias = bias.defined();
        if (bias.defined()) {
            node->bias_dtype = bias.scalar_type();
            node->bias_sizes = bias.sizes().vec();
        }
        torch::autograd::set_history(z, node);
        if (sum.defined()) torch::autograd::set_history(sum, node);
        node->x_is_output = sum.defined();
        if (formula.keeps_input(learns_weight)) {
            node->x = SavedVariable(sum.defined() ? sum : x, sum.defined());
            if (mean.defined()) node->mean = SavedVariable(mean, false);
        }
        node->square = SavedVariable(square, false);
        if (weight.defined()) node->weight = SavedVariable(weight, false);
    }
    if (!sum.defined()) return THPVariable_Wrap(z);
    return PyTuple_Pack(2, pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(z)).ptr(),
                        pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(sum)).ptr());
    END_HANDLE_TH_ERRORS
}

// bind(forward, backward, reduce, closed_form): the addresses of the kernels, and the differentiable backward pass
PyObject *bind(PyObject *, PyObject *const *args, Py_ssize_t count) {
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "bind takes 4 arguments");
        return nullptr;
    }
    forward_rows = reinterpret_cast<forward_function *>(PyLong_AsVoidPtr(args[0]));
    backward_rows = reinterpret_cast<backward_function *>(PyLong_AsVoidPtr(args[1]));
    reduce = reinterpret_cast<reduce_function *>(PyLong_AsVoidPtr(args[2]));
    if (PyErr_Occurred()) return nullptr;
    Py_INCREF(args[3]);
    Py_XSETREF(closed_form, args[3]);
    Py_RETURN_NONE;
}

// run(call) forward, run(call, parts, dweight, dbias) backward: the address of a struct norm, all rows, torch's threads
PyObject *run(PyObject *, PyObject *const *args, Py_ssize_t count) {
    HANDLE_TH_ERRORS
    if (count != 1 && count != 4) {
        PyErr_SetString(PyExc_TypeError, "run takes 1 or 4 arguments");
        return nullptr;
    }
    const norm &call = *static_cast<const norm *>(PyLong_AsVoidPtr(args[0]));
    const int64_t parts = count == 4 ? PyLong_AsLongLong(args[1]) : 0;
    void *dweight = parts ? PyLong_AsVoidPtr(args[2]) : nullptr, *dbias = parts ? PyLong_AsVoidPtr(args[3]) : nullptr;
    if (PyErr_Occurred()) return nullptr;
    pybind11::gil_scoped_release others_may_run;
    if (count == 1) forward_all(call);
    else backward_all(call, parts, dweight, dbias);
    pybind11::gil_scoped_acquire held;
    Py_RETURN_NONE;
    END_HANDLE_TH_ERRORS
}

PyMethodDef methods[] = {
    {"norm", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(norm_call)), METH_FASTCALL, nullptr},
    {"run", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(run)), METH_FASTCALL, nullptr},
    {"bind", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(bind)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_shim", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__shim() { return PyModule_Create(&module); }
