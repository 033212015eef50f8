// Compiles kernels from text, runs them and compares; see KernelRunner.h.
#include "test/codegen/KernelRunner.h"

#include "dialects/plan/Matmul.h"
#include "runtime/device/cuda/ptx/Interpreter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Parser/Parser.h"
#include "llvm/Support/FileSystem.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <dlfcn.h>
#include <numeric>
#include <random>
#include <unistd.h>

using namespace mlir;
using namespace lmc;
using namespace lmc::test;

LoadedObject::LoadedObject(const std::string &bytes) {
  int descriptor = -1;
  llvm::SmallString<128> path;
  if (std::error_code error = llvm::sys::fs::createTemporaryFile(
          "lmc-kernels", "so", descriptor, path)) {
    ADD_FAILURE() << error.message();
    return;
  }
  bool written = write(descriptor, bytes.data(), bytes.size()) ==
                 static_cast<ssize_t>(bytes.size());
  close(descriptor);
  if (written)
    handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    ADD_FAILURE() << dlerror();
  unlink(path.c_str());
}
LoadedObject::~LoadedObject() {
  if (handle)
    dlclose(handle);
}
LoadedObject::Kernel LoadedObject::find(const std::string &symbol) const {
  return handle ? reinterpret_cast<Kernel>(dlsym(handle, symbol.c_str()))
                : nullptr;
}

struct KernelRunner::State {
  DialectRegistry registry;
  std::unique_ptr<MLIRContext> context;
  std::vector<OwningOpRef<ModuleOp>> modules;
};

KernelRunner::KernelRunner() : state(std::make_unique<State>()) {
  state->registry.insert<lm::LmDialect, plan::PlanDialect, arith::ArithDialect,
                         math::MathDialect, func::FuncDialect>();
  state->context = std::make_unique<MLIRContext>(
      state->registry, MLIRContext::Threading::DISABLED);
  state->context->loadAllAvailableDialects();
}
KernelRunner::~KernelRunner() = default;
MLIRContext &KernelRunner::context() { return *state->context; }

ModuleOp KernelRunner::parse(const std::string &text) {
  auto module = parseSourceString<ModuleOp>(text, state->context.get());
  if (!module) {
    ADD_FAILURE() << "the kernel does not parse:\n" << text;
    return {};
  }
  state->modules.push_back(std::move(module));
  return *state->modules.back();
}

namespace {

constexpr size_t kGuard = 256; // bytes behind every array that must survive
constexpr char kPattern = 0x5a;

struct Array {
  std::vector<char> bytes; // and the guard
  size_t size;
  bool isFloat;

  Array(size_t elements, bool isFloat)
      : bytes(elements * 4 + kGuard + 80, kPattern), size(elements * 4),
        isFloat(isFloat) {}
  // As little aligned as a plan allows: a micro-batch's part of an input.
  char *data() {
    auto address = reinterpret_cast<uintptr_t>(bytes.data());
    return bytes.data() + (64 - address % 64) % 64 +
           std::gcd(size, size_t(16)) % 16;
  }
  bool guardIntact() {
    for (size_t i = 0; i < kGuard; ++i)
      if (data()[size + i] != kPattern)
        return false;
    return true;
  }
};

int64_t elementsOf(RankedTensorType type, int64_t rows) {
  int64_t count = 1;
  for (int64_t size : type.getShape())
    count *= ShapedType::isDynamic(size) ? rows : size;
  return count;
}

Tensor toTensor(Array &array, RankedTensorType type, int64_t rows) {
  Tensor tensor;
  for (int64_t size : type.getShape())
    tensor.shape.push_back(ShapedType::isDynamic(size) ? rows : size);
  size_t count = array.size / 4;
  for (size_t i = 0; i < count; ++i) {
    if (array.isFloat) {
      float value;
      std::memcpy(&value, array.data() + 4 * i, 4);
      tensor.data.push_back(value);
    } else {
      int32_t value;
      std::memcpy(&value, array.data() + 4 * i, 4);
      tensor.data.push_back(value);
    }
  }
  return tensor;
}

void compare(const Tensor &expected, Array &actual, double tolerance,
             const char *what) {
  ASSERT_EQ(size_t(expected.size() * 4), actual.size);
  double largest = 1e-30, worst = 0;
  int64_t at = 0;
  for (double value : expected.data)
    if (std::isfinite(value))
      largest = std::max(largest, std::fabs(value));
  for (int64_t i = 0; i < expected.size(); ++i) {
    double got;
    if (actual.isFloat) {
      float value;
      std::memcpy(&value, actual.data() + 4 * i, 4);
      got = value;
    } else {
      int32_t value;
      std::memcpy(&value, actual.data() + 4 * i, 4);
      got = value;
    }
    double error = std::fabs(got - expected.data[i]);
    if (got == expected.data[i] ||
        (std::isnan(got) && std::isnan(expected.data[i])))
      error = 0;
    if (!(error <= worst)) {
      worst = error;
      at = i;
    }
  }
  EXPECT_TRUE(worst <= tolerance * largest)
      << what << ": element " << at << " differs by " << worst << " from "
      << expected.data[at] << "; the largest is " << largest;
}

} // namespace

