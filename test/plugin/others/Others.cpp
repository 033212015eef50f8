// Operations that lack one answer each, and one that is made of a layer.
#include "dialects/lm/TensorMath.h"
#include "passes/Plugin.h"

#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/OpImplementation.h"

#include "OthersDialect.h.inc"

#define GET_OP_CLASSES
#include "OthersOps.h.inc"

using namespace mlir;
using namespace others;
using lmc::lm::TensorMath;
using Values = SmallVectorImpl<Value>;

#include "OthersDialect.cpp.inc"

#define GET_OP_CLASSES
#include "OthersOps.cpp.inc"

void OthersDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "OthersOps.cpp.inc"
      >();
}

LogicalResult NoBackwardOp::decompose(OpBuilder &, Values &results) {
  results.push_back(getInput());
  return success();
}

LogicalResult NoKernelOp::buildBackward(OpBuilder &, ArrayRef<Value> dy,
                                        ArrayRef<bool>, Values &gradients) {
  gradients.push_back(dy[0]);
  return success();
}

LogicalResult NoRuleOp::buildBackward(OpBuilder &, ArrayRef<Value> dy,
                                      ArrayRef<bool>, Values &gradients) {
  gradients.push_back(dy[0]);
  return success();
}
LogicalResult NoRuleOp::decompose(OpBuilder &, Values &results) {
  results.push_back(getInput());
  return success();
}

LogicalResult LayeredOp::buildBackward(OpBuilder &builder, ArrayRef<Value> dy,
                                       ArrayRef<bool>, Values &gradients) {
  TensorMath m(builder, getLoc());
  Value part = builder.create<lmc::lm::ReluOp>(getLoc(), getType(), getInput());
  gradients.push_back(m.mul(dy[0], m.mul(part, 2.0)));
  return success();
}
LogicalResult LayeredOp::decompose(OpBuilder &builder, Values &results) {
  Value part = builder.create<lmc::lm::ReluOp>(getLoc(), getType(), getInput());
  results.push_back(TensorMath(builder, getLoc()).mul(part, part));
  return success();
}

const lmc::PluginInfo *lmcGetPlugin() {
  static const lmc::PluginInfo info = {LMC_PLUGIN_STAMP, "others", "1",
                                       [](lmc::PluginRegistry &registry) {
                                         registry.addDialect<OthersDialect>();
                                       }};
  return &info;
}
