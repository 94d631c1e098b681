// Finds libcuda.so.1 and what it offers.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "forwarders/forward.hpp"
#include "wire/log.hpp"

namespace carrel::forwarders {

namespace {

const carrel_bridge* find() {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) {
        CARREL_WARNING("libcuda.so.1 cannot be loaded: %s", dlerror());
        return nullptr;
    }
    const auto get = reinterpret_cast<carrel_bridge_get_t>(dlsym(driver, "carrel_bridge_get"));
    const carrel_bridge* found = get ? get(CARREL_BRIDGE_VERSION) : nullptr;
    if (!found) {
        CARREL_WARNING(
            "this process has loaded another libcuda.so.1 than Carrel's: start it with carrel-run, "
            "or in a slice");
    }
    return found;
}

}  // namespace

const carrel_bridge* bridge() {
    static const carrel_bridge* const found = find();
    return found;
}

uint64_t unsupported(const char* function, std::atomic<bool>& told, int64_t result) {
    if (!told.exchange(true, std::memory_order_relaxed)) {
        CARREL_WARNING("%s is not supported", function);
    }
    return static_cast<uint64_t>(result);
}

}  // namespace carrel::forwarders
