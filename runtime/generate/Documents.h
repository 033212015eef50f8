// The documents of a text file: all of it, its lines, or the records of JSON
// lines, of each of which one key holds the text.
#ifndef LMC_RUNTIME_GENERATE_DOCUMENTS_H
#define LMC_RUNTIME_GENERATE_DOCUMENTS_H

#include "runtime/base/Status.h"

#include <functional>

namespace lmc::runtime {

enum class DocumentFormat {
  Text,      ///< the file is one document
  Lines,     ///< each line is one, without its line end; empty ones are not
  JsonLines, ///< each line is an object; blank ones are skipped
};

/// Calls `document` for each in order, up to its first failure. Corrupt for a
/// line that is no JSON, WrongInput for one without the key; both name the
/// line. Of JSON the bytes are UTF-8, otherwise they are what the file has.
Status
forEachDocument(const std::string &path, DocumentFormat format,
                const std::string &key,
                const std::function<Status(std::string_view text)> &document);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_DOCUMENTS_H
