// A device: the memory that a plan's slices lie in and the engine that runs
// its kernels, fills and copies. cpu/ runs them on a pinned thread pool, cuda/
// on an NVIDIA GPU; null/ runs nothing and holds nothing (dry runs).
//
// What it stands for: one accelerator, or this rank's share of the host's
//   cores, with the arenas of one plan.
// Who owns it, how long: the rank that created it, until its Executor and
//   every pointer got from `base` are gone. Memory and code go with it.
// Which thread may call: the rank's thread, the one that called create, alone.
//   That thread takes part in launches; create prepares it for that.
// What "returned" promises: calls are executed in the order in which they are
//   made. After launch, matmul, fill or copy returned, later calls of this
//   device see the result; the host sees it after synchronize, and through
//   read.
// What a failure leaves behind: allocate and loadKernels either do all or
//   nothing and may be called once; launch, matmul, fill and copy cannot fail
//   by themselves (the plan is checked), what goes wrong on an asynchronous
//   device is told by synchronize, after which the device is good for nothing
//   but destruction.
#ifndef LMC_RUNTIME_DEVICE_DEVICE_H
#define LMC_RUNTIME_DEVICE_DEVICE_H

#include "runtime/base/Status.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace lmc::runtime {

/// A block of memory as the plan states it; bytes are a multiple of 64.
struct AllocationRequest {
  std::string name;
  int64_t bytes = 0;
  bool onHost = false;
};

/// The kernels for one instruction set, and what it needs.
struct CodeObject {
  std::string_view targetCpu;
  std::vector<std::string> cpuFeatures;
  std::string_view object;
};

/// A kernel of the plan, as far as a device must know it: parameters of a
/// launch are `operands` pointers, `integers` numbers and the units. On a GPU a
/// unit is a block of `threads` threads with `sharedBytes` of dynamic shared
/// memory.
struct KernelRequest {
  std::string symbol;
  uint32_t operands = 0, integers = 0, threads = 0;
  int64_t sharedBytes = 0;
  std::string name = {}; ///< in the plan, for people; may be empty

  const std::string &label() const { return name.empty() ? symbol : name; }
};

/// The operands of a matmul (plan.proto, Matmul), in the order in which a
/// device takes their addresses; bias and addend may be null.
enum MatmulPointer {
  MatmulLeft,
  MatmulRight,
  MatmulTarget,
  MatmulWorkspace,
  MatmulBias,
  MatmulAddend,
  numMatmulPointers
};

/// A matmul of the plan, as far as a device must know it before it runs.
struct MatmulRequest {
  int64_t rows = 0; ///< the most
  int64_t columns = 0, depth = 0;
  bool rowsVary = false; ///< from step to step
  bool leftTransposed = false, rightTransposed = false, hasBias = false;
  int64_t workspaceBytes = 0;
  /// What each operand's address is always a multiple of, up to 256 bytes.
  std::array<uint32_t, numMatmulPointers> alignments{};
};

/// Where a kernel starts; made by the device, opaque to everyone else.
using KernelHandle = const void *;

/// How a launch is shared out among threads: not at all, where waking them
/// costs more than it gains; in one wide part for each, where a matrix is read
/// once (narrow parts of its rows run at a third of the memory's speed); in
/// many, which even out threads of unequal speed.
enum class Parts : uint8_t { One, OnePerThread, Many };

/// What a device was asked for while it recorded; to be gone before the device.
class Recording {
public:
  virtual ~Recording() = default;
};

class Device {
public:
  virtual ~Device() = default;

  virtual std::string_view name() const = 0;

  /// Allocates all blocks, zeroed and aligned to 64 bytes: exactly the bytes
  /// asked for, once. DoesNotFit when the machine has less.
  virtual Status allocate(const std::vector<AllocationRequest> &blocks) = 0;
  virtual std::byte *base(uint32_t block) const = 0;

  /// Takes the best of `code` that this device can run and finds the kernels
  /// in it; one handle per kernel.
  virtual StatusOr<std::vector<KernelHandle>>
  loadKernels(const std::vector<CodeObject> &code,
              const std::vector<KernelRequest> &wanted) = 0;

  /// Computes the units [0, units) of a kernel.
  virtual void launch(KernelHandle kernel, void *const *pointers,
                      const int64_t *integers, int64_t units, Parts parts) = 0;

  /// Makes ready for these products, and no others, what takes time or memory;
  /// `tf32`: factors may be rounded to TF32. Refused by a device that has no
  /// library for them, unless there are none.
  virtual Status prepareMatmuls(const std::vector<MatmulRequest> &wanted,
                                bool tf32) = 0;
  /// Computes the product `number` of those, of so many rows; `adds`: with the
  /// addend.
  virtual void matmul(uint32_t number, void *const *pointers, int64_t rows,
                      bool adds) = 0;
  virtual void fillZero(std::byte *target, int64_t bytes) = 0;
  virtual void copy(const std::byte *source, std::byte *target,
                    int64_t bytes) = 0;

  /// Between host memory and the device's, in order with the calls above;
  /// done when it returns.
  virtual void read(const std::byte *source, void *target, int64_t bytes) = 0;
  virtual void write(std::byte *target, const void *source, int64_t bytes) = 0;

  /// Waits for all that was asked.
  virtual Status synchronize() = 0;

  /// Whether calls can be recorded, to be replayed for less than each of them
  /// costs. Between beginRecording and endRecording launches, matmuls, fills,
  /// copies and marks are remembered with their arguments, not done, and
  /// nothing else may be called. Kernels have to have run before.
  virtual bool canRecord() const = 0;
  virtual Status beginRecording() = 0;
  virtual StatusOr<std::unique_ptr<Recording>> endRecording() = 0;
  /// Does what was recorded, in order with the calls before and after.
  virtual void replay(Recording &recording) = 0;

  /// The device's own clock. mark(i) notes the time at which all that was asked
  /// before is done, i less than what was reserved; after synchronize the
  /// times between two marks can be asked for.
  virtual Status reserveMarks(size_t count) = 0;
  virtual void mark(size_t index) = 0;
  virtual int64_t nanoseconds(size_t from, size_t to) = 0;

  /// Runs work(context, begin, end) over [0, units) on the host cores that
  /// belong to this device: filling weights, converting, summing.
  using HostWork = void (*)(void *context, int64_t begin, int64_t end);
  virtual void parallelHost(HostWork work, void *context, int64_t units) = 0;

  /// Whether the host may touch the device's memory through its pointers.
  virtual bool hostAccessible() const = 0;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_DEVICE_DEVICE_H
