// The last phase: a module whose programs have been assigned bytes becomes a
// plan (runtime/plan/plan.proto), kernels compiled and embedded.
//
// One operation is one message; nothing is decided here. What the module's
// attributes say goes in as it is:
//
//   lm.mode "train"                  lm.settings {flag = "value"}
//   lm.model_config "{...}"          lm.scalars {lr = 3.0e-4 : f64}
//   lm.sequence, lm.micro_batch, lm.micro_batches, lm.global_batch,
//   lm.vocabulary, lm.max_positions  integers
#ifndef LMC_PASSES_EMIT_EMITPLAN_H
#define LMC_PASSES_EMIT_EMITPLAN_H

#include "runtime/plan/plan.pb.h"

#include "mlir/IR/BuiltinOps.h"

#include <string>
#include <vector>

namespace lmc::emit {

struct EmitOptions {
  std::string target = "cpu"; // or cuda
  // Instruction sets that the plan embeds kernels for, as Codegen.h takes them;
  // one of a GPU's for cuda.
  std::vector<std::string> targetCpus = {"native"};
  unsigned threads = 0;       // 0: all cores
  std::string cacheDirectory; // of compiled kernels; empty: none
};

// The plan, checked as the runtime checks it. The same module gives the same
// plan, whatever the number of threads. Fails with a diagnostic.
mlir::FailureOr<plan::Plan> emitPlan(mlir::ModuleOp module,
                                     const EmitOptions &options);

} // namespace lmc::emit

#endif // LMC_PASSES_EMIT_EMITPLAN_H
