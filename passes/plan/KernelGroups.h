// Which operations become one kernel.
//
// Layers are rewritten as primitives first; the primitives of one layer are a
// *unit*, and a unit has a kind (plan.kernel lists them). A kernel starts from
// a unit, its root, and takes in the elementwise units that use its results,
// each with the elementwise units that only it needs:
//
//     root   %h = contract %x, %w          kernel   %h = contract %x, %w
//     unit   %b = h + bias                    =>    %b = %h + bias
//     unit   %g = gelu(%b)                          %g = gelu(%b)
//                                                   yield %b, %g
//
// A unit joins only if everything else it reads exists where the root stands,
// so a kernel takes the root's place. Equal kernels become one.
//
// This file says which operations belong together and changes nothing but
// layers into primitives; FormKernels makes kernels and launches of the groups.
#ifndef LMC_PASSES_PLAN_KERNELGROUPS_H
#define LMC_PASSES_PLAN_KERNELGROUPS_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/SmallPtrSet.h"

#include <memory>
#include <vector>

namespace lmc::plan {

enum class Kind { Elementwise, Row, ColumnReduce, Contraction, Scatter, Own };

// Repeated in every kernel that uses them instead of being kept.
bool isRepeated(mlir::Operation *op);

// Whether something beyond `isOurs` uses `value`, be it through operations that
// are repeated where they are used.
bool isUsedOutside(mlir::Value value,
                   llvm::function_ref<bool(mlir::Operation *)> isOurs);

void eraseDead(mlir::Block &block);

// What stands between rows and columns of a shape; -1: nothing asks for one.
constexpr int64_t kNoSplit = -1, kConflict = -2;

// A set of primitives that is never taken apart.
struct Unit {
  mlir::SmallVector<mlir::Operation *> ops;
  Kind kind = Kind::Elementwise;
  mlir::SmallVector<int64_t> shape;    // that it runs over
  mlir::SmallVector<int64_t> outShape; // of its results
  int64_t split = kNoSplit;
  int group = -1;
  size_t index = 0;
};

// Units that become one kernel.
struct Group {
  mlir::SmallVector<Unit *> units; // the root first
  Kind kind;
  mlir::SmallVector<int64_t> shape, outShape;
  int64_t split;
};

// Forms the kernels of one program.
class ProgramKernels {
public:
  // `matmuls`: plain products are a library's, which takes in little.
  ProgramKernels(mlir::func::FuncOp function, bool matmuls)
      : block(function.getBody().front()), matmuls(matmuls) {}

  // Rewrites layers as primitives. Fails where no kernel does what one asks.
  mlir::LogicalResult findUnits();
  void formGroups();
  mlir::ArrayRef<Group> getGroups() const { return groups; }

  // All operations of a group, in program order.
  mlir::SmallVector<mlir::Operation *> opsOf(const Group &group) const {
    mlir::SmallVector<mlir::Operation *> ops;
    for (Unit *unit : group.units)
      llvm::append_range(ops, unit->ops);
    llvm::sort(ops, [](mlir::Operation *a, mlir::Operation *b) {
      return a->isBeforeInBlock(b);
    });
    return ops;
  }

private:
  Unit *unitOf(mlir::Operation *op) const { return unitOfOp.lookup(op); }
  bool joins(const Group &group, const Unit &unit) const;
  bool mayBeMatmul(const Group &group) const;
  bool joinsMatmul(const Group &group, const Unit &unit) const;
  bool readable(mlir::Value value, const Group &group,
                const llvm::SmallPtrSetImpl<Unit *> &joining,
                mlir::SmallVectorImpl<Unit *> &pulled) const;
  bool isTableFromWithin(mlir::Operation *op, mlir::Value operand,
                         const Group &group,
                         const llvm::SmallPtrSetImpl<Unit *> &joining) const;
  bool tryJoin(Group &group, int index, Unit *unit);
  void grow(Group &group, int index);

  mlir::Block &block;
  bool matmuls;
  std::vector<std::unique_ptr<Unit>> units;
  llvm::DenseMap<mlir::Operation *, Unit *> unitOfOp;
  std::vector<Group> groups;
};

} // namespace lmc::plan

#endif // LMC_PASSES_PLAN_KERNELGROUPS_H
