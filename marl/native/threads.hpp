// Splits work over threads that live for one call. No pool: OpenMP's spinning workers fight torch's own.
#pragma once
#include <cstdint>
#include <thread>
#include <vector>

namespace marl {

// Calls part(i, begin, end) for `threads` contiguous ranges of [0, count), range 0 on the caller's thread.
template <typename Part>
void split(int64_t count, int threads, const Part& part) {
  if (threads > count) threads = static_cast<int>(count < 1 ? 1 : count);
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i)
    others.emplace_back([=, &part] { part(i, count * i / threads, count * (i + 1) / threads); });
  part(0, 0, count / threads);
  for (auto& thread : others) thread.join();
}

// Starting and joining a thread costs about 20 us: below this many operations one thread is faster.
constexpr double kWorthAThread = 4e6;

inline int worthwhile(double operations, int threads) {
  const int most = static_cast<int>(operations / kWorthAThread) + 1;
  return threads < most ? threads : most;
}

}  // namespace marl
