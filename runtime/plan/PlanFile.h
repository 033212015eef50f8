// The plan as a file: a small container around one protobuf message.
//
//   offset  bytes
//        0      8   "LMCPLAN\n"
//        8      4   format version, little endian
//       12      8   length of the message in bytes, little endian
//       20     16   XXH3-128 of the message, canonical (big endian) form
//       36          the message (runtime/plan/plan.proto)
//
// The reader refuses what is not exactly that: every truncation, every changed
// bit, every version, field or enumerator that it does not know is a clean
// error (ErrorKind::Corrupt). It does not look at what the plan means: that is
// PlanCheck.h's, and must follow before anything is allocated.
#ifndef LMC_RUNTIME_PLAN_PLANFILE_H
#define LMC_RUNTIME_PLAN_PLANFILE_H

#include "runtime/base/Status.h"
#include "runtime/plan/plan.pb.h"

#include <string>
#include <string_view>

namespace lmc::runtime {

/// The format version that this build reads and writes.
inline constexpr uint32_t planFormatVersion = 1;

/// The bytes of the file. The same plan gives the same bytes.
StatusOr<std::string> encodePlan(const plan::Plan &plan);

/// The plan in the bytes of a file; `name` is for messages.
StatusOr<plan::Plan> decodePlan(std::string_view bytes, std::string_view name);

/// Writes beside `path` and renames, so that no half plan is ever seen.
Status writePlanFile(const plan::Plan &plan, const std::string &path);

StatusOr<plan::Plan> readPlanFile(const std::string &path);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_PLAN_PLANFILE_H
