// Flags without their value, as an unset variable of a shell leaves them:
// `--mesh= -o x`, of which CLI11 would take the next word for the value, and
// `--weights ""`, which would be as if it were not there.
#ifndef LMC_TOOLS_EMPTYFLAGS_H
#define LMC_TOOLS_EMPTYFLAGS_H

#include <string>

namespace lmc {

/// The first of them, "--mesh=" or "--weights"; empty if there is none.
inline std::string emptyFlag(int argc, char **argv) {
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--")
      break;
    if (word.size() > 3 && word.rfind("--", 0) == 0 &&
        word.find('=') == word.size() - 1)
      return word;
    bool isFlag = word.rfind("-", 0) == 0 && word.find('=') == word.npos;
    bool mayBeEmpty = word == "--prompt"; // a text
    if (isFlag && !mayBeEmpty && i + 1 < argc && argv[i + 1][0] == '\0')
      return word;
  }
  return "";
}

} // namespace lmc

#endif // LMC_TOOLS_EMPTYFLAGS_H
