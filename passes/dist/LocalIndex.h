// What a rank's first row of a sharded dim is, as operations.
#ifndef LMC_PASSES_DIST_LOCALINDEX_H
#define LMC_PASSES_DIST_LOCALINDEX_H

#include "dialects/dist/Dist.h"
#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"

namespace lmc::dist {

// coordinate on `axes` * localSize: tensor<i32>. A coordinate is the run-time
// number `coordinate.AXIS`, which the runtime sets once.
inline mlir::Value firstRow(mlir::OpBuilder &builder, mlir::Location loc,
                            mlir::func::FuncOp function,
                            llvm::ArrayRef<llvm::StringRef> axes,
                            int64_t localSize, MeshAttr mesh) {
  auto type = mlir::RankedTensorType::get({}, builder.getI32Type());
  lm::TensorMath m(builder, loc);
  mlir::Value index;
  for (llvm::StringRef axis : axes) {
    lm::ProgramArguments arguments(function);
    mlir::Value coordinate =
        arguments.getOrAdd(type, lm::kScalarAttr,
                           builder.getStringAttr("coordinate." + axis), loc);
    arguments.finish();
    if (!index) {
      index = coordinate;
      continue;
    }
    mlir::Value scaled = builder.create<mlir::arith::MulIOp>(
        loc, index, m.constant(type, double(mesh.getSize(axis))));
    index = builder.create<mlir::arith::AddIOp>(loc, scaled, coordinate);
  }
  return builder.create<mlir::arith::MulIOp>(
      loc, index, m.constant(type, double(localSize)));
}

// `indices` counted from the rank's first row.
inline mlir::Value shiftIndices(mlir::OpBuilder &builder, mlir::Location loc,
                                mlir::func::FuncOp function,
                                mlir::Value indices,
                                llvm::ArrayRef<llvm::StringRef> axes,
                                int64_t localSize, MeshAttr mesh) {
  lm::TensorMath m(builder, loc);
  mlir::Value first = firstRow(builder, loc, function, axes, localSize, mesh);
  return builder.create<mlir::arith::SubIOp>(
      loc, indices, m.broadcastScalar(first, lm::TensorMath::typeOf(indices)));
}

} // namespace lmc::dist

#endif // LMC_PASSES_DIST_LOCALINDEX_H
