// What the readers of model descriptions say about their input, and where.
//
// The readers know nothing of LLVM, so that they can be fuzzed alone; they
// collect findings, and Import.cpp hands those to MLIR's diagnostics.
#ifndef LMC_FRONTEND_FINDINGS_H
#define LMC_FRONTEND_FINDINGS_H

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace google::protobuf {
class Message;
}

namespace lmc::frontend {

// A place in the description; both count from 1.
struct Place {
  int line = 1;
  int column = 1;
};

struct Finding {
  enum Severity { Error, Warning };
  Severity severity;
  Place place;
  std::string text;
  std::string help; // what to do, or empty
};

class Findings {
public:
  void error(Place place, std::string text, std::string help = "") {
    list.push_back({Finding::Error, place, std::move(text), std::move(help)});
    ++numErrors;
  }
  void warning(Place place, std::string text, std::string help = "") {
    list.push_back({Finding::Warning, place, std::move(text), std::move(help)});
  }
  bool hasErrors() const { return numErrors > 0; }
  const std::vector<Finding> &all() const { return list; }

private:
  std::vector<Finding> list;
  int numErrors = 0;
};

// Where the messages of a spec, and their fields, stand in the file they were
// read from. It holds as long as no message moves: fields may be set later,
// messages may not be removed.
class SourceMap {
public:
  void set(const google::protobuf::Message &message, Place place) {
    places[{&message, 0}] = place;
  }
  void set(const google::protobuf::Message &message, int field, Place place) {
    places[{&message, field}] = place;
  }
  // The place of a field, else of its message, else the file's first line.
  Place of(const google::protobuf::Message &message, int field = 0) const;

private:
  std::map<std::pair<const google::protobuf::Message *, int>, Place> places;
};

// The candidate that `word` is most likely a misspelling of, or "".
std::string closestWord(std::string_view word,
                        const std::vector<std::string> &candidates);

// "did you mean 'x'?", or "" if nothing is close.
std::string didYouMean(std::string_view word,
                       const std::vector<std::string> &candidates);

} // namespace lmc::frontend

#endif // LMC_FRONTEND_FINDINGS_H
