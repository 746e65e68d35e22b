// The one place that starts threads.
#pragma once

#include <cstdint>

#if !defined(_OPENMP)
#include <thread>
#include <vector>
#endif

namespace b2m {

/// body(thread) for thread = 0 .. threads-1, each on a thread of its own; returns when all have returned.
/// One thread: a plain call, no parallel region at all. A forked child (a DataLoader worker) inherits a thread pool whose threads
/// do not exist there, and would wait for them for ever.
/// `body` must not throw: an exception may not leave a parallel region.
template <class Body>
void parallel(int threads, const Body& body) {
  if (threads <= 1) {
    body(0);
    return;
  }
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int thread = 0; thread < threads; ++thread) body(thread);
#else
  // Compilers without OpenMP, and ThreadSanitizer, which does not know OpenMP's barriers.
  std::vector<std::thread> team;
  for (int thread = 1; thread < threads; ++thread) team.emplace_back([&body, thread] { body(thread); });
  body(0);
  for (std::thread& member : team) member.join();
#endif
}

/// body(begin, end) over contiguous shares of [0, count).
template <class Body>
void parallel_ranges(int threads, std::int64_t count, const Body& body) {
  parallel(threads, [&](int thread) {
    const std::int64_t begin = count * thread / threads;
    const std::int64_t end = count * (thread + 1) / threads;
    if (begin < end) body(begin, end);
  });
}

}  // namespace b2m
