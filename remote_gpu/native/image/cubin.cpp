#include "image/cubin.hpp"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string_view>

namespace carrel::image {

namespace {

struct Malformed {};

void require(bool condition) {
    if (!condition) throw Malformed{};
}

constexpr uint8_t kEntryPoint = 0x10;       // in st_other of a kernel's symbol
constexpr size_t kLongestName = 1 << 15;    // bytes; names may overlap, and are copied
constexpr uint64_t kSystemShared = 1024;    // bytes of a block's shared memory
constexpr uint32_t kMostParameters = 4096;  // of a kernel: all of them together are 32764 bytes

// Records of .nv.info sections: u8 form, u8 attribute, and a u16 that is the value, or in the last
// form the number of bytes that follow.
enum Form : uint8_t { kSized = 4 };
enum Attribute : uint8_t {
    kMaxThreads = 0x05,  // u32 x, y, z
    kReqThreads = 0x10,  // u32 x, y, z
    kParameter = 0x17,   // u32 index, u16 ordinal, u16 offset, u32 whose bits from 18 are its size
    kParameterBytes = 0x19,  // the value
    kRegisters = 0x2f,       // u32 symbol, u32 count
    kWideParameter = 0x45,  // as 0x17, but its size is the low u16: of kernels that take over 4 KiB
};

using View = std::span<const std::byte>;

template <class T>
T load(View data, uint64_t offset) {
    require(offset <= data.size() && sizeof(T) <= data.size() - offset);
    T value;
    std::memcpy(&value, data.data() + offset, sizeof value);
    return value;
}

View part(View data, uint64_t offset, uint64_t size) {
    require(offset <= data.size() && size <= data.size() - offset);
    return data.subspan(offset, size);
}

std::string_view name_in(View strings, uint64_t offset) {
    require(offset < strings.size());
    const auto* const start = reinterpret_cast<const char*>(strings.data()) + offset;
    const size_t room = std::min(strings.size() - offset, kLongestName);
    const size_t length = ::strnlen(start, room);
    require(length < room);
    return {start, length};
}

template <class Visit>
void each_record(View info, Visit visit) {
    for (size_t at = 0; at < info.size();) {
        const auto form = load<uint8_t>(info, at);
        const auto attribute = load<uint8_t>(info, at + 1);
        const auto value = load<uint16_t>(info, at + 2);
        at += 4;
        const View payload = part(info, at, form == kSized ? value : 0);
        at += payload.size();
        visit(attribute, value, payload);
    }
}

class File {
  public:
    explicit File(View data) : data_(data), budget_(data.size()) {
        const auto header = load<Elf64_Ehdr>(data, 0);
        require(std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0);
        require(header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_ident[EI_DATA] == ELFDATA2LSB);
        require(header.e_machine == EM_CUDA && header.e_shentsize == sizeof(Elf64_Shdr));
        // More sections or a later name table than the header has room for are in section 0.
        const auto first = load<Elf64_Shdr>(data, header.e_shoff);
        const uint64_t count = header.e_shnum ? header.e_shnum : first.sh_size;
        require(count <= data.size() / sizeof(Elf64_Shdr));
        const View table = part(data, header.e_shoff, count * sizeof(Elf64_Shdr));
        sections_.resize(count);
        std::memcpy(sections_.data(), table.data(), table.size());
        names_ = header.e_shstrndx == SHN_XINDEX ? first.sh_link : header.e_shstrndx;
        require(names_ < count);
    }

    const std::vector<Elf64_Shdr>& sections() const { return sections_; }
    std::string_view name(const Elf64_Shdr& section) const {
        return name_in(content(sections_[names_]), section.sh_name);
    }
    View content(const Elf64_Shdr& section) const {
        if (section.sh_type == SHT_NOBITS) return {};
        return part(data_, section.sh_offset, section.sh_size);
    }
    // Content that is about to be read from end to end. A real file's sections do not overlap: one
    // that makes us read it over and over is refused.
    View spend(const Elf64_Shdr& section) {
        const View out = content(section);
        require(out.size() <= budget_);
        budget_ -= out.size();
        return out;
    }

  private:
    View data_;
    size_t budget_;
    std::vector<Elf64_Shdr> sections_;
    size_t names_ = 0;
};

class Reader {
  public:
    explicit Reader(View data) : file_(data) {}

    Cubin read() {
        name_sections();
        for (const auto& section : file_.sections()) {
            if (section.sh_type == SHT_SYMTAB) read_symbols(section);
        }
        if (const auto* info = find(".nv.info")) read_registers(file_.spend(*info));
        for (auto& [name, kernel] : kernels_) {
            if (const auto* info = find(".nv.info." + name)) read_info(file_.spend(*info), kernel);
            if (const auto* shared = find(".nv.shared." + name)) {
                // From compute capability 9.0 the system's part is counted in.
                const uint64_t system = find(".nv.shared.reserved.0") ? kSystemShared : 0;
                kernel.shared_bytes = shared->sh_size - std::min(shared->sh_size, system);
            }
            kernel.name = name;
            out_.kernels.push_back(std::move(kernel));
        }
        return std::move(out_);
    }

