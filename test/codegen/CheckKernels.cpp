// Holds every kernel of a module against what kernels for a GPU promise,
// without one; but for those that a library computes.
//
// lmc compile MODEL --compile-to=kernels > kernels.mlir
// check-kernels --interpret kernels.mlir
//     runs the PTX of each (runtime/device/cuda/ptx) and compares it with plain
//     loops
// check-kernels --ptx=sm_80 [--assemble] kernels.mlir
//     compiles each to PTX and reads it; with ptxas, also what that says
//
// What is asked of PTX: no function from outside; no local memory, that is no
// spilled register and no array in a frame; no access to memory of unknown
// kind, global or shared, which is how a masked one comes out; and no access
// narrower than 16 bytes where one of 16 is possible. That is: four single
// words that lie side by side behind one address register are one vector that
// was taken apart; and a kernel whose vectors have four elements loads or
// stores at least one such. A variant for few rows has at least eight loads of
// 16 bytes under way before it computes: it is as fast as it reads.
#include "test/codegen/KernelRunner.h"

#include "passes/codegen/cuda/Ptx.h"

#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Regex.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <set>

using namespace mlir;
using namespace lmc;
using namespace lmc::test;

namespace {

struct Checker {
  std::string gpu;
  std::string assembler; // empty: PTX alone is read
  int failures = 0;

  void fail(plan::KernelOp kernel, const llvm::Twine &what) {
    ++failures;
    std::printf("FAIL: %s (%s): %s\n", kernel.getSymName().str().c_str(),
                kernel.getKind().str().c_str(), what.str().c_str());
  }
  void check(plan::KernelOp kernel);
  void checkText(plan::KernelOp kernel, llvm::StringRef ptx, bool wide);
  void checkAssembled(plan::KernelOp kernel, const std::string &ptx);
};

void Checker::checkText(plan::KernelOp kernel, llvm::StringRef ptx, bool wide) {
  for (const char *unwanted : {".extern .func", "ld.local", "st.local"})
    if (ptx.contains(unwanted))
      fail(kernel, "its PTX has " + llvm::Twine(unwanted));
  llvm::Regex unknown("\t(ld|st)\\.(v[24]\\.)?[fbu](8|16|32|64) ");
  if (unknown.match(ptx))
    fail(kernel, "its PTX accesses memory of unknown kind");
  llvm::Regex access("(ld|st)\\.global[a-z.]*\\.[fbu]32 .*\\[(%rd[0-9]+)"
                     "(\\+(-?[0-9]+))?\\]");
  std::map<std::string, std::set<int64_t>> offsets; // by access and register
  bool hasWide = false;
  llvm::SmallVector<llvm::StringRef> lines, groups;
  ptx.split(lines, '\n');
  for (llvm::StringRef line : lines) {
    // A label ends what is known of registers.
    if (line.starts_with("$"))
      offsets.clear();
    if (line.contains(".global") && line.contains(".v4."))
      hasWide = true;
    if (line.contains(".v2.") || line.contains(".v4.") ||
        !access.match(line, &groups))
      continue;
    int64_t offset = 0;
    if (!groups[4].empty())
      groups[4].getAsInteger(10, offset);
    auto &seen = offsets[(groups[1] + groups[2]).str()];
    seen.insert(offset);
    int64_t first = offset;
    while (seen.count(first - 4))
      first -= 4;
    if (seen.count(first) && seen.count(first + 4) && seen.count(first + 8) &&
        seen.count(first + 12)) {
      fail(kernel, "four words side by side are accessed singly: " + line);
      return;
    }
  }
  llvm::StringRef ahead = ptx.take_front(ptx.find("fma.rn"));
  // Of all blocks whose registers a multiprocessor holds together.
  unsigned blocks = 1;
  ptx.split(".minnctapersm ").second.consumeInteger(10, blocks);
  if (kernel.getMostRows() && blocks * ahead.count("ld.global.nc.v4") < 8)
    fail(kernel, "fewer than 8 loads of 16 bytes precede the first sum");
  if (wide && !hasWide)
    fail(kernel, "no access has 16 bytes, though its vectors have");
}

void Checker::checkAssembled(plan::KernelOp kernel, const std::string &ptx) {
  std::string error, messages;
  auto target = codegen::cuda::resolveTarget(gpu, error);
  if (failed(codegen::cuda::assemble(assembler, ptx, *target, /*verbose=*/true,
                                     messages)))
    return fail(kernel, messages);
  if (!llvm::StringRef(messages).contains(
          "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"))
    fail(kernel, messages);
}

void Checker::check(plan::KernelOp kernel) {
  codegen::CodegenOptions options;
  options.targetCpu = gpu;
  options.threads = 1;
  options.assemble = false;
  auto compiled = codegen::compileKernels({kernel}, options);
  if (mlir::failed(compiled))
    return fail(kernel, "does not compile");
  checkText(kernel, compiled->object, compiled->kernels[0].lanes == 4);
  if (!assembler.empty())
    checkAssembled(kernel, compiled->object);
}

// Whether the kernel fails; why was printed.
bool interpretFails(KernelRunner &runner, plan::KernelOp kernel) {
  SCOPED_TRACE(kernel.getSymName().str());
  const auto &result = testing::UnitTest::GetInstance()->ad_hoc_test_result();
  int before = result.total_part_count();
  RunOptions run = optionsForAnyKernel(kernel);
  run.targetCpu = kInterpretedGpu;
  runner.check(kernel, run);
  return result.total_part_count() > before;
}

} // namespace

int main(int argc, char **argv) {
  Checker checker;
  bool interpreted = false, assembled = false;
  const char *path = nullptr;
  for (int i = 1; i < argc; ++i) {
    llvm::StringRef argument = argv[i];
    if (argument == "--interpret")
      interpreted = true;
    else if (argument == "--assemble")
      assembled = true;
    else if (argument.consume_front("--ptx="))
      checker.gpu = argument.str();
    else
      path = argv[i];
  }
  if (!path || interpreted == !checker.gpu.empty()) {
    std::fprintf(stderr, "usage: check-kernels --interpret FILE, or "
                         "check-kernels --ptx=sm_80 [--assemble] FILE\n");
    return 2;
  }
  if (assembled) {
    checker.assembler = codegen::cuda::findAssembler();
    if (checker.assembler.empty()) {
      std::fprintf(stderr, "ptxas is neither on PATH nor in CUDA_HOME\n");
      return 2;
    }
  }
  auto file = llvm::MemoryBuffer::getFileOrSTDIN(path);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path);
    return 2;
  }
  testing::InitGoogleTest();
  KernelRunner runner;
  auto module = runner.parse((*file)->getBuffer().str());
  if (!module)
    return 1;
  SmallVector<plan::KernelOp> kernels = kernelsOf(module);
  std::vector<OwningOpRef<plan::KernelOp>> variants;
  kernels = codegen::withVariants(kernels, variants);
  for (auto kernel : kernels)
    if (!interpreted)
      checker.check(kernel);
    else if (interpretFails(runner, kernel))
      ++checker.failures;
  auto count = int(kernels.size());
  std::printf("%d kernels, %d failures\n", count, checker.failures);
  return checker.failures != 0;
}
