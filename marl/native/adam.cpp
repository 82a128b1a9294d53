// Adam (Kingma and Ba 2015, algorithm 1) with the gradient's norm clipped, in one pass over a flat network.
#include <cmath>
#include <cstdint>

extern "C" {

// Norm of the gradient in `norm`. Where it is finite, one step of the parameters p with moments m and v; `steps`
// counts this one; the gradient is multiplied by min(1, limit / (norm + 1e-6)) as torch clips it, then set to 0.
void marl_adam(int64_t count, float* __restrict p, float* __restrict g, float* __restrict m, float* __restrict v,
               int64_t steps, double rate, double beta1, double beta2, double eps, double limit, float* norm) {
  double sum[8] = {0};  // eight chains of additions, not one
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int j = 0; j < 8; ++j) sum[j] += static_cast<double>(g[i + j]) * g[i + j];
  for (; i < count; ++i) sum[0] += static_cast<double>(g[i]) * g[i];
  const double size = std::sqrt(sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7]);
  *norm = static_cast<float>(size);
  if (!std::isfinite(*norm)) return;
  const double shrink = limit / (size + 1e-6);
  const float scale = static_cast<float>(shrink < 1.0 ? shrink : 1.0);
  const float b1 = static_cast<float>(beta1), b2 = static_cast<float>(beta2), e = static_cast<float>(eps);
  const float a1 = static_cast<float>(1.0 - beta1), a2 = static_cast<float>(1.0 - beta2);
  const float step = static_cast<float>(rate / (1.0 - std::pow(beta1, steps)));
  const float root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, steps)));
  for (i = 0; i < count; ++i) {
    const float d = g[i] * scale;
    m[i] = b1 * m[i] + a1 * d;
    v[i] = b2 * v[i] + a2 * d * d;
    p[i] -= step * m[i] / (std::sqrt(v[i]) * root + e);
    g[i] = 0.0f;
  }
}

}  // extern "C"
