#include "client/image.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "image/elf.hpp"
#include "image/fatbin.hpp"

namespace carrel::client {

namespace {

constexpr size_t kMaxImage = size_t{1} << 30;

std::mutex mutex;
std::map<const void*, size_t> known;

}  // namespace

Image measure_image(const void* data) {
    if (!data) return {};
    {
        const std::lock_guard lock(mutex);
        if (const auto found = known.find(data); found != known.end()) return {data, found->second};
    }
    const auto* bytes = static_cast<const unsigned char*>(data);
    if (!bytes[0]) return {};
    if (image::is_elf(data)) return {data, image::elf_size(data)};
    if (const auto fatbin = image::fatbin_at(data)) return {fatbin->data(), fatbin->size()};
    return {data, strnlen(static_cast<const char*>(data), kMaxImage) + 1};
}

std::vector<std::byte> only_fitting(const Image& image, unsigned major, unsigned minor) {
    const auto fatbin = image::fatbin_in({static_cast<const std::byte*>(image.data), image.size});
    if (!fatbin) return {};
    return image::only_for(*fatbin, {major, minor}).value_or(std::vector<std::byte>{});
}

void remember_image(const void* data, size_t size) {
    const std::lock_guard lock(mutex);
    known[data] = size;
}

void forget_image(const void* data) {
    const std::lock_guard lock(mutex);
    known.erase(data);
}

}  // namespace carrel::client
