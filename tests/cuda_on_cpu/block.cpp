// SPDX-License-Identifier: MIT
// Runs a grid, one block at a time, each thread of the block a fiber that runs until it has to wait.
// Compiled without sanitizers, whatever the kernels are compiled with: it tells them what it does instead.
#include "block.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <random>
#include <sstream>
#include <vector>

#include "device.h"
#include "sanitizers.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

extern "C" {
void cuda_on_cpu_switch(void** save, void* load);
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
}
asm(R"(
.text
.globl cuda_on_cpu_switch
.hidden cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace cuda_on_cpu {
namespace {

constexpr size_t kStackBytes = 256u << 10, kGuardBytes = 4096;
constexpr unsigned kMaxThreads = 1024;
constexpr unsigned char kPoison = 0xff;  // a NaN in every floating type, -1 in every integer

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Copy {
  void* to;
  const void* from;
  size_t bytes, zeros;
  int64_t group;
};

struct Thread {
  char* stack = nullptr;
  void* pointer = nullptr;  // of the stack, while another one runs
  uint3 index;
  int warp, lane;
  State state;
  Site site;
  Fiber fiber;
  std::vector<Copy> copies;  // in the order they were started
  int64_t groups;
};

struct Warp {
  uint64_t in[2][kWarpSize][kWords], out[2][kWarpSize][kWords];
  int lanes, come, turn;
  WarpWork work;
  Site site;
  char meeting[2];  // what orders its lanes, for a race detector
};

struct Block {
  unsigned threads, alive, come;
  int64_t turn;
  Site site;
  bool any, result[2];
  char meeting[2];
};

Thread threads[kMaxThreads];
Warp warps[kMaxThreads / kWarpSize];
Block block;
Thread* now = nullptr;  // the thread that runs
void* scheduler = nullptr;
Fiber scheduler_fiber;
Call call;
const void* closure;
char* shared = nullptr;  // dynamic shared memory of the block
size_t shared_size = 0;
std::string failure;
std::mutex one_grid;
char ended;  // orders a block and what comes after it

// Memory is written here without the sanitizers' knowledge.
void poison_values(char* begin, char* end) {
  volatile uint64_t* at = reinterpret_cast<uint64_t*>(begin);
  for (; reinterpret_cast<uintptr_t>(at + 1) <= reinterpret_cast<uintptr_t>(end); ++at) *at = ~uint64_t{0};
  for (volatile char* rest = reinterpret_cast<volatile char*>(at); rest < end; ++rest)
    *rest = static_cast<char>(kPoison);
}
void copy_words(void* to, const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes / 4; ++i)
    static_cast<volatile uint32_t*>(to)[i] = static_cast<const uint32_t*>(from)[i];
}

bool same(Site a, Site b) { return a.line == b.line && (a.file == b.file || std::string(a.file) == b.file); }
std::string text(Site site) {
  const std::string file = site.file;
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}
std::string text(const uint3& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

void suspend() {
  Thread* self = now;
  leave_for(scheduler_fiber, self->fiber);
  cuda_on_cpu_switch(&self->pointer, scheduler);
  arrive_at(self->fiber);
}

void resume(Thread& thread) {
  now = &thread;
  threadIdx = thread.index;
  leave_for(thread.fiber, scheduler_fiber);
  cuda_on_cpu_switch(&scheduler, thread.pointer);
  arrive_at(scheduler_fiber);
}

void end_barrier() {
  block.result[block.turn & 1] = block.any;
  block.any = false;
  block.come = 0;
  ++block.turn;
  for (unsigned i = 0; i < block.threads; ++i) {
    if (threads[i].state == State::kAtBlock) threads[i].state = State::kReady;
  }
}

void thread_main() {
  arrive_at(now->fiber);
  call(closure);
  for (const Copy& copy : now->copies) {
    if (copy.bytes > 0) fail("a thread ends with copies that nobody waited for", now->site);
  }
  now->state = State::kDone;
  --block.alive;
  --warps[now->warp].lanes;
  release(&ended);
  if (block.come > 0) fail("a thread leaves the kernel while others wait at " + text(block.site), now->site);
  suspend();
}

void prepare(Thread& thread, unsigned number) {
  if (thread.stack == nullptr) {
    void* at = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) abort();
    mprotect(at, kGuardBytes, PROT_NONE);
    thread.stack = static_cast<char*>(at) + kGuardBytes;
  }
  make_fiber(thread.fiber, thread.stack, kStackBytes);
  void** top = reinterpret_cast<void**>(thread.stack + kStackBytes);
  top[-1] = nullptr;
  top[-2] = reinterpret_cast<void*>(thread_main);
  for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
  thread.pointer = top - 8;
  thread.index = {number % blockDim.x, number / blockDim.x % blockDim.y, number / blockDim.x / blockDim.y};
  thread.warp = static_cast<int>(number) / kWarpSize;
  thread.lane = static_cast<int>(number) % kWarpSize;
  thread.state = State::kReady;
  thread.site = {"the start of the kernel", 0};
  thread.copies.clear();
  thread.groups = 0;
  ++warps[thread.warp].lanes;
}

void start_block() {
  block = Block();
  block.threads = block.alive = blockDim.x * blockDim.y * blockDim.z;
  for (Warp& warp : warps) warp.lanes = warp.come = warp.turn = 0;
  poison_values(__start_cuda_shared, __stop_cuda_shared);
  poison_values(shared, shared + shared_size);
  for (unsigned i = 0; i < block.threads; ++i) prepare(threads[i], i);
}

std::string where_all_wait() {
  std::map<std::string, int> places;
  for (unsigned i = 0; i < block.threads; ++i) {
    const Thread& thread = threads[i];
    const char* what = thread.state == State::kAtBlock  ? "the block at "
                       : thread.state == State::kAtWarp ? "its warp at "
                                                        : "nothing, ended after ";
    ++places[what + text(thread.site)];
  }
  std::string all = "no thread can go on:";
  for (const auto& [place, count] : places) all += " " + std::to_string(count) + " wait for " + place + ";";
  return all;
}

// Each warp goes as far as it can before the next one moves: what barriers do not order comes out of order.
void run_block(const std::vector<int>& warp_order, const std::vector<int>& lane_order) {
  start_block();
  while (block.alive > 0) {
    bool moved = false;
    for (int warp : warp_order) {
      for (bool again = true; again;) {
        again = false;
        for (int lane : lane_order) {
          const size_t number = static_cast<size_t>(warp) * kWarpSize + lane;
          if (number >= block.threads || threads[number].state != State::kReady) continue;
          resume(threads[number]);
          if (!failure.empty()) return;
          again = moved = true;
        }
      }
    }
    if (!moved) {
      failure = where_all_wait();
      return;
    }
  }
}

struct Count {
  int64_t launches = 0, blocks = 0;
  size_t threads = 0, shared_bytes = 0;
};

// What ran, for who asks with CUDA_ON_CPU_COUNTS=file: offsets in this library, which nm names.
class Counts {
 public:
  ~Counts() {
    const char* path = getenv("CUDA_ON_CPU_COUNTS");
    const int file = path == nullptr ? -1 : open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (file < 0) return;
    std::ostringstream text;
    for (const auto& [kernel, count] : of_) {
      text << std::hex << static_cast<const char*>(kernel) - module_base() << std::dec << ' '
           << count.launches << ' ' << count.blocks << ' ' << count.threads << ' ' << count.shared_bytes
           << '\n';
    }
    const std::string all = text.str();  // in one write: other processes append to the same file
    if (write(file, all.data(), all.size()) < 0) perror("CUDA_ON_CPU_COUNTS");
    close(file);
  }
  Count& of(const void* kernel) { return of_[kernel]; }

 private:
  std::map<const void*, Count> of_;
} counts;

}  // namespace

void fail(const std::string& message, Site site) {
  failure =
      message + " (thread " + text(now->index) + " of block " + text(blockIdx) + ", " + text(site) + ")";
  suspend();
  abort();
}

bool block_barrier_or(Site site, bool value) {
  if (block.alive < block.threads) fail("a barrier that some threads never reach, as they have ended", site);
  if (block.come > 0 && !same(site, block.site))
    fail("others of the block wait at " + text(block.site), site);
  block.site = now->site = site;
  block.any |= value;
  const int64_t turn = block.turn;
  Thread* self = now;
  release(&block.meeting[turn & 1]);
  if (++block.come == block.alive) {
    end_barrier();
  } else {
    self->state = State::kAtBlock;
    suspend();
  }
  acquire(&block.meeting[turn & 1]);
  return block.result[turn & 1];
}
void block_barrier(Site site) { block_barrier_or(site, false); }

void warp_together(Site site, unsigned mask, WarpWork work, int argument, const void* in, size_t in_bytes,
                   void* out, size_t out_bytes) {
  Thread* self = now;
  Warp& warp = warps[self->warp];
  if (mask != 0xffffffffu) fail("a mask of some lanes, which nothing here emulates", site);
  if (warp.lanes < kWarpSize) fail("a warp-wide instruction that some lanes never reach", site);
  if (warp.come > 0 && (!same(site, warp.site) || work != warp.work)) {
    fail("others of the warp wait at " + text(warp.site), site);
  }
  warp.site = self->site = site;
  warp.work = work;
  const int turn = warp.turn;
  copy_words(warp.in[turn][self->lane], in, in_bytes);
  if (++warp.come == kWarpSize) {
    if (work != nullptr) work(warp.in[turn], warp.out[turn], argument);
    warp.come = 0;
    warp.turn ^= 1;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      Thread& other = threads[static_cast<size_t>(self->warp) * kWarpSize + lane];
      if (&other != self) other.state = State::kReady;
    }
  } else {
    self->state = State::kAtWarp;
    suspend();
  }
  copy_words(out, warp.out[turn][self->lane], out_bytes);
}

