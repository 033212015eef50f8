// Reads PTX; see Module.h. LLVM writes a statement a line.
#include "runtime/device/cuda/ptx/Module.h"

#include <cctype>
#include <charconv>
#include <optional>

using namespace lmc::ptx;

namespace {

std::string_view trim(std::string_view text) {
  size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos)
    return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") + 1 - begin);
}

// At commas outside of braces and brackets.
std::vector<std::string_view> splitOperands(std::string_view text) {
  std::vector<std::string_view> parts;
  int depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i == text.size() || (text[i] == ',' && depth == 0)) {
      if (auto part = trim(text.substr(begin, i - begin)); !part.empty())
        parts.push_back(part);
      begin = i + 1;
    } else if (text[i] == '{' || text[i] == '[') {
      ++depth;
    } else if (text[i] == '}' || text[i] == ']') {
      --depth;
    }
  }
  return parts;
}

template <typename T> bool parseNumber(std::string_view text, T &number) {
  auto result = std::from_chars(text.data(), text.data() + text.size(), number);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

bool consume(std::string_view &text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix)
    return false;
  text.remove_prefix(prefix.size());
  return true;
}

} // namespace

namespace lmc::ptx {

class Parser {
public:
  Parser(Module &module, std::string &error) : module(module), error(error) {}
  bool run() {
    for (const std::string &line : module.lines) {
      ++number;
      std::string_view text = line;
      text = trim(text.substr(0, text.find("//")));
      if (!text.empty() && !statement(text))
        return false;
    }
    return !kernel || refuse("the kernel does not end");
  }

private:
  struct RegisterClass {
    Width width;
    uint32_t begin, count;
  };
  Module &module;
  std::string &error;
  uint32_t number = 0; // of the line
  Kernel *kernel = nullptr;
  std::map<std::string, RegisterClass, std::less<>> classes;
  std::map<std::string, uint32_t, std::less<>> labels;
  std::vector<std::pair<size_t, std::string>> branches;

  bool refuse(const std::string &what) {
    error = "line " + std::to_string(number) + ": " + what + ": " +
            module.lines[number - 1];
    return false;
  }

  bool statement(std::string_view text) {
    if (consume(text, ".visible .entry "))
      return beginKernel(text);
    if (!kernel) {
      for (const char *known :
           {".version ", ".target ", ".address_size ", ".extern .shared "})
        if (consume(text, known))
          return true;
      return refuse("unknown directive");
    }
    if (consume(text, ".param .u64 "))
      return ++kernel->parameters, true;
    if (text == ")" || text == "{" || consume(text, ".minnctapersm ") ||
        consume(text, ".pragma "))
      return true;
    if (consume(text, ".maxntid "))
      return parseNumber(text.substr(0, text.find(',')), kernel->threads) ||
             refuse("not a number of threads");
    if (consume(text, ".reg "))
      return registers(text);
    if (text == "}")
      return endKernel();
    if (text.back() == ':') {
      labels[std::string(text.substr(0, text.size() - 1))] =
          uint32_t(kernel->code.size());
      return true;
    }
    // The upper half: { .reg .b32 tmp; mov.b64 {tmp, %r1}, %rd1; }
    if (consume(text, "{ .reg .b32 tmp; mov.b64 {tmp, ")) {
      size_t close = text.find('}');
      return instruction(
          "mov.upper " + std::string(text.substr(0, close)) +
          std::string(text.substr(close + 1, text.find(';') - close - 1)));
    }
    if (text.back() != ';')
      return refuse("no statement");
    return instruction(text.substr(0, text.size() - 1));
  }

  bool beginKernel(std::string_view text) {
    std::string name(text.substr(0, text.find('(')));
    kernel = &module.kernels[name];
    kernel->name = name;
    classes.clear();
    labels.clear();
    branches.clear();
    kernel->thread = allocate(Width::Word, 1);
    kernel->block = allocate(Width::Word, 1);
    return true;
  }
  bool endKernel() {
    for (const auto &[at, label] : branches) {
      auto found = labels.find(label);
      if (found == labels.end())
        return refuse("no label " + label);
      kernel->code[at].label = found->second;
    }
    Instruction last;
    last.kind = Instruction::Return;
    last.line = number;
    kernel->code.push_back(last);
    kernel = nullptr;
    return true;
  }

