// A plugin as an lmc of another version would have it: with another stamp, and
// in need of a symbol that there is not.
struct Info {
  const char *stamp;
};

void aSymbolOfAnotherVersion(void);
void (*const needed)(void) = aSymbolOfAnotherVersion;

const struct Info *lmcGetPlugin(void) {
  static const struct Info info = {"lmc-plugin for lmc 0.0.0-other"};
  return &info;
}
