// The plan dialect: WHEN something is computed, and in which bytes.
#ifndef LMC_DIALECTS_PLAN_PLANDIALECT_TD
#define LMC_DIALECTS_PLAN_PLANDIALECT_TD

include "mlir/IR/OpBase.td"

def Plan_Dialect : Dialect {
  let name = "plan";
  let cppNamespace = "::lmc::plan";
  let summary = "When something is computed, and in which bytes";
  let description = [{
    Kernels, the instructions that launch them, and the slices of memory they
    read and write. One instruction is one message of the plan file.
  }];
  let useDefaultAttributePrinterParser = 1;
  let extraClassDeclaration = "void registerPlanAttributes();";
}

#endif // LMC_DIALECTS_PLAN_PLANDIALECT_TD