  // In the file; 8-byte aligned.
  uint32_t allocate(Width width, uint32_t count) {
    uint32_t begin = (kernel->fileBytes + 7) / 8 * 8;
    kernel->fileBytes = begin + count * stride(width);
    return begin;
  }
  static uint32_t stride(Width width) {
    return width == Width::Predicate ? 4 : uint32_t(width) * kWarp;
  }

  // .reg .f32 %f<17>;
  bool registers(std::string_view text) {
    Width width = consume(text, ".pred") ? Width::Predicate
                  : consume(text, ".b32") || consume(text, ".f32") ? Width::Word
                  : consume(text, ".b64") ? Width::Double
                                          : Width(-1);
    text = trim(text);
    size_t open = text.find('<'), close = text.find('>');
    uint32_t count = 0;
    if (width == Width(-1) || open == std::string_view::npos ||
        close == std::string_view::npos ||
        !parseNumber(text.substr(open + 1, close - open - 1), count))
      return refuse("unknown registers");
    classes[std::string(text.substr(0, open))] = {width, allocate(width, count),
                                                  count};
    return true;
  }

  // What stands for a lane's value, in the file.
  std::optional<uint32_t> operand(std::string_view text, Width width) {
    if (text == "%tid.x" || text == "%ctaid.x")
      return width == Width::Word
                 ? std::optional(text == "%tid.x" ? kernel->thread
                                                  : kernel->block)
                 : std::nullopt;
    if (text.front() == '%')
      return registerAt(text, width);
    uint64_t value = 0;
    if (!constant(text, width, value))
      return std::nullopt;
    for (const Kernel::Constant &known : kernel->constants)
      if (known.value == value && known.width == width)
        return known.at;
    kernel->constants.push_back({allocate(width, 1), width, value});
    return kernel->constants.back().at;
  }
  std::optional<uint32_t> registerAt(std::string_view text, Width width) {
    size_t digits = text.find_last_not_of("0123456789") + 1;
    auto found = classes.find(text.substr(0, digits));
    uint32_t index = 0;
    if (found == classes.end() || found->second.width != width ||
        !parseNumber(text.substr(digits), index) ||
        index >= found->second.count)
      return std::nullopt;
    return found->second.begin + index * stride(width);
  }
  bool constant(std::string_view text, Width width, uint64_t &value) {
    // What a block shares begins at address 0 of its own.
    if (text == kernel->name + "_shared")
      return value = 0, width == Width::Double;
    if (consume(text, "0f")) {
      auto result =
          std::from_chars(text.data(), text.data() + text.size(), value, 16);
      return width == Width::Word && text.size() == 8 &&
             result.ptr == text.data() + text.size();
    }
    int64_t number = 0;
    if (parseNumber(text, number))
      value = uint64_t(number);
    else if (!parseNumber(text, value))
      return false;
    if (width == Width::Predicate)
      value = value ? ~uint64_t(0) : 0;
    return true;
  }

  // @%p1 add.s64 %rd1, %rd2, 8
  bool instruction(std::string_view text) {
    Instruction made;
    made.line = number;
    if (consume(text, "@")) {
      made.guard = consume(text, "!") ? Instruction::IfNot : Instruction::If;
      auto predicate = registerAt(text.substr(0, text.find_first_of(" \t")),
                                  Width::Predicate);
      if (!predicate)
        return refuse("unknown predicate");
      made.predicate = *predicate;
      text = trim(text.substr(text.find_first_of(" \t")));
    }
    std::string_view mnemonic = text.substr(0, text.find_first_of(" \t"));
    std::vector<std::string_view> operands =
        splitOperands(text.substr(mnemonic.size()));
    if (!fill(made, mnemonic, operands))
      return refuse("unknown instruction");
    kernel->code.push_back(made);
    return true;
  }