  private:
    void name_sections() {
        for (const auto& section : file_.sections()) {
            const std::string_view name = file_.name(section);
            if (name.starts_with(".nv.info") || name.starts_with(".nv.shared.")) {
                require(by_name_.emplace(name, &section).second);
            }
        }
    }

    const Elf64_Shdr* find(const std::string& name) const {
        const auto found = by_name_.find(name);
        return found == by_name_.end() ? nullptr : found->second;
    }

    void read_symbols(const Elf64_Shdr& section) {
        require(section.sh_link < file_.sections().size());
        const View strings = file_.content(file_.sections()[section.sh_link]);
        const View table = file_.spend(section);
        for (uint64_t at = 0; at + sizeof(Elf64_Sym) <= table.size(); at += sizeof(Elf64_Sym)) {
            const auto symbol = load<Elf64_Sym>(table, at);
            const unsigned type = ELF64_ST_TYPE(symbol.st_info);
            const bool defined =
                symbol.st_shndx != SHN_UNDEF && symbol.st_shndx < file_.sections().size();
            std::string name;
            if (defined && type == STT_FUNC && symbol.st_other & kEntryPoint) {
                name = name_in(strings, symbol.st_name);
                require(kernels_.try_emplace(name).second);
            } else if (defined && type == STT_OBJECT) {
                add_variable(std::string(name_in(strings, symbol.st_name)), symbol);
            }
            symbols_.push_back(std::move(name));
        }
    }

    void add_variable(std::string name, const Elf64_Sym& symbol) {
        const Elf64_Shdr& section = file_.sections()[symbol.st_shndx];
        const std::string_view place = file_.name(section);
        const bool constant = place == ".nv.constant3";
        if (!constant && place != ".nv.global" && place != ".nv.global.init") return;
        const bool zeros = section.sh_type == SHT_NOBITS;
        out_.variables.push_back(
            {.name = std::move(name),
             .size = symbol.st_size,
             .constant = constant,
             .initial =
                 zeros ? View{} : part(file_.content(section), symbol.st_value, symbol.st_size)});
    }

    void read_registers(View info) {
        each_record(info, [&](uint8_t attribute, uint16_t, View payload) {
            if (attribute != kRegisters) return;
            const auto symbol = load<uint32_t>(payload, 0);
            require(symbol < symbols_.size());
            const auto found = kernels_.find(symbols_[symbol]);
            if (found != kernels_.end()) found->second.registers = load<uint32_t>(payload, 4);
        });
    }

    static void read_info(View info, CubinKernel& kernel) {
        std::map<uint16_t, CubinParameter> parameters;
        each_record(info, [&](uint8_t attribute, uint16_t value, View payload) {
            switch (attribute) {
                case kParameter:
                case kWideParameter: {
                    const auto size = load<uint32_t>(payload, 8);
                    const CubinParameter one{load<uint16_t>(payload, 6),
                                             attribute == kParameter ? size >> 18 : size & 0xFFFF};
                    require(parameters.emplace(load<uint16_t>(payload, 4), one).second);
                    break;
                }
                case kParameterBytes:
                    kernel.parameter_bytes = value;
                    break;
                case kMaxThreads:
                case kReqThreads: {
                    uint64_t threads = 1;
                    for (const unsigned at : {0, 4, 8}) {
                        threads *= load<uint32_t>(payload, at);
                        require(threads <= UINT32_MAX);
                    }
                    kernel.most_threads = static_cast<uint32_t>(threads);
                    break;
                }
                default:
                    break;
            }
        });
        require(parameters.size() <= kMostParameters);
        for (const auto& [ordinal, parameter] : parameters) {
            require(ordinal == kernel.parameters.size());
            require(uint64_t{parameter.offset} + parameter.size <= kernel.parameter_bytes);
            kernel.parameters.push_back(parameter);
        }
    }

    File file_;
    std::map<std::string, const Elf64_Shdr*, std::less<>> by_name_;
    std::map<std::string, CubinKernel> kernels_;
    std::vector<std::string> symbols_;  // names of those that are kernels
    Cubin out_;
};

}  // namespace

std::optional<Cubin> read_cubin(std::span<const std::byte> cubin) {
    try {
        return Reader(cubin).read();
    } catch (const Malformed&) {
        return std::nullopt;
    }
}

}  // namespace carrel::image
