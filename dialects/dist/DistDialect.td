// The dist dialect: WHERE a value lives.
#ifndef LMC_DIALECTS_DIST_DISTDIALECT_TD
#define LMC_DIALECTS_DIST_DISTDIALECT_TD

include "mlir/IR/OpBase.td"

def Dist_Dialect : Dialect {
  let name = "dist";
  let cppNamespace = "::lmc::dist";
  let summary = "Where a value lives: mesh, shardings, collectives";
  let description = [{
    A mesh has named axes, from slowest to fastest `pp dp fsdp cp ep tp`; a
    rank is the mixed radix of its coordinates. A sharding says, for each dim
    of a tensor, the axes that split it, and on which axes the value is
    partial (a sum or a maximum is still to be taken over them). On all other
    axes the value is replicated.
  }];
  let useDefaultAttributePrinterParser = 1;
}

#endif // LMC_DIALECTS_DIST_DISTDIALECT_TD
