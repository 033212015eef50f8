// What must hold at the borders between phases, as passes that change nothing.
#ifndef LMC_PASSES_VERIFY_PASSES_TD
#define LMC_PASSES_VERIFY_PASSES_TD

include "mlir/Pass/PassBase.td"

def VerifyAssigned : Pass<"verify-assigned", "::mlir::ModuleOp"> {
  let summary = "Check what must hold once every value has its bytes";
  let description = [{
    Fails where, behind the phase assign,

      (B1) a function is still a program;
      (B2) a slice leaves its allocation for some value of its symbols, names
           an allocation or a symbol that is not there, or writes inputs or
           constants;
      (B3) a run breaks a law of plan.run: operands, access and integers are
           the kernel's;
      (B4) an instruction writes bytes that another of its operands holds;
      (B5) a program reads scratch that nothing in this call has written;
      (B6) a schedule calls what is no program, or gives a symbol a value out
           of its bounds.

    **Before**
    ```mlir
    module {
      plan.allocation @scratch scratch 64
      plan.program @p chunk 0 {
        plan.fill <@scratch[0] 64>
      }
    }
    ```
    **After**: unchanged.

    **Requires**: plan-assign has run.
    **Ensures**: (B1) to (B6).
    **Leaves alone**: everything.
  }];
  let statistics = [
    Statistic<"numSlices", "slices", "slices checked">,
    Statistic<"numUnproved", "unproved",
              "reads of scratch at an offset that depends on a symbol">,
  ];
}

#endif // LMC_PASSES_VERIFY_PASSES_TD
