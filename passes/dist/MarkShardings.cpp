// The strategy: which few tensors are marked. Propagation does the rest.
#include "passes/dist/Passes.h"

#include "passes/dist/ShardingTable.h"

namespace lmc::dist {
#define GEN_PASS_DEF_MARKSHARDINGS
#include "passes/dist/Passes.h.inc"
} // namespace lmc::dist

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

constexpr llvm::StringLiteral kAxes[] = {"pp", "dp", "fsdp", "cp", "ep", "tp"};

// A parameter whose name ends so has `dim` split over tp.
struct ColumnRule {
  llvm::StringLiteral suffix;
  unsigned dim;
};
constexpr ColumnRule kColumns[] = {
    {"wte.weight", 0},      // vocabulary
    {"head.weight", 1},     // vocabulary
    {"attn.qkv.weight", 1}, // key/value heads
    {"mlp.up.weight", 1},   // inner width
    {"mlp.gate.weight", 1},
};

struct MarkShardings : lmc::dist::impl::MarkShardingsBase<MarkShardings> {
  using MarkShardingsBase::MarkShardingsBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (sizes.empty())
      return;
    if (sizes.size() != std::size(kAxes)) {
      module.emitError() << "needs " << std::size(kAxes) << " axis sizes, has "
                         << sizes.size();
      return signalPassFailure();
    }
    Builder b(&getContext());
    auto mesh =
        MeshAttr::getChecked([&] { return module.emitError(); }, &getContext(),
                             b.getStrArrayAttr(SmallVector<StringRef>(
                                 std::begin(kAxes), std::end(kAxes))),
                             b.getDenseI64ArrayAttr(sizes));
    if (!mesh)
      return signalPassFailure();
    if (mesh.getNumRanks() == 1)
      return;
    module->setAttr(kMeshAttr, mesh);
    if (mesh.getSize("tp") > 1)
      for (auto parameter : module.getOps<lm::ParameterOp>())
        markParameter(parameter);
    if (mesh.getSize("dp") * mesh.getSize("fsdp") > 1)
      for (auto function : module.getOps<func::FuncOp>())
        markInputs(function, mesh);
  }

  void markParameter(lm::ParameterOp parameter) {
    for (const ColumnRule &rule : kColumns) {
      if (!parameter.getSymName().ends_with(rule.suffix))
        continue;
      DimAxes dims(parameter.getTensorType().getRank());
      if (rule.dim >= dims.size())
        continue;
      dims[rule.dim].push_back("tp");
      parameter->setAttr(kShardingAttr, makeSharding(&getContext(), dims));
      ++numMarked;
    }
  }

  void markInputs(func::FuncOp function, MeshAttr mesh) {
    for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i) {
      auto type = cast<RankedTensorType>(function.getArgument(i).getType());
      if (!function.getArgAttr(i, lm::kInputAttr) || type.getRank() == 0)
        continue;
      DimAxes dims(type.getRank());
      for (StringRef axis : {"dp", "fsdp"})
        if (mesh.getSize(axis) > 1)
          dims[0].push_back(axis);
      function.setArgAttr(i, kShardingAttr, makeSharding(&getContext(), dims));
      ++numMarked;
    }
  }
};

} // namespace
