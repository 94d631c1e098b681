#include "softgpu/ptx/types.hpp"

#include <array>

namespace carrel::softgpu::ptx {
namespace {

struct Entry {
    std::string_view name;
    Type type;
    unsigned size;
};

constexpr std::array kTypes{
    Entry{"none", Type::none, 0},     Entry{"pred", Type::pred, 0},
    Entry{"b8", Type::b8, 1},         Entry{"b16", Type::b16, 2},
    Entry{"b32", Type::b32, 4},       Entry{"b64", Type::b64, 8},
    Entry{"b128", Type::b128, 16},    Entry{"u8", Type::u8, 1},
    Entry{"u16", Type::u16, 2},       Entry{"u32", Type::u32, 4},
    Entry{"u64", Type::u64, 8},       Entry{"s8", Type::s8, 1},
    Entry{"s16", Type::s16, 2},       Entry{"s32", Type::s32, 4},
    Entry{"s64", Type::s64, 8},       Entry{"f16", Type::f16, 2},
    Entry{"f16x2", Type::f16x2, 4},   Entry{"bf16", Type::bf16, 2},
    Entry{"bf16x2", Type::bf16x2, 4}, Entry{"tf32", Type::tf32, 4},
    Entry{"f32", Type::f32, 4},       Entry{"f64", Type::f64, 8},
    Entry{"e4m3x2", Type::e4m3x2, 2}, Entry{"e5m2x2", Type::e5m2x2, 2},
    Entry{"u16x2", Type::u16x2, 4},   Entry{"s16x2", Type::s16x2, 4},
    Entry{"f32x2", Type::f32x2, 8},
};

constexpr bool indexed_by_type() {
    for (std::size_t i = 0; i < kTypes.size(); ++i)
        if (static_cast<std::size_t>(kTypes[i].type) != i) return false;
    return true;
}
static_assert(indexed_by_type());

}  // namespace

std::optional<Type> type_named(std::string_view name) {
    for (const Entry& entry : kTypes)
        if (entry.name == name && entry.type != Type::none) return entry.type;
    return std::nullopt;
}

std::string_view name_of(Type type) {
    return kTypes[static_cast<std::size_t>(type)].name;
}

unsigned size_of(Type type) {
    return kTypes[static_cast<std::size_t>(type)].size;
}

}  // namespace carrel::softgpu::ptx
