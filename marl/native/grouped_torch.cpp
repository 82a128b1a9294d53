// Registers the kernels of grouped layers with torch, for the CPU and for autograd, and gives Python two
// functions that call the registered operators without the cost of torch.ops: that alone is as dear as a
// small dense layer. A module of Python; `use` names the table of the instruction set that was built.
#include <torch/csrc/autograd/python_variable.h>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "grouped.hpp"

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const marl::Kernels* kernels = nullptr;

marl::Plan plan_of(const Tensor& plan) {
  TORCH_CHECK(kernels, "the kernels of grouped layers are not loaded: import marl.sparse.backends.native");
  TORCH_CHECK(plan.scalar_type() == at::kLong && plan.is_contiguous() && plan.numel() > 4,
              "plan must come from marl.sparse.backends.native.plan");
  return marl::Plan(plan.const_data_ptr<int64_t>());
}

const float* data(const Tensor& tensor, int64_t size, const char* name) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous(), name,
              " must be contiguous float32 on the CPU: use backend='torch' for others");
  TORCH_CHECK(tensor.numel() == size, name, " has ", tensor.numel(), " entries, wanted ", size);
  return tensor.const_data_ptr<float>();
}

int64_t rows_of(const Tensor& x, int64_t inputs) {
  TORCH_CHECK(x.dim() > 0 && x.size(-1) == inputs, "x has shape ", x.sizes(), ", wanted ", inputs,
              " features");
  return x.numel() / inputs;
}

Tensor like(const Tensor& x, int64_t features) {
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.back() = features;
  return at::empty(shape, x.options());
}

Tensor pack(const Tensor& packed, const OptionalTensor& bias, const Tensor& plan_tensor) {
  const marl::Plan plan = plan_of(plan_tensor);
  Tensor panels = at::empty({plan.panel[plan.groups] + plan.out.edge[plan.groups]}, packed.options());
  kernels->pack(plan, data(packed, plan.nnz, "packed"), bias ? data(*bias, plan.out.size, "bias") : nullptr,
                panels.data_ptr<float>());
  return panels;
}

Tensor forward(const Tensor& x_, const Tensor& panels, const Tensor& plan_tensor, int64_t flags) {
  const marl::Plan plan = plan_of(plan_tensor);
  const Tensor x = x_.contiguous();
  const int64_t rows = rows_of(x, plan.in.size);
  Tensor y = like(x, plan.out.size);
  kernels->forward(plan, rows, data(x, x.numel(), "x"),
                   data(panels, plan.panel[plan.groups] + plan.out.edge[plan.groups], "panels"),
                   static_cast<int>(flags), y.data_ptr<float>(), at::get_num_threads());
  return y;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& dy_, const Tensor& x, const Tensor& packed,
                                            const OptionalTensor& y, const Tensor& plan_tensor, int64_t flags,
                                            bool for_x, bool for_packed, bool for_bias) {
  const marl::Plan plan = plan_of(plan_tensor);
  const Tensor dy = dy_.contiguous();
  const int64_t rows = rows_of(x, plan.in.size);
  Tensor dx, dpacked, dbias;
  if (for_x) dx = at::empty(x.sizes(), x.options());
  if (for_packed) dpacked = at::empty(packed.sizes(), packed.options());
  if (for_bias) dbias = at::empty({plan.out.size}, packed.options());
  const marl::Gradients to{for_x ? dx.data_ptr<float>() : nullptr,
                           for_packed ? dpacked.data_ptr<float>() : nullptr,
                           for_bias ? dbias.data_ptr<float>() : nullptr};
  const int64_t outputs = rows * plan.out.size;
  kernels->backward(plan, rows, data(x, x.numel(), "x"), data(packed, plan.nnz, "packed"),
                    y ? data(*y, outputs, "y") : nullptr, data(dy, outputs, "dy"), static_cast<int>(flags), to,
                    at::get_num_threads());
  return {dx, dpacked, dbias};
}

std::tuple<Tensor, Tensor> sums(const Tensor& a, const Tensor& b, const Tensor& plan_tensor) {
  const marl::Plan plan = plan_of(plan_tensor);
  Tensor sum_in = at::empty({plan.in.size}, a.options()), sum_out = at::empty({plan.out.size}, a.options());
  kernels->sums(plan, data(a, plan.nnz, "a"), data(b, plan.nnz, "b"), sum_in.data_ptr<float>(),
                sum_out.data_ptr<float>());
  return {sum_in, sum_out};
}

Tensor linear(const Tensor& x, const Tensor& packed, const OptionalTensor& bias, const Tensor& plan,
              int64_t flags) {
  return forward(x, pack(packed, bias, plan), plan, flags);
}

struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* context, const Tensor& x_, const Tensor& packed,
                        const OptionalTensor& bias, const Tensor& plan, int64_t flags) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor x = x_.contiguous();
    Tensor y = linear(x, packed, bias, plan, flags);
    context->save_for_backward({x, packed, plan, flags & marl::kRelu ? y : Tensor()});
    context->saved_data["flags"] = flags;
    context->saved_data["bias"] = bias.has_value();
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& dy) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "the native grouped layer has no second derivative: use backend='reference'");
    const variable_list saved = context->get_saved_variables();
    const int64_t flags = context->saved_data["flags"].toInt();
    auto [dx, dpacked, dbias] =
        ::backward(dy[0], saved[0], saved[1], saved[3].defined() ? OptionalTensor(saved[3]) : std::nullopt,
                   saved[2], flags, context->needs_input_grad(0), context->needs_input_grad(1),
                   context->saved_data["bias"].toBool() && context->needs_input_grad(2));
    return {dx, dpacked, dbias, Tensor(), Tensor()};
  }
};

Tensor linear_autograd(const Tensor& x, const Tensor& packed, const OptionalTensor& bias, const Tensor& plan,
                       int64_t flags) {
  return Linear::apply(x, packed, bias, plan, flags);
}

TORCH_LIBRARY(marl, library) {
  library.def("grouped_pack(Tensor packed, Tensor? bias, Tensor plan) -> Tensor", pack);
  library.def("grouped_forward(Tensor x, Tensor panels, Tensor plan, int flags) -> Tensor");
  library.def("grouped_linear(Tensor x, Tensor packed, Tensor? bias, Tensor plan, int flags) -> Tensor");
  library.def("grouped_sums(Tensor a, Tensor b, Tensor plan) -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(marl, CPU, library) {
  library.impl("grouped_forward", forward);
  library.impl("grouped_linear", linear);
  library.impl("grouped_sums", sums);
}
TORCH_LIBRARY_IMPL(marl, Autograd, library) { library.impl("grouped_linear", linear_autograd); }

template <typename Signature>
auto operation(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

bool are_tensors(PyObject* const* arguments, Py_ssize_t count) {
  for (Py_ssize_t i = 0; i < count; ++i)
    if (!THPVariable_Check(arguments[i])) return false;
  return true;
}

// Calls `run` without the interpreter's lock; a C++ exception becomes a RuntimeError.
template <typename Run>
PyObject* wrapped(const Run& run) {
  Tensor y;
  std::string error;
  PyThreadState* state = PyEval_SaveThread();
  try {
    y = run();
  } catch (const c10::Error& caught) {
    error = caught.what_without_backtrace();
  } catch (const std::exception& caught) {
    error = caught.what();
  }
  PyEval_RestoreThread(state);
  if (error.empty()) return THPVariable_Wrap(std::move(y));
  PyErr_SetString(PyExc_RuntimeError, error.c_str());
  return nullptr;
}

PyObject* py_forward(PyObject*, PyObject* const* a, Py_ssize_t count) {
  if (count != 4 || !are_tensors(a, 3)) {
    PyErr_SetString(PyExc_TypeError, "forward(x, panels, plan, flags) takes three tensors and a number");
    return nullptr;
  }
  static const auto op = operation<Tensor(const Tensor&, const Tensor&, const Tensor&, int64_t)>(
      "marl::grouped_forward");
  const int64_t flags = PyLong_AsLongLong(a[3]);
  if (flags == -1 && PyErr_Occurred()) return nullptr;
  return wrapped([&] {
    return op.call(THPVariable_Unpack(a[0]), THPVariable_Unpack(a[1]), THPVariable_Unpack(a[2]), flags);
  });
}

PyObject* py_linear(PyObject*, PyObject* const* a, Py_ssize_t count) {
  if (count != 5 || !are_tensors(a, 2) || !(a[2] == Py_None || are_tensors(a + 2, 1)) ||
      !are_tensors(a + 3, 1)) {
    PyErr_SetString(PyExc_TypeError, "linear(x, packed, bias, plan, flags) takes tensors and a number");
    return nullptr;
  }
  static const auto op =
      operation<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&, int64_t)>(
          "marl::grouped_linear");
  const int64_t flags = PyLong_AsLongLong(a[4]);
  if (flags == -1 && PyErr_Occurred()) return nullptr;
  return wrapped([&] {
    const OptionalTensor bias = a[2] == Py_None ? std::nullopt : OptionalTensor(THPVariable_Unpack(a[2]));
    return op.call(THPVariable_Unpack(a[0]), THPVariable_Unpack(a[1]), bias, THPVariable_Unpack(a[3]), flags);
  });
}

PyObject* py_use(PyObject*, PyObject* address) {
  void* table = PyLong_AsVoidPtr(address);
  if (!table && PyErr_Occurred()) return nullptr;
  kernels = static_cast<const marl::Kernels*>(table);
  return PyLong_FromLongLong(kernels->lanes);
}

PyMethodDef methods[] = {
    {"forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_forward)), METH_FASTCALL,
     "forward(x, panels, plan, flags) -> y, without a gradient"},
    {"linear", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_linear)), METH_FASTCALL,
     "linear(x, packed, bias, plan, flags) -> y"},
    {"use", py_use, METH_O, "use(address) -> lanes: take the kernels of this table"},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "grouped_torch", "Grouped layers.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit_grouped_torch() { return PyModule_Create(&definition); }
