// CUPTI is not available on a slice; what its statuses mean can be told all the same.
#include <cstdint>

#define CARREL_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

const char* name_of(uint32_t result) {
    switch (result) {
#include "names_cupti.inc"
        default:
            return nullptr;
    }
}

constexpr uint32_t kInvalidParameter = 1;

uint32_t tell(uint32_t result, const char** text) {
    if (!text) return kInvalidParameter;
    *text = name_of(result);
    return *text ? 0 : kInvalidParameter;
}

}  // namespace

CARREL_EXPORT uint32_t cuptiGetResultString(uint32_t result, const char** text) {
    return tell(result, text);
}

CARREL_EXPORT uint32_t cuptiGetErrorMessage(uint32_t result, const char** text) {
    return tell(result, text);
}