Bytes KernelRunner::check(const std::string &text, const RunOptions &options) {
  ModuleOp module = parse(text);
  if (!module)
    return {};
  EXPECT_TRUE(succeeded(verify(module)));
  return check(*module.getOps<plan::KernelOp>().begin(), options);
}

namespace {

// Where a kernel's operands lie, and how many bytes each has.
struct Operands {
  std::vector<void *> pointers;
  std::vector<size_t> sizes;
  void add(Array &array) {
    pointers.push_back(array.data());
    sizes.push_back(array.size);
  }
};

// A kernel that can be run, and what its plan says of it.
struct Runnable {
  codegen::KernelFacts facts;
  // Runs the units [begin, end).
  std::function<void(const Operands &, const int64_t *integers, int64_t begin,
                     int64_t end)>
      run;
};

// Whether nearly all that the kernel touches lies in rows that 16 bytes divide.
bool hasWideRows(plan::KernelOp kernel) {
  double all = 0, wide = 0;
  for (TypeRange types : {TypeRange(kernel.getArgumentTypes()),
                          TypeRange(kernel.getResultTypes())})
    for (Type type : types) {
      auto tensor = cast<RankedTensorType>(type);
      double bytes = 4;
      for (int64_t size : tensor.getShape())
        bytes *= ShapedType::isDynamic(size) ? 16 : double(size);
      all += bytes;
      if (tensor.getRank() > 0 && tensor.getShape().back() % 4 == 0)
        wide += bytes;
    }
  return wide > 0.95 * all;
}

// The part of the bytes that has to be accessed 16 at once.
double leastWide(plan::KernelOp kernel) {
  // A block of a scatter may read indices alone.
  if (!hasWideRows(kernel) || kernel.getKind() == "scatter")
    return 0;
  // Indices and single numbers are little beside rows in what has products.
  bool isProduct = kernel.getKind() == "contraction" ||
                   kernel.getKind().starts_with("attention");
  return isProduct ? 0.85 : 0.45;
}

Runnable interpreted(const codegen::KernelFacts &facts, const std::string &text,
                     double leastWide) {
  std::string error;
  std::shared_ptr<ptx::Module> module = ptx::Module::parse(text, error);
  if (!module) {
    ADD_FAILURE() << error;
    return {};
  }
  auto run = [module, facts, leastWide](const Operands &operands,
                                        const int64_t *integers, int64_t begin,
                                        int64_t end) {
    ptx::Memory memory;
    ptx::Launch launch = {module->find(facts.symbol),  uint32_t(begin),
                          uint32_t(end - begin),       facts.threads,
                          uint32_t(facts.sharedBytes), {}};
    for (auto [pointer, size] : llvm::zip(operands.pointers, operands.sizes)) {
      auto address = reinterpret_cast<uintptr_t>(pointer);
      memory.add(address, static_cast<char *>(pointer), size);
      launch.parameters.push_back(address);
    }
    for (unsigned i = 0; i < facts.integers(); ++i)
      launch.parameters.push_back(uint64_t(integers[i]));
    launch.parameters.push_back(uint64_t(end));
    EXPECT_EQ("", ptx::run(*module, launch, memory));
    EXPECT_GE(double(memory.wideBytes),
              leastWide * double(memory.accessedBytes))
        << "too few bytes are accessed 16 at once";
  };
  return {facts, run};
}

Runnable makeRunnable(plan::KernelOp kernel, const RunOptions &options) {
  codegen::CodegenOptions codegenOptions;
  codegenOptions.targetCpu = options.targetCpu;
  codegenOptions.threads = 1;
  codegenOptions.assemble = false;
  auto compiled = codegen::compileKernels({kernel}, codegenOptions);
  if (failed(compiled)) {
    ADD_FAILURE() << "does not compile: " << kernel.getSymName().str();
    return {};
  }
  const codegen::KernelFacts &facts = compiled->kernels[0];
  if (options.targetCpu == kInterpretedGpu)
    return interpreted(facts, compiled->object,
                       options.wide ? leastWide(kernel) : 0);
  auto object = std::make_shared<LoadedObject>(compiled->object);
  auto *function = object->find(facts.symbol);
  if (!function) {
    ADD_FAILURE() << "no symbol " << facts.symbol;
    return {};
  }
  auto run = [object, function](const Operands &operands,
                                const int64_t *integers, int64_t begin,
                                int64_t end) {
    function(operands.pointers.data(), integers, begin, end);
  };
  return {facts, run};
}

// A kernel's call: what it is given, and what it has to give.
struct Call {
  std::vector<Array> arguments;
  std::vector<Tensor> expected; // results
  std::vector<int64_t> integers;
  int64_t units = 0;
};

Call makeCall(plan::KernelOp kernel, const codegen::KernelFacts &facts,
              const RunOptions &options) {
  Call call;
  std::mt19937 random(options.seed);
  std::vector<Tensor> tensors;
  for (auto [number, type] :
       llvm::enumerate(kernel.getFunctionType().getInputs())) {
    auto given = options.given.find(number);
    auto tensor = cast<RankedTensorType>(type);
    bool isFloat = tensor.getElementType().isF32();
    size_t count = elementsOf(tensor, options.rows);
    Array array(count, isFloat);
    for (size_t i = 0; i < count; ++i) {
      if (isFloat) {
        float value = std::uniform_real_distribution<float>(-1, 1)(random) +
                      static_cast<float>(options.positive);
        if (given != options.given.end())
          value = static_cast<float>(given->second);
        std::memcpy(array.data() + 4 * i, &value, 4);
      } else {
        auto bound = options.bounds.find(number);
        int32_t value = std::uniform_int_distribution<int32_t>(
            options.indexLow, bound == options.bounds.end()
                                  ? options.indexBound - 1
                                  : bound->second - 1)(random);
        if (options.ascending)
          value = int32_t(options.indexLow + int64_t(i));
        std::memcpy(array.data() + 4 * i, &value, 4);
      }
    }
    tensors.push_back(toTensor(array, tensor, options.rows));
    call.arguments.push_back(std::move(array));
  }
  call.expected = interpret(kernel, tensors, options.microBatch);
  if (facts.takesMicroBatch)
    call.integers.push_back(options.microBatch);
  if (facts.takesRows)
    call.integers.push_back(options.rows);
  kernel.getBody().walk([&](lm::Drawing random) {
    if (!random.draws() || random.getId())
      return;
    call.integers.push_back(kGivenRandomId);
    call.integers.push_back(firstNumber(random, options.microBatch));
  });
  int64_t rows = facts.takesRows ? options.rows : facts.rows;
  call.units =
      (rows + facts.rowsPerUnit - 1) / facts.rowsPerUnit * facts.columns;
  return call;
}

} // namespace

