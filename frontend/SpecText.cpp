// Text proto to message, with places and suggestions.
#include "frontend/SpecText.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/message.h>
#include <google/protobuf/text_format.h>

namespace pb = google::protobuf;

namespace lmc::frontend {
namespace {

// The text between the next two quotes at or after `*position`.
std::string nextQuoted(const std::string &text, size_t *position) {
  size_t open = text.find('"', *position);
  size_t close = open == std::string::npos ? open : text.find('"', open + 1);
  if (close == std::string::npos)
    return "";
  *position = close + 1;
  return text.substr(open + 1, close - open - 1);
}

const pb::FieldDescriptor *findField(const pb::Descriptor *type,
                                     const std::string &name, int depth) {
  for (int i = 0; i < type->field_count(); ++i) {
    const pb::FieldDescriptor *field = type->field(i);
    if (field->name() == name)
      return field;
    if (field->message_type() && field->message_type() != type && depth > 0)
      if (const pb::FieldDescriptor *found =
              findField(field->message_type(), name, depth - 1))
        return found;
  }
  return nullptr;
}

// Protobuf's own errors arrive as text. The two that a suggestion helps with
// are recognised by their wording in protobuf 3.21; another wording passes
// through as it is.
class Collector : public pb::io::ErrorCollector {
public:
  Collector(const pb::Descriptor *root, Findings &findings)
      : root(root), findings(findings) {}

  void AddError(int line, int column, const std::string &text) override {
    Place place{line + 1, column + 1};
    size_t position = 0;
    if (text.rfind("Message type ", 0) == 0 &&
        text.find("has no field named") != std::string::npos) {
      std::string type = nextQuoted(text, &position);
      std::string name = nextQuoted(text, &position);
      std::vector<std::string> known;
      const pb::Descriptor *descriptor =
          root->file()->pool()->FindMessageTypeByName(type);
      for (int i = 0; descriptor && i < descriptor->field_count(); ++i)
        known.push_back(descriptor->field(i)->name());
      std::string list;
      for (const std::string &word : known)
        list += (list.empty() ? "" : ", ") + word;
      std::string help = didYouMean(name, known);
      findings.error(place,
                     "unknown key '" + name + "' in " +
                         (descriptor ? descriptor->name() : type),
                     help.empty() ? "known keys: " + list : help);
      return;
    }
    if (text.rfind("Unknown enumeration value of ", 0) == 0) {
      std::string value = nextQuoted(text, &position);
      std::string name = nextQuoted(text, &position);
      std::vector<std::string> known;
      std::string list;
      const pb::FieldDescriptor *field = findField(root, name, 4);
      const pb::EnumDescriptor *type = field ? field->enum_type() : nullptr;
      for (int i = 0; type && i < type->value_count(); ++i) {
        known.push_back(type->value(i)->name());
        list += (i ? ", " : "") + known.back();
      }
      std::string help = didYouMean(value, known);
      findings.error(place, "unknown value '" + value + "' of '" + name + "'",
                     help.empty() ? "known values: " + list : help);
      return;
    }
    // It names what it found byte by byte.
    std::string printable;
    for (char c : text)
      if (c >= ' ' && c <= '~')
        printable += c;
      else
        printable += {'\\', 'x', "0123456789abcdef"[(c >> 4) & 15],
                      "0123456789abcdef"[c & 15]};
    findings.error(place, printable);
  }
  void AddWarning(int line, int column, const std::string &text) override {
    findings.warning({line + 1, column + 1}, text);
  }

private:
  const pb::Descriptor *root;
  Findings &findings;
};

// Copies the places of `message`'s fields, and of theirs, from protobuf's
// tree, which is keyed by field and index.
void collectPlaces(const pb::Message &message,
                   const pb::TextFormat::ParseInfoTree &tree,
                   SourceMap &sources) {
  const pb::Reflection *reflection = message.GetReflection();
  std::vector<const pb::FieldDescriptor *> fields;
  reflection->ListFields(message, &fields);
  for (const pb::FieldDescriptor *field : fields) {
    int count =
        field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      int index = field->is_repeated() ? i : -1;
      pb::TextFormat::ParseLocation location = tree.GetLocation(field, index);
      Place place{location.line + 1, location.column + 1};
      if (location.line >= 0 && i == 0)
        sources.set(message, field->number(), place);
      if (!field->message_type())
        continue;
      const pb::Message &child =
          field->is_repeated()
              ? reflection->GetRepeatedMessage(message, field, i)
              : reflection->GetMessage(message, field);
      if (location.line >= 0)
        sources.set(child, place);
      if (const auto *nested = tree.GetTreeForNested(field, index))
        collectPlaces(child, *nested, sources);
    }
  }
}

} // namespace

bool parseSpecText(std::string_view text, pb::Message &message,
                   SourceMap &sources, Findings &findings) {
  if (text.size() > kMaxSpecBytes) {
    findings.error({},
                   "the description has " + std::to_string(text.size()) +
                       " bytes; at most " + std::to_string(kMaxSpecBytes) +
                       " are read",
                   "a block that repeats is written once, with `count`");
    return false;
  }
  Collector collector(message.GetDescriptor(), findings);
  pb::TextFormat::ParseInfoTree tree;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&collector);
  parser.WriteLocationsTo(&tree);
  parser.SetRecursionLimit(kMaxSpecDepth);
  pb::io::ArrayInputStream input(text.data(), static_cast<int>(text.size()));
  if (!parser.Parse(&input, &message)) {
    if (!findings.hasErrors())
      findings.error({}, "not a " + message.GetDescriptor()->name() +
                             " in text form");
    return false;
  }
  collectPlaces(message, tree, sources);
  return true;
}

} // namespace lmc::frontend