  bool fill(Instruction &made, std::string_view mnemonic,
            const std::vector<std::string_view> &operands) {
    if (mnemonic == "ret")
      return made.kind = Instruction::Return, operands.empty();
    if (mnemonic == "bar.sync")
      return made.kind = Instruction::Barrier,
             operands.size() == 1 && operands[0] == "0";
    if (mnemonic == "bra" || mnemonic == "bra.uni") {
      made.kind = Instruction::Branch;
      branches.emplace_back(kernel->code.size(),
                            operands.empty() ? "" : operands[0]);
      return operands.size() == 1;
    }
    // Of all lanes of a warp, each with one of them.
    if (mnemonic == "shfl.sync.bfly.b32") {
      made.kind = Instruction::Shuffle;
      return operands.size() == 5 && operands[3] == "31" &&
             operands[4] == "-1" &&
             assign(made, {operands[0]}, {operands[1], operands[2]},
                    {Width::Word, Width::Word}, Width::Word);
    }
    if (consume(mnemonic, "ld.") || consume(mnemonic, "st."))
      return fillAccess(made, mnemonic, operands);
    // One word of another kind of register.
    if (mnemonic == "mov.b32" || mnemonic == "mov.u32")
      mnemonic = "mov.f32";
    const LanewiseForm *form = findLanewise(mnemonic);
    if (!form || operands.size() != 1 + form->sources.size())
      return false;
    made.kind = Instruction::Lanewise;
    made.run = form->run;
    return assign(made, {operands[0]}, {operands.begin() + 1, operands.end()},
                  form->sources, form->target);
  }

  bool assign(Instruction &made, const std::vector<std::string_view> &targets,
              const std::vector<std::string_view> &sources,
              const std::vector<Width> &widths, Width target) {
    for (size_t i = 0; i < targets.size(); ++i) {
      auto at = targets[i].front() == '%' ? registerAt(targets[i], target)
                                          : std::nullopt;
      if (!at)
        return false;
      made.targets[i] = *at;
    }
    for (size_t i = 0; i < sources.size(); ++i) {
      auto at = operand(sources[i], widths[i]);
      if (!at)
        return false;
      made.sources[i] = *at;
    }
    return true;
  }

  // global.nc.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+16]; a store the other way.
  bool fillAccess(Instruction &made, std::string_view mnemonic,
                  const std::vector<std::string_view> &operands) {
    bool stores = operands.size() == 2 && operands[0].front() == '[';
    made.kind = stores ? Instruction::Store : Instruction::Load;
    if (operands.size() != 2)
      return false;
    std::string_view address = operands[stores ? 0 : 1],
                     values = operands[stores ? 1 : 0];
    if (address.front() != '[' || address.back() != ']')
      return false;
    address = address.substr(1, address.size() - 2);

    if (consume(mnemonic, "param")) {
      made.kind = Instruction::Parameter;
      std::string prefix = kernel->name + "_param_";
      return mnemonic == ".u64" && !stores && consume(address, prefix) &&
             parseNumber(address, made.offset) &&
             made.offset < kernel->parameters &&
             assign(made, {values}, {}, {}, Width::Double);
    }
    if (consume(mnemonic, "shared"))
      made.space = Instruction::Shared;
    else if (consume(mnemonic, "global.nc"))
      made.space = Instruction::ReadOnly;
    else if (!consume(mnemonic, "global"))
      return false;
    made.count = consume(mnemonic, ".v2")   ? 2
                 : consume(mnemonic, ".v4") ? 4
                                            : 1;
    bool isDouble = mnemonic == ".u64" || mnemonic == ".b64";
    if (!isDouble && mnemonic != ".f32" && mnemonic != ".u32" &&
        mnemonic != ".b32")
      return false;
    Width width = isDouble ? Width::Double : Width::Word;
    made.bytes = uint32_t(width);

    size_t plus = address.find('+');
    if (plus != std::string_view::npos &&
        !parseNumber(address.substr(plus + 1), made.offset))
      return false;
    auto at = operand(address.substr(0, plus), Width::Double);
    if (!at)
      return false;
    made.sources[0] = *at;

    if (values.front() == '{')
      values = values.substr(1, values.size() - 2);
    std::vector<std::string_view> parts = splitOperands(values);
    if (parts.size() != made.count)
      return false;
    for (size_t i = 0; i < parts.size(); ++i) {
      auto value =
          stores ? operand(parts[i], width) : registerAt(parts[i], width);
      if (!value)
        return false;
      made.targets[i] = *value;
    }
    return true;
  }
};

std::unique_ptr<Module> Module::parse(const std::string &text,
                                      std::string &error) {
  auto module = std::make_unique<Module>();
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find_first_of(std::string("\n\0", 2), begin);
    end = std::min(end, text.size());
    module->lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return Parser(*module, error).run() ? std::move(module) : nullptr;
}

const Kernel *Module::find(const std::string &name) const {
  auto found = kernels.find(name);
  return found == kernels.end() ? nullptr : &found->second;
}

std::string_view Module::line(uint32_t number) const {
  return trim(lines.at(number - 1));
}

} // namespace lmc::ptx