SmallVector<plan::KernelOp> test::kernelsOf(ModuleOp module) {
  SmallVector<plan::KernelOp> kernels;
  for (auto kernel : module.getOps<plan::KernelOp>())
    if (kernel.getKind() != plan::kMatmulKind)
      kernels.push_back(kernel);
  return kernels;
}

RunOptions test::optionsForAnyKernel(plan::KernelOp kernel) {
  RunOptions run;
  run.wide = true;
  run.positive = 1.1; // second moments and variances are
  run.microBatch = 1;
  run.rows = run.indexBound; // of a table of rows that a step computes
  if (auto most = kernel.getMostRows())
    run.rows = *most;
  // Two tokens have no slot in common.
  run.ascending = kernel.getKind() == "cache_write";
  // Single numbers are such as betas: what divides by 1 - beta amplifies its
  // rounding without bound where that is near 0.
  for (auto [number, type] :
       llvm::enumerate(kernel.getFunctionType().getInputs())) {
    auto tensor = cast<RankedTensorType>(type);
    if (tensor.getElementType().isF32() && tensor.hasStaticShape() &&
        tensor.getNumElements() == 1)
      run.given[number] = 0.75;
  }
  return run;
}

void test::describeCase(plan::KernelOp kernel,
                        const codegen::KernelFacts &facts, DeviceCase &out) {
  RunOptions options = optionsForAnyKernel(kernel);
  Call call = makeCall(kernel, facts, options);
  out.set_name(kernel.getSymName().str());
  out.set_kind(kernel.getKind().str());
  out.set_symbol(facts.symbol);
  out.set_threads(facts.threads);
  out.set_shared_bytes(facts.sharedBytes);
  out.set_units(call.units);
  out.set_tolerance(options.tolerance);
  for (int64_t integer : call.integers)
    out.add_integers(integer);
  for (Array &array : call.arguments) {
    DeviceOperand *operand = out.add_operands();
    operand->set_given(array.data(), array.size);
    operand->set_is_float(array.isFloat);
  }
  for (auto [index, type, tied] : llvm::enumerate(
           kernel.getFunctionType().getResults(), kernel.getTied())) {
    DeviceOperand *operand =
        tied >= 0 ? out.mutable_operands(int(tied)) : out.add_operands();
    const std::vector<double> &data = call.expected[index].data;
    if (tied < 0)
      operand->set_given(std::string(data.size() * 4, kPattern));
    operand->set_is_float(
        cast<RankedTensorType>(type).getElementType().isF32());
    operand->mutable_expected()->Assign(data.begin(), data.end());
  }
}

