// A program of the plan as the executor runs it: flat arrays.
//
//   ops       [ launch | launch | fill | collective | ... ]
//   pointers  [ a0 a1 a2 | b0 b1 | ... ]     operands, one op after the other
//   integers  [ n m | k | ... ]
//   patches   entries of the arrays above that depend on the micro-batch, the
//             slot or a size of the step, with their coefficients
//
// What is the same in every call of a rank (its coordinates, the arenas'
// addresses) is folded in when the program is prepared. Before a call only the
// patches are computed, and those only when a value has changed since the
// program ran last.
#ifndef LMC_RUNTIME_EXEC_PROGRAM_H
#define LMC_RUNTIME_EXEC_PROGRAM_H

#include "runtime/comm/Communicator.h"
#include "runtime/device/Device.h"
#include "runtime/plan/plan.pb.h"

#include <new>

namespace lmc::runtime {

struct Op {
  enum class Kind : uint8_t {
    Launch,
    Matmul, ///< integers: rows, whether it adds
    Fill,
    Copy,
    Collective,
    Send,
    Receive
  };
  Kind kind;
  Parts parts = Parts::Many; ///< Launch
  uint32_t firstPointer = 0;
  uint32_t firstInteger = 0;
  KernelHandle kernel = nullptr;
  int64_t units = 0;        ///< Launch: of the grid
  int64_t bytes = 0;        ///< Fill, Copy, Send, Receive
  uint32_t collective = 0;  ///< Collective: index into collectives
  uint32_t matmul = 0;      ///< Matmul: among those of all programs
  int peer = 0;             ///< Send, Receive
  uint32_t channel = 0;     ///< Send, Receive
  uint32_t instruction = 0; ///< in the plan's program
};

/// entry = constant + sum of coefficient * symbol value.
struct Patch {
  enum class Target : uint8_t { Pointer, Integer, Units };
  Target target;
  uint32_t index = 0;        ///< into pointers, integers or ops
  std::byte *base = nullptr; ///< Pointer: the allocation
  int64_t constant = 0;      ///< with this rank's coordinates folded in
  uint32_t firstVariant = 0; ///< Units
  uint32_t firstTerm = 0, numTerms = 0;
};
/// A kernel for so many rows at most, and its grid.
struct Variant {
  int64_t mostRows;
  KernelHandle kernel;
  int64_t rowsPerUnit, columns;
};
struct PatchTerm {
  uint32_t symbol = 0;
  int64_t coefficient = 0;
};

/// Kernels may load their pointers and integers as vectors: each op's part
/// begins on a cache line.
template <typename T> struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t line{64};
  LineAllocator() = default;
  template <typename U> LineAllocator(const LineAllocator<U> &) {}
  T *allocate(size_t count) {
    return static_cast<T *>(::operator new(count * sizeof(T), line));
  }
  void deallocate(T *address, size_t) { ::operator delete(address, line); }
  template <typename U> bool operator==(const LineAllocator<U> &) const {
    return true;
  }
  template <typename U> bool operator!=(const LineAllocator<U> &) const {
    return false;
  }
};
inline constexpr size_t entriesPerLine = 8; ///< pointers or integers

struct PreparedProgram {
  std::vector<Op> ops;
  std::vector<void *, LineAllocator<void *>> pointers;
  std::vector<int64_t, LineAllocator<int64_t>> integers;
  std::vector<CollectiveCall> collectives;
  std::vector<Patch> patches;
  std::vector<PatchTerm> terms;
  /// Of one launch behind another, each with rising rows; its last one takes
  /// any number.
  std::vector<Variant> variants;
  /// The symbols that patches read, and their values when they were computed.
  std::vector<uint32_t> symbols;
  std::vector<int64_t> patchedFor;
  bool patched = false;

  /// Brings the patched entries up to date with `values`, one per symbol.
  void patch(const std::vector<int64_t> &values);
  /// The kernel and the grid for so many rows; returns what was chosen.
  const Variant &setGrid(Op &op, uint32_t firstVariant, int64_t rows) const;
};

/// What preparing needs to know of the rank.
struct PrepareContext {
  const plan::Plan &plan;
  Device &device;
  Communicator *comm; ///< null: one rank
  const std::vector<KernelHandle> &kernels;
  /// One per symbol: coordinates of this rank, the lower bound of the others.
  const std::vector<int64_t> &values;
  const std::vector<int64_t> &coordinates; ///< one per mesh axis
  /// Group handles by the list of axes, shared by all programs.
  std::vector<std::pair<std::vector<uint32_t>, int>> &groups;
  std::vector<MatmulRequest> &matmuls; ///< of all programs so far
};

/// Announces the groups that `program`'s collectives need to the communicator.
/// Ranks that share a group do so in the same order: a group over pp is
/// announced by stages that do not run the program (`isOurs` false), too.
Status openGroups(const plan::Program &program, bool isOurs,
                  PrepareContext &context);

StatusOr<PreparedProgram> prepareProgram(const plan::Program &program,
                                         PrepareContext &context);

/// This rank's coordinate on each axis, the last axis fastest.
std::vector<int64_t> rankCoordinates(const plan::Mesh &mesh, int64_t rank);
/// The ranks that differ from `coordinates` on `axes` alone, the first listed
/// axis slowest.
std::vector<int> groupRanks(const plan::Mesh &mesh,
                            const std::vector<int64_t> &coordinates,
                            const std::vector<uint32_t> &axes);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_EXEC_PROGRAM_H
