// Where the values of a kernel's body lie in one common index space.
//
// A body's tensors have many shapes: [B,T,G,R+2,K] beside [D], [B,T] and
// rank 0. All of them are views of one *reference* space, the largest tensor's
// elements in row-major order, numbered by what lies to the right of a dim:
//
//     x     [4, 8, 16]   dims (128..512) (16..128) (1..16)     every element
//     bias  [16]         dims                      (1..16)     a column vector
//     mean  [4, 8]       dims (128..512) (16..128)             a row scalar
//     pos   [8, 16]      dims            (16..128) (1..16)     repeats per 128
//
// A dim (lo..hi) has hi/lo entries, lo elements apart. A dynamic leading dim
// counts as kDynamicSize entries; its hi is never used in an address.
//
// `split` parts the space into rows (indices / split) and columns. A value is
// then computed once per kernel, once per row, or for each vector of columns
// (its *level*). A reduction needs a pass over the columns before it can be
// used: the *stage* of a value counts the passes before it.
#ifndef LMC_PASSES_CODEGEN_KERNELBODY_H
#define LMC_PASSES_CODEGEN_KERNELBODY_H

#include "dialects/lm/Lm.h"
#include "dialects/plan/Plan.h"

#include "llvm/ADT/DenseMap.h"

namespace lmc::codegen {

inline constexpr int64_t kDynamicSize = int64_t(1) << 32;

struct Interval {
  int64_t lo, hi;
  bool operator==(const Interval &other) const {
    return lo == other.lo && hi == other.hi;
  }
};
using Space = llvm::SmallVector<Interval, 6>; // one interval per dim

// Elements of a shape; a dynamic dim counts as kDynamicSize.
int64_t countElements(mlir::Type type);

// The intervals a value covers, merged, outermost first.
Space coverage(const Space &space);

enum class Level { Kernel = 0, Row = 1, Vector = 2 };

class KernelBody {
public:
  // How the reference space is parted into rows and columns.
  enum class Split {
    Flat,     // one row of everything
    Rows,     // at the reductions, else where broadcasts change
    Columns,  // reductions go over rows; their results are columns
    Explicit, // as given
  };

  // Fails with a diagnostic at the operation that does not fit.
  static mlir::FailureOr<KernelBody> analyze(plan::KernelOp kernel, Split split,
                                             int64_t explicitSplit = 0);

  plan::KernelOp kernel;
  int64_t elements = 1; // of the reference space
  int64_t split = 1;    // columns of a row
  bool dynamicRows = false;
  int64_t rows() const { return elements / split; }

  // The columns as nested groups, outermost first; the last one is walked by
  // vectors. Empty if a row has one column.
  llvm::SmallVector<Interval, 4> columnGroups;

  const Space &space(mlir::Value value) const;
  bool hasSpace(mlir::Value value) const { return spaces.count(value); }
  Level level(mlir::Value value) const { return levels.lookup(value); }
  // The level that a value's place asks for, whatever computes it.
  Level placeOf(mlir::Value value) const;
  int64_t stage(mlir::Value value) const { return stages.lookup(value); }
  int64_t numStages = 0; // reductions one behind the other

  llvm::SmallVector<lm::ReduceOp, 4> reductions;
  bool usesMicroBatch = false;

  plan::YieldOp yield() const;
  mlir::Block &block() const;
  // Pointer number of an argument, and of a result (tied or not).
  unsigned argumentPointer(unsigned index) const { return index; }
  unsigned resultPointer(unsigned index) const;
  bool isTied(unsigned result) const;

private:
  llvm::DenseMap<mlir::Value, Space> spaces;
  llvm::DenseMap<mlir::Value, Level> levels;
  llvm::DenseMap<mlir::Value, int64_t> stages;

  bool propagate(mlir::Operation *op);
  bool assign(mlir::Value value, const Space &space);
  mlir::LogicalResult inferSpaces();
  mlir::LogicalResult chooseSplit(Split mode, int64_t explicitSplit);
  mlir::LogicalResult computeLevels(Split mode);
};

// Pointers of a kernel: arguments, then results that are not tied.
unsigned countPointers(plan::KernelOp kernel);
unsigned resultPointerOf(plan::KernelOp kernel, unsigned result);
bool takesMicroBatch(plan::KernelOp kernel);
bool takesRows(plan::KernelOp kernel);
// Each takes its id and its first element as integers.
mlir::SmallVector<lm::Drawing> randomsWithoutId(plan::KernelOp kernel);

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_KERNELBODY_H