// Unlike a shuffle this orders memory.
void warp_barrier(Site site, unsigned mask) {
  Warp& warp = warps[now->warp];
  const int turn = warp.turn;
  release(&warp.meeting[turn]);
  warp_together(site, mask, nullptr, 0, nullptr, 0, nullptr, 0);
  acquire(&warp.meeting[turn]);
}

void start_copy(Site site, void* to, const void* from, size_t bytes, size_t zeros) {
  const auto aligned = [&](const void* at) { return reinterpret_cast<uintptr_t>(at) % bytes == 0; };
  if ((bytes != 4 && bytes != 8 && bytes != 16) || zeros > bytes)
    fail("a copy of so many bytes does not exist", site);
  if (!aligned(to) || (zeros < bytes && !aligned(from))) fail("a copy that is not aligned", site);
  const char* begin = static_cast<char*>(to);
  if (begin < shared || begin + bytes > shared + shared_size)
    fail("a copy to outside of shared memory", site);
  now->site = site;
  write_seen(to, kPoison, bytes);
  now->copies.push_back({to, from, bytes, zeros, now->groups});
}
void end_copy_group() { ++now->groups; }
void wait_for_copies(size_t groups_left) {
  auto& copies = now->copies;
  size_t landed = 0;
  for (; landed < copies.size() && copies[landed].group < now->groups - static_cast<int64_t>(groups_left);
       ++landed) {
    const Copy& copy = copies[landed];
    copy_seen(copy.to, copy.from, copy.bytes - copy.zeros);
    write_seen(static_cast<char*>(copy.to) + copy.bytes - copy.zeros, 0, copy.zeros);
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<int64_t>(landed));
}

