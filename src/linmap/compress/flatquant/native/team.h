// Threads that compute a step together: they share items out, and meet where one needs what another made.
//
// A step meets some hundred times. Meeting here takes a tenth of a microsecond, and a thread that waits asks for the
// weights that it reads next, so that memory is busy meanwhile.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

namespace linmap {

struct Range {
    int64_t first, last;
};

// Where the threads meet, and items that each takes when it is free
struct Team {
    alignas(64) std::atomic<int64_t> arrived{0};
    alignas(64) std::atomic<int64_t> meetings{0};
    alignas(64) std::atomic<int64_t> taken{0};
};

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Member {
  public:
    Member(Team& team, int64_t number, int64_t members) : number(number), members(members), team_(team) {}
    const int64_t number, members;

    Range part(int64_t items) const { return {items * number / members, items * (number + 1) / members}; }

    // An item that nobody took since the last meeting
    int64_t take() { return team_.taken.fetch_add(1, std::memory_order_relaxed); }

    void reads_next(const uint8_t* from, int64_t bytes) { next_ = from, end_ = from + std::min(bytes, MOST); }

    // Asks for some of what is read next
    void ask(int64_t lines) {
        for (; lines > 0 && next_ < end_; --lines, next_ += LINE) __builtin_prefetch(next_, 0, 2);
    }

    void meet() {
        if (members == 1) {
            team_.taken.store(0, std::memory_order_relaxed);
            return;
        }
        const int64_t meeting = team_.meetings.load(std::memory_order_relaxed);
        if (team_.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
            team_.arrived.store(0, std::memory_order_relaxed);
            team_.taken.store(0, std::memory_order_relaxed);
            team_.meetings.store(meeting + 1, std::memory_order_release);
            return;
        }
        for (int64_t waited = 0; team_.meetings.load(std::memory_order_acquire) == meeting; ++waited) {
            if (next_ < end_) ask(1);
            else pause();
            if (waited > PATIENCE) std::this_thread::yield();  // the others may need this core
        }
    }

  private:
    static constexpr int64_t LINE = 64, MOST = 1 << 16, PATIENCE = 1 << 13;
    Team& team_;
    const uint8_t *next_ = nullptr, *end_ = nullptr;
};

}  // namespace linmap
