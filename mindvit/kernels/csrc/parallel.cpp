#include "parallel.h"

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace mindvit {

namespace {

int Cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

// A helper thread a core beyond the caller's. One job at a time: who comes while it is busy works
// alone. Kernels follow each other within some 50 us, and waking a sleeping thread takes as long:
// both sides stay awake for a while before they sleep.
class Pool {
 public:
  static Pool &Get() {
    static Pool *pool = new Pool();  // never destroyed: threads outlive static destructors
    return *pool;
  }

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // body(part, parts) for part in [0, parts), on several threads
  void Run(int parts, const std::function<void(int, int)> &body) {
    const bool alone = parts <= 1 || helpers_.empty() ||
                       getpid() != process_;  // a forked process has none of its parent's threads
    std::unique_lock<std::mutex> turn = alone
                                            ? std::unique_lock<std::mutex>()
                                            : std::unique_lock<std::mutex>(turn_, std::try_to_lock);
    if (!turn.owns_lock()) {
      for (int part = 0; part < parts; ++part) body(part, parts);
      return;
    }
    bool sleeping;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      parts_ = parts;
      next_ = 0;
      left_ = parts;
      sleeping = sleeping_ > 0;
      ++job_;
    }
    if (sleeping) start_.notify_all();
    Work();
    const auto finished = [this] { return left_ == 0 && working_ == 0; };
    StayAwake(finished);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, finished);
    body_ = nullptr;
  }

 private:
  static constexpr std::chrono::microseconds kAwake{200};

  Pool() {
    for (int i = 1; i < Cores(); ++i) helpers_.emplace_back([this] { Loop(); });
  }

  // until `ready`, but not for long
  template <typename Ready>
  static void StayAwake(const Ready &ready) {
    const auto end = std::chrono::steady_clock::now() + kAwake;
    while (!ready() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  }

  void Work() {
    for (;;) {
      int part;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (body_ == nullptr || next_ >= parts_) return;
        part = next_++;
      }
      (*body_)(part, parts_);
      std::lock_guard<std::mutex> lock(mutex_);
      --left_;
    }
  }

  void Loop() {
    uint64_t seen = 0;
    const auto called = [&] { return job_ != seen; };
    for (;;) {
      StayAwake(called);
      {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleeping_;
        start_.wait(lock, called);
        --sleeping_;
        seen = job_;
        ++working_;
      }
      Work();
      {
        std::lock_guard<std::mutex> lock(mutex_);
        --working_;
      }
      done_.notify_all();
    }
  }

  const pid_t process_ = getpid();
  std::vector<std::thread> helpers_;
  std::mutex turn_, mutex_;
  std::condition_variable start_, done_;
  const std::function<void(int, int)> *body_ = nullptr;
  int parts_ = 0, next_ = 0, sleeping_ = 0;
  // changed under the mutex, and watched without it
  std::atomic<int> left_{0}, working_{0};
  std::atomic<uint64_t> job_{0};
};
}  // namespace

int Threads() { return Pool::Get().size(); }

void RunParts(int parts, const std::function<void(int, int)> &body) {
  const bool half = InBFloat16();
  Pool::Get().Run(parts, [half, &body](int part, int all) {
    InBFloat16() = half;  // a helper knows it from the caller alone
    body(part, all);
  });
}

}  // namespace mindvit
