// Registers the kernels of grouped layers with torch, for the CPU and for autograd, and gives Python what calls
// the registered operators without the cost of torch.ops, which alone is as dear as a small dense layer:
// `linear`, and `Layer`, which keeps its panels. `use` names the table of the instruction set that was built.
#include <torch/csrc/autograd/python_variable.h>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cstring>

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

// Calls `run` without the interpreter's lock; a C++ exception becomes a RuntimeError. Operators may lead back into
// Python, where a mode traces or counts them: an error that it has set stays what it is.
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
  if (PyErr_Occurred()) return nullptr;
  if (y.defined()) return THPVariable_Wrap(std::move(y));
  PyErr_SetString(PyExc_RuntimeError, error.empty() ? "a grouped layer gave nothing" : error.c_str());
  return nullptr;
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

// A layer whose weights rest: panels are packed again when torch has counted a change of weights or bias, or they
// lie elsewhere. Batches of a size that is not chosen go to `otherwise`, a function of x.
struct Layer {
  static constexpr int kSizes = 48;  // size s: 2^(s-1) < rows <= 2^s
  Tensor packed, plan, panels;
  OptionalTensor bias;
  int64_t flags = 0, inputs = 0;
  PyObject* otherwise = nullptr;
  bool chosen[kSizes] = {};
  int threads = 0;                      // that the choice was made for
  const marl::Kernels* with = nullptr;  // that packed the panels
  const void* at[2] = {};
  uint32_t version[2] = {};

  static uint32_t version_of(const Tensor& tensor) { return tensor.is_inference() ? 0 : tensor._version(); }

  void count_threads() {  // another number of them is another choice
    if (const int now = at::get_num_threads(); now != threads) {
      std::fill(std::begin(chosen), std::end(chosen), false);
      threads = now;
    }
  }

  void refresh() {
    const void* now[2] = {packed.const_data_ptr(), bias ? bias->const_data_ptr() : nullptr};
    const uint32_t count[2] = {version_of(packed), bias ? version_of(*bias) : 0};
    if (with == kernels && !std::memcmp(now, at, sizeof at) && !std::memcmp(count, version, sizeof version))
      return;
    const c10::InferenceMode off(false);
    const at::NoGradGuard constant;
    panels = pack(packed, bias, plan);
    with = kernels;
    std::memcpy(at, now, sizeof at), std::memcpy(version, count, sizeof version);
  }
};
struct LayerObject {
  PyObject_HEAD
  vectorcallfunc call;
  Layer* layer;
};

PyObject* layer_call(PyObject* self, PyObject* const* a, size_t count, PyObject* names) {
  Layer& layer = *reinterpret_cast<LayerObject*>(self)->layer;
  if (PyVectorcall_NARGS(count) != 1 || names || !THPVariable_Check(a[0])) {
    PyErr_SetString(PyExc_TypeError, "a layer takes one tensor");
    return nullptr;
  }
  if (!THPVariable_CheckExact(a[0])) return PyObject_CallOneArg(layer.otherwise, a[0]);  // of a tracer, say
  const Tensor& x = THPVariable_Unpack(a[0]);
  layer.count_threads();
  const uint64_t rows = static_cast<uint64_t>(x.numel()) / layer.inputs;
  if (at::GradMode::is_enabled() || !layer.chosen[rows < 2 ? 0 : 64 - __builtin_clzll(rows - 1)])
    return PyObject_CallOneArg(layer.otherwise, a[0]);
  static const auto op =
      operation<Tensor(const Tensor&, const Tensor&, const Tensor&, int64_t)>("marl::grouped_forward");
  return wrapped([&] {
    layer.refresh();
    return op.call(x, layer.panels, layer.plan, layer.flags);
  });
}

PyObject* layer_choose(PyObject* self, PyObject* size) {
  const long s = PyLong_AsLong(size);
  if (s == -1 && PyErr_Occurred()) return nullptr;
  if (s < 0 || s >= Layer::kSizes) return PyErr_Format(PyExc_ValueError, "size must be 0 to 47, not %ld", s);
  Layer& layer = *reinterpret_cast<LayerObject*>(self)->layer;
  layer.count_threads();
  layer.chosen[s] = true;
  Py_RETURN_NONE;
}

PyObject* layer_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
  PyObject *packed, *bias, *plan, *otherwise;
  long long flags;
  if (!PyArg_ParseTuple(arguments, "OOOLO", &packed, &bias, &plan, &flags, &otherwise)) return nullptr;
  if (!THPVariable_Check(packed) || !THPVariable_Check(plan) ||
      !(bias == Py_None || THPVariable_Check(bias)))
    return PyErr_Format(PyExc_TypeError, "Layer(packed, bias, plan, flags, otherwise): tensors are missing");
  auto* self = reinterpret_cast<LayerObject*>(type->tp_alloc(type, 0));
  if (!self) return nullptr;
  self->call = layer_call;
  Layer& layer = *(self->layer = new Layer);
  layer.packed = THPVariable_Unpack(packed), layer.plan = THPVariable_Unpack(plan);
  if (bias != Py_None) layer.bias = THPVariable_Unpack(bias);
  layer.flags = flags, layer.inputs = layer.plan.const_data_ptr<int64_t>()[0];
  Py_INCREF(otherwise);
  layer.otherwise = otherwise;
  return reinterpret_cast<PyObject*>(self);
}

int layer_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(reinterpret_cast<LayerObject*>(self)->layer->otherwise);
  return 0;
}

int layer_clear(PyObject* self) {
  Py_CLEAR(reinterpret_cast<LayerObject*>(self)->layer->otherwise);
  return 0;
}

void layer_free(PyObject* self) {
  PyObject_GC_UnTrack(self);
  layer_clear(self);
  delete reinterpret_cast<LayerObject*>(self)->layer;
  Py_TYPE(self)->tp_free(self);
}

PyMethodDef layer_methods[] = {
    {"choose", layer_choose, METH_O, "choose(size): batches of up to 2^size rows run here"},
    {nullptr, nullptr, 0, nullptr}};

PyTypeObject* layer_type() {
  static PyTypeObject type = {PyVarObject_HEAD_INIT(nullptr, 0)};
  type.tp_name = "grouped_torch.Layer";
  type.tp_basicsize = sizeof(LayerObject);
  type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_HAVE_GC;
  type.tp_vectorcall_offset = offsetof(LayerObject, call);
  type.tp_call = PyVectorcall_Call;
  type.tp_new = layer_new;
  type.tp_dealloc = layer_free;
  type.tp_traverse = layer_traverse;
  type.tp_clear = layer_clear;
  type.tp_methods = layer_methods;
  return PyType_Ready(&type) < 0 ? nullptr : &type;
}

PyObject* py_use(PyObject*, PyObject* address) {
  void* table = PyLong_AsVoidPtr(address);
  if (!table && PyErr_Occurred()) return nullptr;
  kernels = static_cast<const marl::Kernels*>(table);
  return PyLong_FromLongLong(kernels->lanes);
}

PyMethodDef methods[] = {
    {"linear", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_linear)), METH_FASTCALL,
     "linear(x, packed, bias, plan, flags) -> y"},
    {"use", py_use, METH_O, "use(address) -> lanes: take the kernels of this table"},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "grouped_torch", "Grouped layers.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit_grouped_torch() {
  PyTypeObject* layer = layer_type();
  PyObject* module = layer ? PyModule_Create(&definition) : nullptr;
  if (module && PyModule_AddObjectRef(module, "Layer", reinterpret_cast<PyObject*>(layer)) < 0)
    Py_CLEAR(module);
  return module;
}
