#include "worker/options.hpp"

#include <cstdlib>
#include <functional>
#include <map>
#include <sstream>
#include <stdexcept>

namespace carrel::worker {

namespace {

template <class T, class Parse>
T number(const std::string& name, const std::string& value, Parse parse) {
    size_t used = 0;
    T result{};
    try {
        result = static_cast<T>(parse(value, &used));
    } catch (const std::logic_error&) {
        used = 0;
    }
    if (used != value.size() || value.empty()) {
        throw std::invalid_argument("carrel-worker: " + name + " wants a number, not '" + value +
                                    "'");
    }
    return result;
}

}  // namespace

Options Options::parse(int argc, char** argv) {
    Options o;
    const auto integer = [](const std::string& v, size_t* used) { return std::stoll(v, used); };
    const auto real = [](const std::string& v, size_t* used) { return std::stod(v, used); };
    const std::map<std::string, std::function<void(const std::string&, const std::string&)>> known =
        {
            {"--client-fd", [&](auto& n, auto& v) { o.client_fd = number<int>(n, v, integer); }},
            {"--transport", [&](auto&, auto& v) { o.transport = v; }},
            {"--grace-s", [&](auto& n, auto& v) { o.grace_s = number<double>(n, v, real); }},
            {"--tls-key-fd", [&](auto& n, auto& v) { o.tls_key_fd = number<int>(n, v, integer); }},
            {"--control-fd", [&](auto& n, auto& v) { o.control_fd = number<int>(n, v, integer); }},
            {"--ledger-fd", [&](auto& n, auto& v) { o.ledger_fd = number<int>(n, v, integer); }},
            {"--ledger-slot",
             [&](auto& n, auto& v) { o.ledger_slot = number<unsigned>(n, v, integer); }},
            {"--driver", [&](auto&, auto& v) { o.driver = v; }},
            {"--device", [&](auto& n, auto& v) { o.device = number<int>(n, v, integer); }},
            {"--vram-bytes",
             [&](auto& n, auto& v) { o.vram_bytes = number<uint64_t>(n, v, integer); }},
            {"--tflops", [&](auto& n, auto& v) { o.tflops = number<double>(n, v, real); }},
            {"--library-path", [&](auto&, auto& v) { o.library_path.push_back(v); }},
            {"--image-store", [&](auto&, auto& v) { o.image_store = v; }},
            {"--session", [&](auto&, auto& v) { o.session = v; }},
            {"--lease", [&](auto&, auto& v) { o.lease = v; }},
    };
    if (const char* const folders = std::getenv("CARREL_LIBRARY_PATH")) {
        std::istringstream all(folders);
        for (std::string folder; std::getline(all, folder, ':');)
            if (!folder.empty()) o.library_path.push_back(folder);
    }
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        if (name == "--describe") {
            o.describe = true;
            continue;
        }
        const auto option = known.find(name);
        if (option == known.end()) {
            throw std::invalid_argument("carrel-worker: unknown option " + name);
        }
        if (++i == argc) throw std::invalid_argument("carrel-worker: " + name + " wants a value");
        option->second(name, argv[i]);
    }
    if (!o.describe) {
        if (o.client_fd < 0) throw std::invalid_argument("carrel-worker: --client-fd is missing");
        if (o.vram_bytes == 0)
            throw std::invalid_argument("carrel-worker: --vram-bytes is missing");
        if (o.ledger_slot >= 256) {
            throw std::invalid_argument("carrel-worker: --ledger-slot must be 0 to 255");
        }
    }
    return o;
}

}  // namespace carrel::worker
