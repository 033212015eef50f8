// See Json.h.
#include "runtime/weights/Json.h"

#include <set>

namespace lmc::runtime {

namespace {

/// Builds the document from events and watches depth and keys.
class GuardedBuilder : public nlohmann::json_sax<nlohmann::json> {
public:
  nlohmann::json root;
  std::string error;

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t &) override {
    return put(value);
  }
  bool string(string_t &value) override { return put(std::move(value)); }
  bool binary(binary_t &) override { return fail("binary data"); }
  bool start_object(size_t) override { return open(nlohmann::json::object()); }
  bool start_array(size_t) override { return open(nlohmann::json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t &value) override {
    if (stack.back()->contains(value))
      return fail(fmt::format("the key \"{}\" twice", value.substr(0, 200)));
    nextKey = std::move(value);
    return true;
  }
  bool parse_error(size_t position, const std::string &,
                   const nlohmann::json::exception &) override {
    return fail(fmt::format("a syntax error at byte {}", position));
  }

private:
  bool fail(std::string what) {
    if (error.empty())
      error = std::move(what);
    return false;
  }
  nlohmann::json *place(nlohmann::json value) {
    if (stack.empty()) {
      root = std::move(value);
      return &root;
    }
    nlohmann::json &top = *stack.back();
    if (top.is_array()) {
      top.push_back(std::move(value));
      return &top.back();
    }
    return &(top[nextKey] = std::move(value));
  }
  bool put(nlohmann::json value) {
    place(std::move(value));
    return true;
  }
  bool open(nlohmann::json value) {
    if (stack.size() >= size_t(maxJsonDepth))
      return fail(fmt::format("nesting beyond {} levels", maxJsonDepth));
    stack.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    stack.pop_back();
    return true;
  }

  // Elements of arrays move when the array grows, but only the last one is
  // ever open, and it stays while it is.
  std::vector<nlohmann::json *> stack;
  std::string nextKey;
};

} // namespace

StatusOr<nlohmann::json> parseJson(std::string_view text,
                                   const std::string &name) {
  // The parser would take it for the end.
  if (size_t at = text.find('\0'); at != std::string_view::npos)
    return corrupt("{} is no valid JSON: byte {} is 0", name, at);
  GuardedBuilder builder;
  bool ok = nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  if (!ok || !builder.error.empty())
    return corrupt("{} is no valid JSON: it has {}", name, builder.error);
  return std::move(builder.root);
}

} // namespace lmc::runtime
