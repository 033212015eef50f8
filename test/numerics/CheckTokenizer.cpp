// check-tokenizer TOKENIZER.json CASES.jsonl: holds a tokenizer against the
// reference library's words for it. A case is a line {"text", "ids"}, where
// decoding does not give the text back "decoded", and in some "special_ids",
// with what stands around every text. Ends with 0 when every id and every
// decoded text is the same, else prints the first ten that are not.
#include "runtime/base/Log.h"
#include "runtime/base/MappedFile.h"
#include "runtime/base/Utf8.h"
#include "runtime/generate/Tokenizer.h"
#include "runtime/weights/Json.h"

#include <cstdio>

using namespace lmc::runtime;

namespace {
struct Count {
  int64_t cases = 0, ids = 0, wrong = 0;
};
} // namespace

static Status checkCase(Tokenizer &tokenizer, std::string_view line,
                        Count &count) {
  LMC_ASSIGN_OR_RETURN(nlohmann::json expected,
                       parseJson(line, fmt::format("case {}", count.cases)));
  std::string text = expected.at("text");
  std::vector<int32_t> ids = expected.at("ids");
  std::string decoded = expected.value("decoded", text);
  LMC_ASSIGN_OR_RETURN(std::vector<int32_t> actual, tokenizer.encode(text));
  std::string back;
  for (int32_t id : actual)
    back += tokenizer.bytesOf(id);
  Utf8Stream stream; // as the reference: what is no UTF-8 is U+FFFD
  back = stream.add(back) + stream.finish();
  ++count.cases;
  count.ids += int64_t(ids.size());
  bool alike = actual == ids && back == decoded;
  if (expected.contains("special_ids")) {
    LMC_ASSIGN_OR_RETURN(std::vector<int32_t> whole,
                         tokenizer.encode(text, /*addSpecial=*/true));
    alike &= whole == expected["special_ids"].get<std::vector<int32_t>>();
  }
  if (alike)
    return Status();
  if (++count.wrong <= 10)
    std::printf("FAIL: case %lld: %s: expected [%s] \"%s\", is [%s] \"%s\"\n",
                static_cast<long long>(count.cases),
                nlohmann::json(text).dump(-1, ' ', true).c_str(),
                fmt::format("{}", fmt::join(ids, " ")).c_str(), decoded.c_str(),
                fmt::format("{}", fmt::join(actual, " ")).c_str(),
                back.c_str());
  return Status();
}

static Status check(const char *tokenizerFile, const char *casesFile) {
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                       openTokenizer(tokenizerFile));
  LMC_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(casesFile));
  std::string_view rest = file.bytes();
  Count count;
  while (!rest.empty()) {
    size_t end = std::min(rest.find('\n'), rest.size());
    LMC_RETURN_IF_ERROR(checkCase(*tokenizer, rest.substr(0, end), count));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  std::printf(
      "%lld cases, %lld ids, %lld wrong\n", static_cast<long long>(count.cases),
      static_cast<long long>(count.ids), static_cast<long long>(count.wrong));
  if (count.cases == 0)
    return wrongInput("{} has no case", casesFile);
  return count.wrong ? jobFailed("{} cases differ", count.wrong) : Status();
}

int main(int argc, char **argv) {
  if (argc != 3)
    return report(
        wrongInput("usage: check-tokenizer TOKENIZER.json CASES.jsonl"));
  return report(check(argv[1], argv[2]));
}
