// What a plan for cuda promises of its kernels and its library's products; see
// plan.proto, Kernel and Matmul.
#include "runtime/plan/PlanChecker.h"

#include <numeric>

namespace lmc::runtime {

namespace {
constexpr uint32_t maxThreads = 1024;
constexpr int64_t maxSharedBytes = 227 << 10; // of sm_90; sm_80 has 163 KiB
constexpr int64_t widestLoad = 16;            // bytes, of a thread
// The library counts in 32 bits here and there.
constexpr int64_t maxMatmulSize = (int64_t(1) << 31) - 1;
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

/// Whether a slice always begins at a multiple of `alignment` bytes.
static bool isAligned(const plan::Slice &slice, int64_t alignment) {
  bool aligned = slice.offset().constant() % alignment == 0;
  for (const plan::Linear::Term &term : slice.offset().terms())
    aligned &= term.coefficient() % alignment == 0;
  return aligned;
}

// A thread loads as much at once as divides an operand's rows, so its bytes;
// the tokens of a micro-batch of 2 x 29 begin at multiples of 232 bytes, and 8
// are loaded at once.
Status Checker::checkAlignment(const plan::Launch &launch) {
  for (const plan::Operand &operand : launch.operands()) {
    const plan::Slice &slice = operand.slice();
    int64_t alignment = std::gcd(widestLoad, slice.bytes());
    if (!isAligned(slice, alignment))
      return corrupt("an operand of {} bytes in allocation {} does not always "
                     "begin at a multiple of {} bytes",
                     slice.bytes(), slice.allocation(), alignment);
  }
  return Status();
}

Status Checker::checkMatmul(const plan::Matmul &matmul) {
  if (!isCuda())
    return corrupt("a matmul in a plan for {}, whose products are kernels",
                   plan.target());
  std::optional<Range> rows = boundLinear(matmul.rows(), ranges);
  if (!rows || rows->minimum < 0 || rows->maximum > maxMatmulSize)
    return corrupt("the rows of a matmul are negative, too many, or name an "
                   "unknown symbol");
  if (matmul.columns() < 1 || matmul.columns() > maxMatmulSize ||
      matmul.depth() < 1 || matmul.depth() > maxMatmulSize)
    return corrupt("a matmul has {} columns and depth {}; both are 1 to {}",
                   matmul.columns(), matmul.depth(), maxMatmulSize);
  if (matmul.left_transposed() && rows->minimum != rows->maximum)
    return corrupt("a matmul with a transposed left factor has between {} and "
                   "{} rows",
                   rows->minimum, rows->maximum);
  if (!boundLinear(matmul.adds(), ranges))
    return corrupt("whether a matmul adds overflows or names an unknown "
                   "symbol");
  bool adds = matmul.adds().constant() != 0 || matmul.adds().terms_size() > 0;
  if (adds != matmul.has_addend())
    return corrupt("a matmul {} and {}", adds ? "adds" : "adds nothing",
                   adds ? "has no addend" : "has an addend");
  struct Part {
    const char *name;
    const plan::Slice &slice;
    int64_t rows, columns;
    Use use;
  };
  std::vector<Part> parts = {
      {"left factor", matmul.left(), rows->maximum, matmul.depth(), Use::Read},
      {"right factor", matmul.right(), matmul.depth(), matmul.columns(),
       Use::Read},
      {"result", matmul.target(), rows->maximum, matmul.columns(), Use::Write}};
  if (matmul.has_bias())
    parts.push_back({"bias", matmul.bias(), 1, matmul.columns(), Use::Read});
  if (matmul.has_addend())
    parts.push_back({"addend", matmul.addend(), rows->maximum, matmul.columns(),
                     Use::Read});
  for (const Part &part : parts) {
    auto elements = checkedMultiply(part.rows, part.columns);
    auto bytes = elements ? checkedMultiply(*elements, 4) : std::nullopt;
    if (!bytes || *bytes != part.slice.bytes())
      return corrupt("the {} of a matmul is {} x {} float32, its slice has {} "
                     "bytes",
                     part.name, part.rows, part.columns, part.slice.bytes());
    if (Status status = checkSlice(part.slice, part.use); !status.ok())
      return std::move(status).prepend(
          fmt::format("{} of a matmul", part.name));
    if (!isAligned(part.slice, 4))
      return corrupt("the {} of a matmul does not always begin at a multiple "
                     "of 4 bytes",
                     part.name);
  }
  if (Status status = checkSlice(matmul.workspace(), Use::Write); !status.ok())
    return std::move(status).prepend("workspace of a matmul");
  if (!isAligned(matmul.workspace(), 64))
    return corrupt("the workspace of a matmul does not always begin at a "
                   "multiple of 64 bytes");
  return Status();
}

} // namespace lmc::runtime
