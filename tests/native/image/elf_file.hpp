// Cubins made byte by byte: the ELF container and the records about kernels, without any code.
#pragma once
#include <elf.h>

#include <cstdint>
#include <string>
#include <vector>

#include "image/containers.hpp"

namespace carrel::test {

template <class T>
std::string raw(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof value};
}

// Records of .nv.info sections.
inline std::string sized(uint8_t attribute, const std::string& payload) {
    return raw<uint8_t>(4) + raw(attribute) + raw(static_cast<uint16_t>(payload.size())) + payload;
}
inline std::string short_value(uint8_t attribute, uint16_t value) {
    return raw<uint8_t>(3) + raw(attribute) + raw(value);
}
inline std::string parameter(uint16_t ordinal, uint16_t offset, uint32_t size) {
    return sized(0x17, raw<uint32_t>(0) + raw(ordinal) + raw(offset) + raw(size << 18 | 0x1f000));
}
inline std::string wide_parameter(uint16_t ordinal, uint16_t offset, uint32_t size) {
    return sized(0x45, raw<uint32_t>(0) + raw(ordinal) + raw(offset) + raw(size | 0x05000000));
}
inline std::string registers(uint32_t symbol, uint32_t count) {
    return sized(0x2f, raw(symbol) + raw(count));
}

class ElfFile {
  public:
    ElfFile() { add("", SHT_NULL, ""); }

    unsigned add(const std::string& name, uint32_t type, const std::string& content,
                 uint64_t size_without_content = 0) {
        Elf64_Shdr header{};
        header.sh_name = static_cast<uint32_t>(section_names_.size());
        section_names_ += name + '\0';
        header.sh_type = type;
        header.sh_offset = sizeof(Elf64_Ehdr) + body_.size();
        header.sh_size = size_without_content ? size_without_content : content.size();
        body_ += content;
        sections_.push_back(header);
        return static_cast<unsigned>(sections_.size() - 1);
    }

    // Its number in the symbol table.
    uint32_t symbol(const std::string& name, unsigned type, unsigned section, uint64_t value,
                    uint64_t size, uint8_t other = 0) {
        Elf64_Sym symbol{};
        symbol.st_name = static_cast<uint32_t>(symbol_names_.size());
        symbol_names_ += name + '\0';
        symbol.st_info = static_cast<unsigned char>(ELF64_ST_INFO(STB_GLOBAL, type));
        symbol.st_other = other;
        symbol.st_shndx = static_cast<uint16_t>(section);
        symbol.st_value = value;
        symbol.st_size = size;
        symbols_ += raw(symbol);
        return count_++;
    }

    uint32_t kernel(const std::string& name, const std::string& info, uint64_t shared = 0) {
        const unsigned text = add(".text." + name, SHT_PROGBITS, std::string(128, '\0'));
        add(".nv.info." + name, SHT_LOPROC, info);
        if (shared) add(".nv.shared." + name, SHT_NOBITS, "", shared);
        return symbol(name, STT_FUNC, text, 0, 128, 0x10);
    }

    // `many`: says the number of sections and of their names' table as files of very many do.
    std::string finish(bool many = false) {
        const unsigned strings = add(".strtab", SHT_STRTAB, symbol_names_);
        const unsigned table = add(".symtab", SHT_SYMTAB, symbols_);
        sections_[table].sh_link = strings;
        section_names_ += std::string(".shstrtab\0", 10);
        const unsigned names = add("", SHT_STRTAB, section_names_);
        Elf64_Ehdr header{};
        std::memcpy(header.e_ident, ELFMAG, SELFMAG);
        header.e_ident[EI_CLASS] = ELFCLASS64;
        header.e_ident[EI_DATA] = ELFDATA2LSB;
        header.e_machine = EM_CUDA;
        header.e_shentsize = sizeof(Elf64_Shdr);
        header.e_shoff = sizeof header + body_.size();
        header.e_shnum = static_cast<uint16_t>(many ? 0 : sections_.size());
        header.e_shstrndx = static_cast<uint16_t>(many ? SHN_XINDEX : names);
        if (many) {
            sections_[0].sh_size = sections_.size();
            sections_[0].sh_link = names;
        }
        std::string out = raw(header) + body_;
        for (const Elf64_Shdr& section : sections_) out += raw(section);
        return out;
    }

  private:
    std::string body_, section_names_, symbol_names_, symbols_;
    std::vector<Elf64_Shdr> sections_;
    uint32_t count_ = 0;
};

}  // namespace carrel::test
