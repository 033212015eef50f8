// The walk over one program that gives its values homes; AssignHomes.h tells
// what comes of it. AssignHomes.cpp has the program's arguments and results,
// AssignOperations.cpp its operations.
#ifndef LMC_PASSES_PLAN_HOMEFINDER_H
#define LMC_PASSES_PLAN_HOMEFINDER_H

#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"
#include "passes/plan/AssignHomes.h"

#include "llvm/ADT/DenseMap.h"

namespace lmc::plan {

class HomeFinder {
public:
  HomeFinder(mlir::func::FuncOp function, const HomesContext &context)
      : function(function), context(context) {
    result.function = function;
  }

  mlir::FailureOr<ProgramHomes> run();

private:
  // A value that lies in a home; kept at the home's root.
  struct Resident {
    mlir::Value value;
    Place place;
  };

  mlir::LogicalResult numberOperations();
  void findUpdatedInPlace(mlir::Value value, llvm::StringRef state,
                          int64_t offset);

  mlir::LogicalResult placeArguments();
  mlir::LogicalResult placeSavedArgument(mlir::BlockArgument argument,
                                         llvm::StringRef name);
  mlir::LogicalResult placeOperation(mlir::Operation *op);
  mlir::LogicalResult placeLaunch(LaunchOp op);
  mlir::LogicalResult placeConcatenation(lm::ConcatRowsOp op);
  mlir::LogicalResult placeResults();
  mlir::LogicalResult placeResult(mlir::Value value, Home::Kind kind,
                                  llvm::StringRef name);
  void finish();

  int addHome(Home::Kind kind, llvm::StringRef name, int64_t bytes);
  int getFixedHome(Home::Kind kind, llvm::StringRef name, int64_t bytes);
  void settle(mlir::Value value, Place place);
  void takeInto(int child, Place parent);
  bool isWholeScratch(mlir::Value value) const;
  bool mayOverwrite(mlir::Operation *op, mlir::Value operand,
                    mlir::Value updated);
  mlir::LogicalResult placeCollective(mlir::Operation *op);
  void markWritten(Place place, mlir::Operation *op);
  Place copyTo(mlir::Location loc, Place source, Place target, int64_t bytes);

  int64_t bytesOf(mlir::Value value) const {
    return result.sizes.bytesOf(value);
  }
  Place placeOf(mlir::Value value) const {
    return result.resolve(places.lookup(value));
  }

  mlir::func::FuncOp function;
  const HomesContext &context;
  ProgramHomes result;
  llvm::DenseMap<mlir::Value, Place> places;
  llvm::DenseMap<mlir::Operation *, int64_t> indices;
  int64_t endIndex = 0; // of the terminator
  llvm::DenseMap<mlir::Value, int64_t>
      lastRead; // by a launch, a concatenation, the end
  // Values on a state's way, with their offset in it.
  llvm::DenseMap<mlir::Value, std::pair<llvm::StringRef, int64_t>>
      updatedInPlace;
  std::vector<llvm::SmallVector<Resident>> residents; // of each root
  llvm::StringMap<int> fixed;
  llvm::SmallVector<std::pair<Step::Use, Step::Use>> lastCopies; // to states
};

} // namespace lmc::plan

#endif // LMC_PASSES_PLAN_HOMEFINDER_H
