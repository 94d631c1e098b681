#include "worker/libraries/loaded.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>

#include "wire/log.hpp"

namespace carrel::worker {

namespace {

std::string host_name() {
    char name[HOST_NAME_MAX + 1] = {};
    gethostname(name, sizeof name - 1);
    return name;
}

}  // namespace

LoadedLibrary::LoadedLibrary(const library::LibraryRow& row, uint32_t major,
                             const std::vector<std::string>& folders)
    : row_(row), functions_(row.count) {
    const std::string soname = row.soname(major);
    void* handle = nullptr;
    std::string why;
    for (const std::string& folder : folders) {
        const std::string path = folder + "/" + soname;
        if (access(path.c_str(), F_OK) != 0) continue;
        handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!handle) why = dlerror();
        break;
    }
    if (!handle && why.empty()) {
        handle = dlopen(soname.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!handle) why = dlerror();
    }
    if (!handle) {
        trouble_ = "the GPU host " + host_name() + " cannot load " + soname + ": " + why;
        CARREL_WARNING("%s", trouble_.c_str());
        return;
    }
    for (uint16_t i = 0; i < row.count; ++i) {
        if (row.functions[i].flags & library::kForwarded)
            functions_[i] = dlsym(handle, row.functions[i].name);
    }
}

}  // namespace carrel::worker
