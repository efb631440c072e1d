#include "dynatrain/base/error.hpp"

namespace dynatrain {

void fail_check(const char* condition, const std::string& message, std::source_location where) {
  throw InternalError("internal: " + message + "\n  this should hold and does not: " + condition +
                          " (" + where.file_name() + ":" + std::to_string(where.line()) + ")" +
                          "\n  this is a bug in dynatrain; please report it with this message",
                      where);
}

}  // namespace dynatrain
