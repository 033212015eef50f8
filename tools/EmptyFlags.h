// Flags without their value, as an unset variable of a shell leaves them:
// `--mesh= -o x`. CLI11 would take the next word for the value.
#ifndef LMC_TOOLS_EMPTYFLAGS_H
#define LMC_TOOLS_EMPTYFLAGS_H

#include <string>

namespace lmc {

/// The first of them, "--mesh="; empty if there is none.
inline std::string emptyFlag(int argc, char **argv) {
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--")
      break;
    if (word.size() > 3 && word.rfind("--", 0) == 0 &&
        word.find('=') == word.size() - 1)
      return word;
  }
  return "";
}

} // namespace lmc

#endif // LMC_TOOLS_EMPTYFLAGS_H
