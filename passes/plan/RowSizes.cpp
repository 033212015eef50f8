// See RowSizes.h.
#include "passes/plan/RowSizes.h"
#include "dialects/lm/Lm.h"

#include "mlir/IR/BuiltinOps.h"

using namespace mlir;
using namespace lmc::plan;
namespace lm = lmc::lm;

static bool isDynamic(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && !type.hasStaticShape();
}

FailureOr<int64_t> lmc::plan::getTensorBytes(Operation *op, Type type,
                                             int64_t rows) {
  auto tensor = dyn_cast<RankedTensorType>(type);
  bool fits = tensor && tensor.getElementType().isIntOrFloat() &&
              tensor.getElementTypeBitWidth() % 8 == 0;
  int64_t bytes = fits ? tensor.getElementTypeBitWidth() / 8 : 0;
  for (auto [index, size] :
       llvm::enumerate(fits ? tensor.getShape() : ArrayRef<int64_t>())) {
    bool dynamic = ShapedType::isDynamic(size);
    fits &= !dynamic || (index == 0 && rows > 0);
    bytes *= dynamic ? rows : size;
  }
  if (!fits)
    return op->emitOpError()
           << "has a value of type " << type
           << "; only tensors with whole bytes per element can be given "
              "bytes, whose shape is static but for a leading dim with a size "
              "(lm.size) that the module bounds (lm.sizes)";
  return bytes;
}

// True if a kernel's argument is only gathered from.
static bool isTable(BlockArgument argument) {
  return !argument.use_empty() &&
         llvm::all_of(argument.getUses(), [](OpOperand &use) {
           auto gather = dyn_cast<lm::EmbeddingOp>(use.getOwner());
           return gather && use.get() == gather.getTable();
         });
}

LogicalResult RowSizes::inferLaunch(LaunchOp launch, SymbolTable &symbols) {
  auto kernel = symbols.lookup<KernelOp>(launch.getKernel());
  if (!kernel)
    return success(); // said where launches are checked
  StringRef rows;
  for (auto [operand, argument] :
       llvm::zip(launch.getInputs(), kernel.getBody().getArguments())) {
    StringRef name = nameOf(operand);
    if (name.empty() || isTable(argument))
      continue;
    if (!rows.empty() && rows != name)
      return launch.emitOpError()
             << "reads rows of \"" << rows << "\" and of \"" << name << "\"";
    rows = name;
  }
  for (Value result : launch.getResults())
    if (isDynamic(result)) {
      if (rows.empty())
        return launch.emitOpError()
               << "has a result of type " << result.getType()
               << ", but reads nothing that says how many rows that are";
      names[result] = rows;
    }
  launches[launch] = rows;
  return success();
}

FailureOr<RowSizes> RowSizes::infer(func::FuncOp function,
                                    SymbolTable &symbols) {
  RowSizes sizes;
  sizes.bounds =
      function->getParentOfType<ModuleOp>()->getAttrOfType<DictionaryAttr>(
          lm::kSizesAttr);
  for (BlockArgument argument : function.getArguments()) {
    if (!isDynamic(argument))
      continue;
    auto name = function.getArgAttrOfType<StringAttr>(argument.getArgNumber(),
                                                      lm::kSizeAttr);
    IntegerAttr bound;
    if (name && sizes.bounds)
      bound = sizes.bounds.getAs<IntegerAttr>(name.getValue());
    if (!bound || bound.getInt() < 1)
      return function.emitOpError()
             << "has argument " << argument.getArgNumber() << " of type "
             << argument.getType()
             << " without a size (lm.size) that the module bounds (lm.sizes)";
    sizes.names[argument] = name.getValue();
  }
  for (Operation &op : function.getBody().front()) {
    if (auto launch = dyn_cast<LaunchOp>(op)) {
      if (failed(sizes.inferLaunch(launch, symbols)))
        return failure();
    } else if (op.getNumOperands() > 0) {
      for (Value result : op.getResults())
        if (isDynamic(result))
          sizes.names[result] = sizes.nameOf(op.getOperand(0));
    }
  }
  return sizes;
}

int64_t RowSizes::bytesOf(Value value) const {
  auto type = cast<RankedTensorType>(value.getType());
  int64_t bytes = type.getElementTypeBitWidth() / 8;
  for (int64_t size : type.getShape())
    bytes *= ShapedType::isDynamic(size)
                 ? bounds.getAs<IntegerAttr>(nameOf(value)).getInt()
                 : size;
  return bytes;
}
