#include "softgpu/config.hpp"

#include <algorithm>
#include <charconv>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace carrel::softgpu {
namespace {

constexpr std::string_view kKeys =
    "count, vram, name, sms, cc, threads, watchdog, state, null, model, timing";

[[noreturn]] void refuse(std::string_view key, std::string_view value, std::string_view allowed) {
    throw std::invalid_argument("CARREL_SOFTGPU: " + std::string(key) + "=" + std::string(value) +
                                " is not allowed; expected " + std::string(allowed));
}

std::size_t number(std::string_view key, std::string_view value, std::size_t low,
                   std::size_t high) {
    std::size_t result = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
    if (error != std::errc{} || end != value.data() + value.size() || result < low || result > high)
        refuse(key, value,
               "a whole number from " + std::to_string(low) + " to " + std::to_string(high));
    return result;
}

std::size_t size(std::string_view key, std::string_view value) {
    static constexpr struct {
        std::string_view suffix;
        unsigned shift;
    } kUnits[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"", 0}};
    constexpr std::size_t kLeast = std::size_t{2} << 20;
    constexpr std::size_t kMost = std::size_t{1} << 44;
    const auto& unit =
        *std::ranges::find_if(kUnits, [&](const auto& u) { return value.ends_with(u.suffix); });
    const char* const end = value.data() + value.size() - unit.suffix.size();
    std::size_t count = 0;
    const auto [stop, error] = std::from_chars(value.data(), end, count);
    if (error != std::errc{} || stop != end || count > kMost >> unit.shift ||
        count << unit.shift < kLeast)
        refuse(key, value, "a size from 2MiB to 16384GiB, such as 8GiB");
    return count << unit.shift;
}

void set(Config& config, std::string_view key, std::string_view value) {
    if (key == "count") {
        config.count = static_cast<unsigned>(number(key, value, 1, 16));
    } else if (key == "vram") {
        config.vram_bytes = size(key, value);
    } else if (key == "name") {
        if (value.empty() || value.size() > 200) refuse(key, value, "1 to 200 characters");
        config.name = value;
    } else if (key == "sms") {
        config.multiprocessors = static_cast<unsigned>(number(key, value, 1, 1024));
    } else if (key == "cc") {
        const std::size_t dot = value.find('.');
        if (dot == std::string_view::npos) refuse(key, value, "major.minor, such as 8.0");
        config.cc_major = static_cast<unsigned>(number(key, value.substr(0, dot), 5, 12));
        config.cc_minor = static_cast<unsigned>(number(key, value.substr(dot + 1), 0, 9));
    } else if (key == "threads") {
        config.host_threads = static_cast<unsigned>(number(key, value, 1, 256));
    } else if (key == "watchdog") {
        config.watchdog_seconds = static_cast<unsigned>(number(key, value, 0, 1'000'000));
    } else if (key == "state") {
        config.state = value;
    } else if (key == "timing") {
        if (value != "modelled" && value != "none") refuse(key, value, "modelled or none");
        config.timed = value == "modelled";
    } else if (key != "null" && key != "model") {  // read before all others
        refuse(key, value, "one of " + std::string(kKeys));
    }
}

// What a null device is unless other keys say otherwise.
void set_null(Config& config, std::string_view wanted, std::string_view model) {
    if (wanted.empty() && model.empty()) return;
    if (wanted != "1" && wanted != "0") refuse("null", wanted, "0 or 1; a model needs null=1");
    if (wanted == "0") return;
    config.null = find_model(model.empty() ? "H100" : model);
    if (!config.null) refuse("model", model, "one of " + std::string(model_names()));
    config.name = "Carrel null device (" + std::string(config.null->name) + " model)";
    config.multiprocessors = config.null->multiprocessors;
    config.cc_major = config.null->cc_major;
    config.cc_minor = config.null->cc_minor;
}

}  // namespace

Config parse_config(std::string_view text) {
    Config config;
    std::vector<std::pair<std::string_view, std::string_view>> items;
    std::string_view null, model;
    while (!text.empty()) {
        const std::size_t comma = std::min(text.find(','), text.size());
        const std::string_view item = text.substr(0, comma);
        text.remove_prefix(std::min(comma + 1, text.size()));
        if (item.empty()) continue;
        const std::size_t equals = item.find('=');
        if (equals == std::string_view::npos)
            refuse(item, "", "key=value with a key of " + std::string(kKeys));
        const auto& [key, value] =
            items.emplace_back(item.substr(0, equals), item.substr(equals + 1));
        if (key == "null") null = value;
        if (key == "model") model = value;
    }
    set_null(config, null, model);
    for (const auto& [key, value] : items) set(config, key, value);
    if (config.host_threads == 0)
        config.host_threads =
            std::clamp(std::thread::hardware_concurrency(), 1u, config.multiprocessors);
    return config;
}

}  // namespace carrel::softgpu
