// Reading and writing the plan's container. See PlanFile.h.
#include "runtime/plan/PlanFile.h"
#include "runtime/base/Utf8.h"

#include <cerrno>
#include <climits>
#include <cstring>
#include <fcntl.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/logging.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

namespace lmc::runtime {

namespace pb = google::protobuf;

static constexpr char magic[8] = {'L', 'M', 'C', 'P', 'L', 'A', 'N', '\n'};
static constexpr size_t headerBytes = 8 + 4 + 8 + sizeof(XXH128_canonical_t);

static void appendLittleEndian(std::string &out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i)
    out.push_back(char(value >> (8 * i)));
}

static uint64_t readLittleEndian(std::string_view in, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; ++i)
    value |= uint64_t(uint8_t(in[size_t(i)])) << (8 * i);
  return value;
}

static void checksum(std::string_view message, XXH128_canonical_t &out) {
  XXH128_canonicalFromHash(&out, XXH3_128bits(message.data(), message.size()));
}

StatusOr<std::string> encodePlan(const plan::Plan &plan) {
  size_t size = plan.ByteSizeLong();
  if (size > INT_MAX)
    return makeError(ErrorKind::DoesNotFit,
                     "the plan takes {} bytes; a plan file holds at most {}",
                     size, INT_MAX);
  std::string message;
  message.reserve(size);
  {
    pb::io::StringOutputStream stream(&message);
    pb::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true); // maps in key order
    if (!plan.SerializeToCodedStream(&coded))
      return makeError(ErrorKind::Bug, "the plan could not be serialised");
  }
  std::string out;
  out.reserve(headerBytes + message.size());
  out.append(magic, sizeof magic);
  appendLittleEndian(out, planFormatVersion, 4);
  appendLittleEndian(out, message.size(), 8);
  XXH128_canonical_t sum;
  checksum(message, sum);
  out.append(reinterpret_cast<const char *>(sum.digest), sizeof sum.digest);
  out += message;
  return out;
}

/// The name of the first field or enumerator that the schema does not know,
/// or "".
static std::string findUnknown(const pb::Message &message) {
  const pb::Reflection &reflection = *message.GetReflection();
  const pb::UnknownFieldSet &unknown = reflection.GetUnknownFields(message);
  if (!unknown.empty())
    return fmt::format("field {} of message {}", unknown.field(0).number(),
                       message.GetDescriptor()->name());
  std::vector<const pb::FieldDescriptor *> fields;
  reflection.ListFields(message, &fields);
  for (const pb::FieldDescriptor *field : fields) {
    int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    if (field->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE) {
      for (int i = 0; i < count; ++i) {
        const pb::Message &inner =
            field->is_repeated()
                ? reflection.GetRepeatedMessage(message, field, i)
                : reflection.GetMessage(message, field);
        if (std::string found = findUnknown(inner); !found.empty())
          return found;
      }
    } else if (field->cpp_type() == pb::FieldDescriptor::CPPTYPE_ENUM) {
      for (int i = 0; i < count; ++i) {
        int value = field->is_repeated()
                        ? reflection.GetRepeatedEnumValue(message, field, i)
                        : reflection.GetEnumValue(message, field);
        if (!field->enum_type()->FindValueByNumber(value))
          return fmt::format("value {} of {}.{}", value,
                             message.GetDescriptor()->name(), field->name());
      }
    }
  }
  return "";
}

StatusOr<plan::Plan> decodePlan(std::string_view bytes, std::string_view name) {
  if (bytes.size() < sizeof magic ||
      std::memcmp(bytes.data(), magic, sizeof magic) != 0)
    return corrupt("{} is not a plan: it does not begin with \"LMCPLAN\"", name)
        .help("make a plan with: lmc compile MODEL -o PLAN");
  if (bytes.size() < headerBytes)
    return corrupt("{} is cut short: {} bytes, less than the {} of its header",
                   name, bytes.size(), headerBytes);
  uint64_t version = readLittleEndian(bytes.substr(8), 4);
  if (version != planFormatVersion)
    return corrupt("{} is a plan of format version {}; this build reads "
                   "version {}",
                   name, version, planFormatVersion)
        .help("compile the model again with the lmc of this build");
  uint64_t length = readLittleEndian(bytes.substr(12), 8);
  std::string_view message = bytes.substr(headerBytes);
  if (length != message.size())
    return corrupt("{} is damaged: its header says {} bytes of plan, the file "
                   "holds {}",
                   name, length, message.size());
  if (length > INT_MAX)
    return corrupt("{} is damaged: a plan holds at most {} bytes", name,
                   INT_MAX);
  XXH128_canonical_t sum;
  checksum(message, sum);
  if (std::memcmp(sum.digest, bytes.data() + 20, sizeof sum.digest) != 0)
    return corrupt("{} is damaged: its checksum does not match", name)
        .help("copy or compile it again");
  pb::LogSilencer silencer; // the error below says what is wrong
  plan::Plan plan;
  pb::io::CodedInputStream coded(
      reinterpret_cast<const uint8_t *>(message.data()), int(message.size()));
  coded.SetRecursionLimit(16); // the schema is 7 deep
  if (!plan.ParseFromCodedStream(&coded) || !coded.ConsumedEntireMessage())
    return corrupt("{} is damaged: its message cannot be parsed", name);
  if (std::string unknown = findUnknown(plan); !unknown.empty())
    return corrupt("{} holds {}, which this build does not know", name, unknown)
        .help("compile the model again with the lmc of this build");
  return plan;
}