char* dynamic_shared(size_t) { return shared; }
constexpr unsigned kSharedBase = 1024;  // an address that is no pointer and not zero
unsigned shared_address_of(const void* pointer) {
  return kSharedBase + static_cast<unsigned>(static_cast<const char*>(pointer) - shared);
}
char* at_shared_address(unsigned address, size_t bytes, Site site) {
  if (address % bytes != 0) fail("an address in shared memory that is not aligned", site);
  if (address < kSharedBase || address - kSharedBase + bytes > shared_size)
    fail("an address outside of shared memory", site);
  return shared + (address - kSharedBase);
}

void run_grid(const void* kernel, dim3 grid, dim3 size, size_t shared_bytes, Call of_call,
              const void* of_closure) {
  const std::lock_guard<std::mutex> lock(one_grid);
  if (!may_launch(kernel, grid, size, shared_bytes)) return;
  gridDim = grid, blockDim = size;
  call = of_call, closure = of_closure;
  shared_size = shared_bytes;
  const size_t with_margin = (shared_bytes + 127) / 128 * 128 + 128;
  shared = static_cast<char*>(aligned_alloc(128, with_margin));
  poison(shared + shared_bytes, shared + with_margin);
  make_scheduler(scheduler_fiber);
  Count& count = counts.of(kernel);
  ++count.launches;
  count.threads = size.x * size.y * size.z;
  count.shared_bytes = std::max(count.shared_bytes, shared_bytes);
  const int64_t blocks = static_cast<int64_t>(grid.x) * grid.y * grid.z;
  Orders orders(count.threads);
  for (int64_t i = 0; i < blocks && failure.empty(); ++i) {
    const int64_t number = orders.next_block(i, blocks);
    blockIdx = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                static_cast<unsigned>(number / grid.x / grid.y)};
    run_block(orders.warps, orders.lanes);
    acquire(&ended);
    for (unsigned t = 0; t < block.threads; ++t) end_fiber(threads[t].fiber);
    ++count.blocks;
  }
  unpoison(shared, shared + with_margin);
  free(shared);
  shared = nullptr;
  if (!failure.empty()) launch_failed(failure);
  failure.clear();
}

}  // namespace cuda_on_cpu