Bytes KernelRunner::check(plan::KernelOp kernel, const RunOptions &options) {
  Runnable runnable = makeRunnable(kernel, options);
  const codegen::KernelFacts &facts = runnable.facts;
  const auto &run = runnable.run;
  if (!run)
    return {};
  Call call = makeCall(kernel, facts, options);
  std::vector<Array> &arguments = call.arguments;
  const std::vector<Tensor> &expected = call.expected;
  const std::vector<int64_t> &integers = call.integers;
  int64_t units = call.units;

  Bytes first;
  for (int64_t parts : {1, 2, 7}) {
    std::vector<Array> inputs;
    for (Array &array : arguments) {
      inputs.emplace_back(array.size / 4, array.isFloat);
      std::memcpy(inputs.back().data(), array.data(), array.size);
    }
    std::vector<Array> outputs;
    Operands operands;
    for (Array &array : inputs)
      operands.add(array);
    ArrayRef<int64_t> tied = kernel.getTied();
    outputs.reserve(tied.size());
    std::vector<Array *> results;
    for (auto [index, type] :
         llvm::enumerate(kernel.getFunctionType().getResults())) {
      auto tensor = cast<RankedTensorType>(type);
      if (tied[index] >= 0) {
        results.push_back(&inputs[tied[index]]);
        continue;
      }
      outputs.emplace_back(elementsOf(tensor, options.rows),
                           tensor.getElementType().isF32());
      operands.add(outputs.back());
      results.push_back(&outputs.back());
    }
    EXPECT_EQ(operands.pointers.size(), facts.pointers);
    // From the last part to the first: units are independent.
    for (int64_t part = parts; part-- > 0;)
      run(operands, integers.data(), units * part / parts,
          units * (part + 1) / parts);
    for (Array &array : inputs)
      EXPECT_TRUE(array.guardIntact()) << "wrote past an argument";
    for (size_t i = 0; i < inputs.size(); ++i)
      if (!llvm::is_contained(tied, int64_t(i)))
        EXPECT_EQ(0, std::memcmp(inputs[i].data(), arguments[i].data(),
                                 inputs[i].size))
            << "wrote to argument " << i;
    Bytes bytes;
    for (auto [index, array] : llvm::enumerate(results)) {
      EXPECT_TRUE(array->guardIntact()) << "wrote past result " << index;
      bytes.emplace_back(array->data(), array->data() + array->size);
      if (parts == 1) {
        std::string what = "result " + std::to_string(index);
        compare(expected[index], *array, options.tolerance, what.c_str());
      }
    }
    if (parts == 1)
      first = bytes;
    else
      for (size_t i = 0; i < bytes.size(); ++i)
        EXPECT_TRUE(first[i] == bytes[i])
            << "result " << i << " of " << units << " units cut in " << parts
            << " parts differs from byte "
            << std::mismatch(first[i].begin(), first[i].end(), bytes[i].begin())
                       .first -
                   first[i].begin();
  }
  return first;
}