static Status systemError(std::string_view what, const std::string &path) {
  int error = errno;
  return makeError(error == ENOSPC || error == EDQUOT ? ErrorKind::DoesNotFit
                                                      : ErrorKind::WrongInput,
                   "cannot {} {}: {}", what, path, std::strerror(error));
}

/// The first text of a message that is not UTF-8, as `field "text"`: protobuf
/// writes it, and nobody can read it.
static std::string findNonUtf8(const pb::Message &message) {
  const pb::Reflection &reflection = *message.GetReflection();
  std::vector<const pb::FieldDescriptor *> fields;
  reflection.ListFields(message, &fields);
  for (const pb::FieldDescriptor *field : fields) {
    const int count =
        field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      std::string found;
      if (field->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE) {
        found =
            findNonUtf8(field->is_repeated()
                            ? reflection.GetRepeatedMessage(message, field, i)
                            : reflection.GetMessage(message, field));
      } else if (field->type() == pb::FieldDescriptor::TYPE_STRING) {
        std::string text = field->is_repeated()
                               ? reflection.GetRepeatedString(message, field, i)
                               : reflection.GetString(message, field);
        if (size_t good = utf8Prefix(text); good < text.size())
          found =
              fmt::format("{} \"{}...\"", field->name(), text.substr(0, good));
      }
      if (!found.empty())
        return found;
    }
  }
  return "";
}

Status writePlanFile(const plan::Plan &plan, const std::string &path) {
  if (std::string text = findNonUtf8(plan); !text.empty())
    return wrongInput("the plan would hold text that is not UTF-8: {}", text)
        .help("name files and parts of the model in UTF-8");
  LMC_ASSIGN_OR_RETURN(std::string bytes, encodePlan(plan));
  struct stat existing;
  // A device or pipe (/dev/stdout) is written in place.
  bool inPlace =
      ::stat(path.c_str(), &existing) == 0 && !S_ISREG(existing.st_mode);
  std::string target =
      inPlace ? path : fmt::format("{}.{}.part", path, ::getpid());
  int fd =
      ::open(target.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0)
    return systemError("write", path);
  Status status;
  std::string_view rest = bytes;
  while (!rest.empty()) {
    ssize_t written = ::write(fd, rest.data(), rest.size());
    if (written < 0) {
      if (errno == EINTR)
        continue;
      status = systemError("write", path);
      break;
    }
    rest.remove_prefix(size_t(written));
  }
  if (::close(fd) != 0 && status.ok())
    status = systemError("write", path);
  if (status.ok() && !inPlace && ::rename(target.c_str(), path.c_str()) != 0)
    status = systemError("write", path);
  if (!status.ok() && !inPlace)
    ::unlink(target.c_str());
  return status;
}

StatusOr<plan::Plan> readPlanFile(const std::string &path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return systemError("read", path);
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return wrongInput("cannot read {}: not a regular file", path);
  }
  if (info.st_size == 0) {
    ::close(fd);
    return corrupt("{} is not a plan: it is empty", path);
  }
  std::string bytes(size_t(info.st_size), '\0');
  size_t have = 0;
  while (have < bytes.size()) {
    ssize_t count = ::read(fd, bytes.data() + have, bytes.size() - have);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      break;
    have += size_t(count);
  }
  ::close(fd);
  bytes.resize(have);
  return decodePlan(bytes, path);
}

} // namespace lmc::runtime
