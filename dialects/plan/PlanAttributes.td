// The attributes of the plan dialect: linear expressions and slices.
#ifndef LMC_DIALECTS_PLAN_PLANATTRIBUTES_TD
#define LMC_DIALECTS_PLAN_PLANATTRIBUTES_TD

include "dialects/plan/PlanDialect.td"
include "mlir/IR/AttrTypeBase.td"

class Plan_Attr<string name, string attrMnemonic>
    : AttrDef<Plan_Dialect, name> {
  let mnemonic = attrMnemonic;
}

def Plan_LinearAttr : Plan_Attr<"Linear", "linear"> {
  let summary = "constant + sum of coefficient * symbol";
  let description = [{
    The form of every integer that differs between micro-batches, slots or
    ranks. Symbols are those of `plan.symbol`; terms stand in the order of
    their names, none has the coefficient 0.

    ```mlir
    #plan.linear<64 + 4096 * micro_batch>
    ```
  }];
  let parameters = (ins "int64_t":$constant,
      ArrayRefParameter<"::mlir::StringAttr">:$symbols,
      ArrayRefParameter<"int64_t">:$coefficients);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let builders = [
    AttrBuilder<(ins "int64_t":$constant), [{
      return $_get($_ctxt, constant, ::mlir::ArrayRef<::mlir::StringAttr>(),
                   ::mlir::ArrayRef<int64_t>());
    }]>
  ];
  let extraClassDeclaration = [{
    /// This expression with `bytes` added to its constant.
    LinearAttr plus(int64_t bytes) const;
    /// This expression with `coefficient * symbol` added.
    LinearAttr plus(int64_t coefficient, ::mlir::StringRef symbol) const;
  }];
}

def Plan_SliceAttr : Plan_Attr<"Slice", "slice"> {
  let summary = "bytes of an allocation";
  let description = [{
    `bytes` bytes from `offset` on.

    ```mlir
    #plan.slice<@inputs[4096 * micro_batch] 4096>
    ```
  }];
  let parameters = (ins "::mlir::FlatSymbolRefAttr":$allocation,
      "::lmc::plan::LinearAttr":$offset, "int64_t":$bytes);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
}

def Plan_OperandAttr : Plan_Attr<"Operand", "operand"> {
  let summary = "a slice and how a kernel uses it";
  let description = [{
    `access` is `read`, `write` or `read_write`.

    ```mlir
    #plan.operand<write @scratch[0] 4096>
    ```
  }];
  let parameters = (ins "::mlir::StringAttr":$access,
      "::lmc::plan::SliceAttr":$slice);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    bool reads() const { return getAccess() != "write"; }
    bool writes() const { return getAccess() != "read"; }
    /// `read @scratch[0] 4096`, without the attribute's name around it.
    static ::mlir::FailureOr<OperandAttr> parseBare(::mlir::AsmParser &parser);
    void printBare(::mlir::AsmPrinter &printer) const;
  }];
}

#endif // LMC_DIALECTS_PLAN_PLANATTRIBUTES_TD
