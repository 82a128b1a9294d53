// What the kernels of grouped layers (grouped.cpp, built once per instruction set) and their registration with
// torch (grouped_torch.cpp) share: the plan of a layout, and the table of functions.
#pragma once
#include <cstdint>
#include <initializer_list>

namespace marl {

// One side of a layer: its features sorted by group, and where each lies.
struct Side {
  int64_t size;          // I or O
  const int64_t* start;  // (G + 1) first group-major position of every group
  const int64_t* edge;   // (G + 1) the same with every group padded to whole vectors
  const int32_t* order;  // feature at a group-major position
  const int32_t* place;  // group-major position of a feature
};

// A layout as one int64 tensor; marl/sparse/backends/native.py writes it.
struct Plan {
  Side in, out;
  int64_t groups, nnz;
  const int64_t* block;       // (G + 1) first packed weight of every group
  const int64_t* panel;       // (G + 1) first float of its panels: x to y
  const int64_t* panel_back;  // (G + 1) the same: dy to dx

  explicit Plan(const int64_t* head) : groups(head[2]), nnz(head[3]) {
    const int64_t *at = head + 4, step = groups + 1;
    const int64_t** starts[] = {&in.start, &out.start, &block, &panel, &out.edge, &panel_back, &in.edge};
    for (const int64_t** start : starts) *start = at, at += step;
    in.size = head[0], out.size = head[1];
    const int32_t* list = reinterpret_cast<const int32_t*>(at);
    for (Side* side : {&in, &out}) {
      const int64_t even = (side->size + 1) / 2 * 2;
      side->order = list, side->place = list + even;
      list += 2 * even;
    }
  }
};

enum Flag { kRelu = 1, kGather = 2, kScatter = 4 };

struct Gradients {  // null where not wanted
  float *dx, *dpacked, *dbias;
};

struct Kernels {
  int64_t lanes;
  // Weights and bias (or null) as panels: panel[G] + out.edge[G] floats.
  void (*pack)(const Plan& plan, const float* packed, const float* bias, float* panels);
  void (*forward)(const Plan& plan, int64_t rows, const float* x, const float* panels, int flags, float* y,
                  int threads);
  // y is read where flags has kRelu.
  void (*backward)(const Plan& plan, int64_t rows, const float* x, const float* packed, const float* y,
                   const float* dy, int flags, const Gradients& to, int threads);
  // Row and column sums of a * b, packed: over outputs for every input, over inputs for every output.
  void (*sums)(const Plan& plan, const float* a, const float* b, float* sum_in, float* sum_out);
};

}  // namespace marl
