// Splits work over the caller's thread and helpers that stay for the next call.
//
// A helper looks out for its next part for `kSpin`, then sleeps: kernels that follow each other closely, as in an
// update, hand over in about a microsecond, and between updates nobody takes processor time. (OpenMP's workers spin
// for longer, and take the cores from whoever else needs them.)
#pragma once
#if !defined(_WIN32)
#include <pthread.h>
#endif

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace marl {

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Whether `ready` became true within `kSpin`.
template <typename Ready>
bool spin(const Ready& ready) {
  constexpr auto kSpin = std::chrono::microseconds(300);  // CHOICE: longer than Python needs between two kernels
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      pause();
    }
  while (std::chrono::steady_clock::now() < end);
  return ready();
}

// The helpers of a process; one caller at a time has them.
class Crew {
 public:
  typedef void (*Run)(const void* part, int i, int64_t begin, int64_t end);

  // False where another thread has the helpers now; else all parts are done.
  bool run(int64_t count, int threads, Run function, const void* part) {
    std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
    if (!mine) return false;
    for (int i = static_cast<int>(called_.size()) + 1; i < threads; ++i) {
      called_.push_back(std::make_unique<Flag>());
      std::thread(&Crew::help, this, i, called_.back().get()).detach();
    }
    function_ = function, part_ = part, count_ = count, threads_ = threads, left_ = threads - 1;
    for (int i = 1; i < threads; ++i) called_[i - 1]->on = true;
    if (asleep_) wake();
    function(part, 0, 0, count / threads);
    const auto done = [&] { return left_ == 0; };
    if (spin(done)) return true;
    std::unique_lock<std::mutex> lock(sleep_);
    waiting_ = true;
    changed_.wait(lock, done);
    waiting_ = false;
    return true;
  }

 private:
  struct alignas(64) Flag {  // each in a cache line of its own
    std::atomic<bool> on{false};
  };

  void help(int i, Flag* called) {
    const auto ready = [&] { return called->on.load(); };
    while (true) {
      if (!spin(ready)) {
        std::unique_lock<std::mutex> lock(sleep_);
        ++asleep_;  // before the last look at the flag: who sets it after that look sees a sleeper
        changed_.wait(lock, ready);
        --asleep_;
      }
      called->on = false;
      function_(part_, i, count_ * i / threads_, count_ * (i + 1) / threads_);
      if (--left_ == 0 && waiting_) wake();
    }
  }

  void wake() {
    { std::lock_guard<std::mutex> lock(sleep_); }  // a sleeper holds it from its last look until it waits
    changed_.notify_all();
  }

  std::mutex busy_, sleep_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Flag>> called_;  // of each helper
  std::atomic<int> left_{0}, asleep_{0};
  std::atomic<bool> waiting_{false};
  int threads_ = 0;
  Run function_ = nullptr;
  const void* part_ = nullptr;
  int64_t count_ = 0;
};

// One crew for all kernels: a static of an inline function is one object in all libraries of a process (GNU systems;
// elsewhere each library has its own). It is never destroyed, because its helpers never end. A forked process has no
// helpers: it starts with a new crew.
inline Crew*& crew() {
  static Crew* all = [] {
#if !defined(_WIN32)
    pthread_atfork(nullptr, nullptr, [] { crew() = new Crew; });
#endif
    return new Crew;
  }();
  return all;
}

// Calls part(i, begin, end) for `threads` contiguous ranges of [0, count), range 0 on the caller's thread.
template <typename Part>
void split(int64_t count, int threads, const Part& part) {
  if (threads > count) threads = static_cast<int>(count < 1 ? 1 : count);
  const Crew::Run run = [](const void* p, int i, int64_t begin, int64_t end) {
    (*static_cast<const Part*>(p))(i, begin, end);
  };
  if (threads > 1 && crew()->run(count, threads, run, &part)) return;
  for (int i = 0; i < threads; ++i) part(i, count * i / threads, count * (i + 1) / threads);
}

// A sleeping helper takes about 20 us to come: below this many operations one thread is faster.
constexpr double kWorthAThread = 4e6;

inline int worthwhile(double operations, int threads) {
  const int most = static_cast<int>(operations / kWorthAThread) + 1;
  return threads < most ? threads : most;
}

}  // namespace marl
