// What a plan for cuda promises of its kernels; see plan.proto, Kernel.
#include "runtime/plan/PlanChecker.h"

#include <numeric>

namespace lmc::runtime {

namespace {
constexpr uint32_t maxThreads = 1024;
constexpr int64_t maxSharedBytes = 227 << 10; // of sm_90; sm_80 has 163 KiB
constexpr int64_t widestLoad = 16;            // bytes, of a thread
} // namespace

Status Checker::checkBlock(const plan::Kernel &kernel) {
  if (!isCuda()) {
    if (kernel.threads() != 0 || kernel.shared_bytes() != 0)
      return corrupt("kernel {} has blocks of {} threads and {} shared bytes "
                     "in a plan for {}",
                     kernel.name(), kernel.threads(), kernel.shared_bytes(),
                     plan.target());
    return Status();
  }
  if (kernel.threads() < 32 || kernel.threads() > maxThreads ||
      kernel.threads() % 32 != 0)
    return corrupt("kernel {} has blocks of {} threads, which is no multiple "
                   "of 32 up to {}",
                   kernel.name(), kernel.threads(), maxThreads);
  if (kernel.shared_bytes() < 0 || kernel.shared_bytes() > maxSharedBytes)
    return corrupt("kernel {} wants {} bytes of shared memory; at most {} are "
                   "allowed",
                   kernel.name(), kernel.shared_bytes(), maxSharedBytes);
  return Status();
}

Status Checker::checkDeviceCode(const plan::Code &code) {
  if (code.target_cpu().rfind("sm_", 0) != 0 || code.cpu_features_size() != 0)
    return corrupt("the code for {} is no code for cuda, which names sm_80 or "
                   "later and no features",
                   code.target_cpu());
  const std::string &object = code.object();
  bool isCubin = object.rfind("\x7f"
                              "ELF",
                              0) == 0;
  if (!isCubin && object.find('\0') != object.size() - 1)
    return corrupt("the code for {} is neither a cubin nor PTX that ends in "
                   "its only NUL",
                   code.target_cpu());
  return Status();
}

// A thread loads as much at once as divides an operand's rows, so its bytes;
// the tokens of a micro-batch of 2 x 29 begin at multiples of 232 bytes, and 8
// are loaded at once.
Status Checker::checkAlignment(const plan::Launch &launch) {
  for (const plan::Operand &operand : launch.operands()) {
    const plan::Slice &slice = operand.slice();
    int64_t alignment = std::gcd(widestLoad, slice.bytes());
    bool aligned = slice.offset().constant() % alignment == 0;
    for (const plan::Linear::Term &term : slice.offset().terms())
      aligned &= term.coefficient() % alignment == 0;
    if (!aligned)
      return corrupt("an operand of {} bytes in allocation {} does not always "
                     "begin at a multiple of {} bytes",
                     slice.bytes(), slice.allocation(), alignment);
  }
  return Status();
}

} // namespace lmc::runtime
