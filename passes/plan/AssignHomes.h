// Which values of a program share a block of bytes, and what the program does
// to these blocks, step by step.
//
// A home is a block of bytes that some values share: a value and its views, the
// rows of a concatenation, a state before and after its update. A home may be
// taken into another one (an operand of lm.concat_rows into the result's home,
// a new state's home into the state's); what is left are the roots. A root has
// a fixed place outside the program (a state, a port, a scalar) or waits for
// bytes of the arena. A place is a home with an offset.
#ifndef LMC_PASSES_PLAN_ASSIGNHOMES_H
#define LMC_PASSES_PLAN_ASSIGNHOMES_H

#include "dialects/plan/Plan.h"
#include "passes/plan/RowSizes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSet.h"

#include <vector>

namespace lmc::plan {

struct Home {
  enum Kind {
    Scratch, // within this program
    Saved,   // written by a program, read by later ones of its micro-batch
    State,
    Input,
    Output,
    Scalar
  };
  Kind kind = Scratch;
  std::string name; // of the state, port or scalar; Saved: see owner
  int64_t bytes = 0;
  int parent = -1;    // the home that this one was taken into
  int64_t offset = 0; // in the parent
  // Saved, in a reader: the program that writes it, and its root there.
  int ownerProgram = -1, owner = -1;
  int64_t firstWrite = -1; // index of the first operation that writes it
};

struct Place {
  int home = -1;
  int64_t offset = 0;
};

// One instruction to be.
struct Step {
  struct Use {
    Place place;
    int64_t bytes = 0;
    enum Access { Read, Write, ReadWrite } access = Read;
  };
  mlir::Location loc;
  // A launch, collective or transfer; null: a copy from uses[0] to uses[1].
  mlir::Operation *op = nullptr;
  llvm::SmallVector<Use> uses;
};

struct ProgramHomes {
  mlir::func::FuncOp function;
  RowSizes sizes;
  std::vector<Home> homes;
  std::vector<Step> steps;
  llvm::StringMap<Place> saved; // where each value that it saves lies
  unsigned numCopies = 0, numInPlace = 0;

  // The place in its root.
  Place resolve(Place place) const {
    while (homes[place.home].parent >= 0) {
      place.offset += homes[place.home].offset;
      place.home = homes[place.home].parent;
    }
    return place;
  }
};

// What a program must know of the others.
struct HomesContext {
  mlir::SymbolTable &symbols;
  // States that some program writes between a forward and its backward.
  const llvm::StringSet<> &unstableStates;
  // The programs before this one, and which of them saves what.
  llvm::function_ref<const ProgramHomes &(int)> homesOf;
  const llvm::StringMap<int> &savedBy;
  // Whether a program behind this one reads that root of saved values.
  llvm::function_ref<bool(int program, int root)> isReadLater;
};

mlir::FailureOr<ProgramHomes> findHomes(mlir::func::FuncOp function,
                                        const HomesContext &context);

} // namespace lmc::plan

#endif // LMC_PASSES_PLAN_ASSIGNHOMES_H
