// The lm dialect: WHAT is computed.
#ifndef LMC_DIALECTS_LM_LMDIALECT_TD
#define LMC_DIALECTS_LM_LMDIALECT_TD

include "mlir/IR/OpBase.td"

def Lm_Dialect : Dialect {
  let name = "lm";
  let cppNamespace = "::lmc::lm";
  let summary = "What a transformer computes, on tensors of global shape";
  let description = [{
    Operations carry the field's names (`lm.linear`, `lm.attention`, ...) and
    have value semantics on ranked tensors. Legend of dims: B samples, T tokens
    of a sample, D model width, G key/value heads, R query heads of each, K
    head width, F inner width of an MLP, V vocabulary.

    Elementwise arithmetic is `arith` and `math` on tensors. A few operations
    (`lm.broadcast`, `lm.reduce`, `lm.contract`, ...) are *primitives*: the
    vocabulary that kernels are generated from. Every other operation either
    decomposes into primitives or brings its own kernel (interface
    `Lowerable`).

    State that outlives a step is a module symbol, `lm.state`. A program takes
    states as arguments (argument attribute `lm.state = @name`) and returns
    the new ones as results with the same attribute; nothing has a hidden side
    effect. Inputs and outputs carry `lm.input = "tokens"` and
    `lm.output = "loss"`; run-time numbers carry `lm.scalar = "lr"`.
  }];
}

class Lm_Op<string mnemonic, list<Trait> traits = []>
    : Op<Lm_Dialect, mnemonic, traits>;

#endif // LMC_DIALECTS_LM_LMDIALECT_TD
