// The state of building one module: where operations go, which parameters
// there are, how places become locations. BuildModel.cpp builds the parts of a
// transformer with it.
#ifndef LMC_FRONTEND_MODELBUILDER_H
#define LMC_FRONTEND_MODELBUILDER_H

#include "frontend/BuildModel.h"

#include "dialects/lm/Lm.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/GlobPattern.h"

#include <map>

namespace lmc::frontend {

// A number for a name that stays the same across compilations and versions:
// it keys the random numbers of whatever has that name.
int64_t stableId(llvm::StringRef name);

class ModelBuilder {
public:
  ModelBuilder(const ModelSpec &spec, const SourceMap &sources,
               llvm::StringRef file, CheckpointNaming naming,
               const ImportOptions &options, mlir::MLIRContext &context);

  mlir::OwningOpRef<mlir::ModuleOp> build();

private:
  using Value = mlir::Value;
  using Location = mlir::Location;
  using Shape = llvm::ArrayRef<int64_t>;

  // Where in the model a layer stands, for the names of its parts.
  struct Scope {
    std::string prefix; // "h.3"
    int64_t block = 0;  // over the whole model
    int64_t numNorms = 0, numAttentions = 0, numMlps = 0;
    std::map<std::string, int64_t> numOps;
    // The name of the next part called `name`: attn, attn2, attn3, ...
    std::string part(llvm::StringRef name, int64_t &count);
  };

  // How a parameter starts.
  struct Start {
    const char *kind;
    double scale;
  };

  //===--- ModelBuilder.cpp: types, arguments, parameters ----------------===//
  mlir::RankedTensorType f32(Shape shape);
  mlir::RankedTensorType i32(Shape shape);
  // Dims of a value that has one row per token: [B, T, rest...] in training,
  // [?, rest...] in a step of inference.
  llvm::SmallVector<int64_t> rows(Shape rest);
  int64_t numRowDims() const { return options.train ? 2 : 1; }
  int64_t pagesPerSequence() const;
  int64_t cachePages() const;
  int64_t maxLogits() const;
  Location at(llvm::StringRef name, const google::protobuf::Message &message,
              int field = 0);
  Value argument(mlir::Type type, llvm::StringRef attribute,
                 mlir::Attribute value, Location loc);
  Value input(llvm::StringRef name, mlir::Type type);
  Value scalar(llvm::StringRef name, mlir::Type elementType,
               mlir::Attribute defaultValue);
  Value parameter(Role role, const std::string &name, Shape shape, Start start,
                  Location loc, const Scope &scope, int64_t norm = 0,
                  int64_t contracted = 1);
  Value weight(Role role, const std::string &name, Shape shape, Location loc,
               const Scope &scope, double scale = 1, int64_t contracted = 1);
  Value bias(bool present, Role role, const std::string &name, Shape shape,
             Location loc, const Scope &scope);
  bool isFrozen(llvm::StringRef name);
  Value rotaryTableOf(int64_t width, Location loc);
  mlir::ArrayAttr boxesOf(const ParameterUse &use);
  void addInputs();
  bool finish(mlir::ValueRange results,
              llvm::ArrayRef<llvm::StringRef> outputs);

  //===--- BuildModel.cpp: the parts of a transformer ---------------------===//
  Value linear(Value x, Value weight, Value bias, int64_t contracted,
               Shape shape, Location loc);
  Value dropout(Value x, Value rate, const std::string &name, Location loc);
  Value embed();
  Value norm(const Norm &norm, Value x, const std::string &name,
             const Scope &scope, int64_t index);
  Value attention(const Attention &attention, Value x, Scope &scope,
                  bool residual);
  Value lookAround(const Attention &attention, Value qkv,
                   const std::string &name, Location loc);
  Value lookBack(const Attention &attention, Value qkv, const std::string &name,
                 Location loc);
  Value activation(const Mlp &mlp, Value x, const std::string &name,
                   Scope &scope, Location loc);
  Value mlp(const Mlp &mlp, Value x, Scope &scope, bool residual);
  Value op(const Op &op, Value x, Scope &scope);
  Value layer(const Layer &layer, Value x, Scope &scope);
  Value head(Value x);

  const ModelSpec &spec;
  const SourceMap &sources;
  llvm::StringRef file;
  CheckpointNaming naming;
  const ImportOptions &options;
  mlir::MLIRContext &context;
  int64_t B, T, D, V;
  double deviation;     // of normal weights
  double residualScale; // of those that write to the stream

  mlir::OwningOpRef<mlir::ModuleOp> module;
  mlir::func::FuncOp forward;
  mlir::OpBuilder builder; // in the body of @forward
  llvm::SmallVector<mlir::DictionaryAttr> argumentAttributes;
  llvm::StringMap<Location> parameterNames;
  std::vector<std::pair<llvm::GlobPattern, bool>> frozenPatterns; // used?
  std::map<int64_t, Value> rotaryTables;                          // by width
  Value tokens, targets, tokenWeights, positions, segments;
  Value sequences, slots, pages, logitRows; // of a step of inference
  llvm::SmallVector<std::pair<Value, mlir::FlatSymbolRefAttr>> caches; // new
  Value seedLow, seedHigh, step, embeddingRate, residualRate, attentionRate;
  Value tokenTable;
  bool failed = false;
};

} // namespace lmc::frontend

#endif // LMC_FRONTEND_MODELBUILDER_H
